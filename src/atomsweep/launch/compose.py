"""A composed config → the cell it stands for: resolved, checked, its data identified. No torch."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from atomsweep.build import UserError, data_source
from atomsweep.console import suggestion
from atomsweep.launch.gpus import visible_gpus
from atomsweep.launch.plan import Cell, check_name
from atomsweep.launch.typed import CONFIG, keys_of, names_of_config, unknown, vocabulary
from atomsweep.stated import stated
from atomsweep.sweep.file import key_of
from atomsweep.tracking.identity import measured
from atomsweep.tracking.mlflow.connect import TrackingUnavailable, absolute

LAUNCH = ("hydra", "scale", "plan", "rerun", "search")  # keys of a launch, not of a run
LOCAL = ("parallel", "ranks")  # keys of a cluster that is this machine
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key


class Composer:
    """Composes configs that share their choices once, and sets the values of each on a copy.

    Hydra does the same two steps for each config anew, and the first takes nearly all of its time.

    Args:
        compose: Hydra, from overrides to a config with its `hydra` node.
        groups: names of config groups.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig], groups: Collection[str]) -> None:
        self._compose, self._groups = compose, groups
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The config of some overrides, without its `hydra` node, and the choice of each group.

        Raises:
            HydraException: an override that nothing answers.
        """
        chosen = tuple(o for o in overrides if self._is_choice(o))
        if chosen not in self._composed:
            whole = self._compose(list(chosen))
            config = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
            OmegaConf.set_struct(config, True)
            self._composed[chosen] = config, dict(whole.hydra.runtime.choices)
        composed, choices = self._composed[chosen]
        config = deepcopy(composed)
        values = [o for o in overrides if not self._is_choice(o)]
        parsed = OverridesParser.create().parse_overrides(values)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        return config, choices

    def _is_choice(self, override: str) -> bool:
        key = key_of(override)
        return key in self._groups or key.partition(".")[0] == "hydra" or override[0] == "~"


def composed_cells() -> Callable[..., Cell]:
    """What makes a cell of overrides, and perhaps of `axes`, as a command would."""
    known = vocabulary()
    loader = known.loader()
    composer = Composer(
        lambda overrides: loader.load_configuration(CONFIG, overrides, RunMode.RUN), known.groups
    )

    def cell(overrides: list[str], axes: Iterable[str] = ()) -> Cell:
        config, choices = composer(overrides)
        return cell_of(config, choices, overrides, axes=axes)

    return cell


def identities() -> Callable[[list[str], Iterable[str]], Sequence[str]]:
    """What tells all identities that a run of some overrides may have in a sweep over some axes."""
    cell = composed_cells()

    def of(overrides: list[str], axes: Iterable[str]) -> Sequence[str]:
        try:
            return cell(overrides, axes).known_as
        except (HydraException, UserError):  # it can be no run here
            return ()

    return of


def cell_of(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    label: str | None = None,
    axes: Iterable[str] = (),
) -> Cell:
    """The cell that a composed config stands for. Needs no torch and touches no data.

    Raises:
        UserError: a choice that the model cannot use, a missing value, a data set not found.
    """
    _check_names(cfg, choices)
    chosen = {group: str(option) for group, option in choices.items() if "/" not in group}
    chosen = {group: option for group, option in chosen.items() if option != "None"}
    try:
        config = {str(key): _plain(cfg, str(key)) for key in cfg if key not in LAUNCH}
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given; type {error.full_key}=<value>") from error
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {_first_line(error)}") from error
    config["size"] = {}  # what it chose stands in the model
    _check_numbers(config)
    _check_tracking(config["tracking"])
    if config["sweep"] is not None:
        check_name(str(config["sweep"]))
    _check_axes(config, chosen, {key_of(override).partition(".")[0] for override in overrides})
    _choose_device(config)
    _ask_for_energy(config)
    _ask_for_denoising(config)
    source = data_source(config)
    try:
        data = {
            "name": chosen.get("data", source.name),
            "fingerprint": source.fingerprint(),
            "provenance": source.provenance.as_dict(),
        }
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return Cell(config, chosen, tuple(overrides), data, label, measured(config, axes))


def _check_axes(config: dict[str, Any], chosen: dict[str, str], typed: Collection[str]) -> None:
    """A basis or activation that the model does not take is refused, or `none` if nobody asked."""
    for axis in AXES:
        if axis in config["model"] or chosen.get(axis, "none") == "none":
            continue
        if axis in typed:
            raise UserError(
                f"model={chosen['model']} has no {axis}, so {axis}={chosen[axis]} would change "
                f"nothing; leave {axis} out or choose {axis}=none"
            )
        config[axis], chosen[axis] = None, "none"


def _plain(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)


def _check_names(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """What no run reads, with or without a plus, would make another run of the same."""
    known = {*names_of_config(), *(group.partition("/")[0] for group in choices), "hydra"}
    if more := sorted({str(key) for key in cfg} - known):
        keys = keys_of(OmegaConf.to_container(OmegaConf.masked_copy(cfg, sorted(known & set(cfg)))))
        raise UserError(f"no run reads {more[0]}: {unknown(more[0], keys)}")


def _check_tracking(tracking: Any) -> None:
    """In time: the mirror asks when data are made."""
    if tracking is None:
        return
    kinds = {"uri": str, "experiment": str, "every_s": int | float}
    if more := sorted(set(tracking) - set(kinds)):
        raise UserError(f"tracking has no {more[0]}; {suggestion(more[0], kinds, 'tracking.')}")
    for key, kind in kinds.items():
        value = tracking.get(key)
        wrong = not isinstance(value, kind) or isinstance(value, bool) or not value
        if wrong or (key == "every_s" and not 0 < value < math.inf):
            what = "a number of seconds above 0" if key == "every_s" else "a text"
            raise UserError(f"tracking.{key} must be {what}, got {value!r}")
    try:
        absolute(tracking["uri"])
    except TrackingUnavailable as error:
        raise UserError(str(error)) from error


def _check_numbers(config: Mapping[str, Any]) -> None:
    """What no signature checks, in time: cells that differ by seed alone are built once."""
    cluster = config["cluster"]
    seed = config["seed"]
    wrong = {"seed": seed} if type(seed) is not int or seed < 0 else {}
    if "_target_" not in cluster and (more := sorted(set(cluster) - set(LOCAL))):
        raise UserError(f"cluster has no {more[0]} here; {suggestion(more[0], LOCAL, 'cluster.')}")
    for key in ("ranks", "nodes", "parallel"):
        value = cluster.get(key)
        if value is None and (key == "parallel" or key not in cluster):
            continue
        if type(value) is not int or value < 1:
            wrong[f"cluster.{key}"] = value
    for key, value in wrong.items():
        least = f" of at least {0 if key == 'seed' else 1}"
        or_null = " or null" if key == "cluster.parallel" else ""
        raise UserError(f"{key} must be a whole number{least}{or_null}, got {value!r}")


def _choose_device(config: dict[str, Any]) -> None:
    """`auto` is a CUDA device where cells of this launch get one, else the CPU; needs no torch."""
    if config["engine"].get("device") == "auto":
        gpus = config["cluster"].get("gpus", len(visible_gpus()))
        config["engine"]["device"] = "cuda" if gpus else "cpu"


def _ask_for_energy(config: dict[str, Any]) -> None:
    """A task of energies sets the switch of a model that is built with or without a head for it."""
    model, labels = config["model"], stated(config["task"], "labels") or ()
    if "energy" in labels and model.get("energy_head") is False:
        model["energy_head"] = True


def _ask_for_denoising(config: dict[str, Any]) -> None:
    """`dens=` sets the switches of a model that is built with or without parts for it."""
    dens, model = config.get("dens"), config["model"]
    if dens is None:
        return
    for switch, wanted in (("dens", True), ("sigma_encoding", dens.get("sigma_encoding"))):
        if wanted and switch in model:
            model[switch] = True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
