"""A composed config → the cell it stands for: resolved, checked, its data identified. No torch."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig

from atomsweep.build import UserError, data_source
from atomsweep.console import suggestion
from atomsweep.launch.choices import Choices
from atomsweep.launch.composer import LAUNCH, Composer, resolved
from atomsweep.launch.gpus import visible_gpus
from atomsweep.launch.plan import Cell, check_name
from atomsweep.launch.typed import keys_of, names_of_config, unknown, vocabulary
from atomsweep.stated import stated
from atomsweep.sweep.file import key_of
from atomsweep.tracking.identity import measured
from atomsweep.tracking.mlflow.connect import TrackingUnavailable, absolute

LOCAL = ("parallel", "ranks")  # keys of a cluster that is this machine
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key


class Cells:
    """Makes the cells of a launch: what they have in common is looked at once, and kept once."""

    def __init__(self) -> None:
        self._data: dict[str, dict[str, Any]] = {}
        self._same: dict[tuple[str, str], Any] = {}

    def __call__(
        self,
        cfg: DictConfig | Mapping[str, Any],
        choices: Mapping[str, Any],
        overrides: Sequence[str],
        label: str | None = None,
        axes: Iterable[str] = (),
    ) -> Cell:
        """The cell that a config stands for. Needs no torch and touches no data.

        Args:
            cfg: as Hydra composes it, or as a `Composer` resolves it.
            choices: option of each group.
            overrides: what was typed.
            label: what a sweep file calls it.
            axes: keys that the sweep varies.

        Raises:
            UserError: a choice that the model cannot use, a missing value, a data set not found.
        """
        config: dict[str, Any]
        config = (
            resolved(cfg) if isinstance(cfg, DictConfig) else {str(k): v for k, v in cfg.items()}
        )
        _check_names(config, choices)
        own = {group: option for group, option in choices.items() if group not in LAUNCH}
        chosen = {group: str(option) for group, option in own.items() if "/" not in group}
        chosen = {group: option for group, option in chosen.items() if option != "None"}
        config["size"] = {}  # what it chose stands in the model
        _check_numbers(config)
        _check_tracking(config["tracking"])
        if config["sweep"] is not None:
            check_name(str(config["sweep"]))
        _check_axes(config, chosen, {key_of(override).partition(".")[0] for override in overrides})
        _choose_device(config)
        _ask_for_energy(config)
        _ask_for_denoising(config)
        config = {name: self._one(name, part) for name, part in config.items()}
        data = self._described(config, chosen.get("data"))
        chosen = self._one("", chosen)
        return Cell(config, chosen, tuple(overrides), data, label, measured(config, axes))

    def _one(self, name: str, part: Any) -> Any:
        """Of parts that are equal, the first: ten thousand configs are hardly larger than one."""
        return self._same.setdefault((name, repr(part)), part)

    def _described(self, config: Mapping[str, Any], name: str | None) -> dict[str, Any]:
        """Name, fingerprint and provenance of the data set."""
        key = repr((config["data"], name))
        if key not in self._data:
            source = data_source(config)
            try:
                self._data[key] = {
                    "name": source.name if name is None else name,
                    "fingerprint": source.fingerprint(),
                    "provenance": source.provenance.as_dict(),
                }
            except (ValueError, OSError) as error:
                raise UserError(str(error)) from error
        return self._data[key]


def cell_of(
    cfg: DictConfig | Mapping[str, Any],
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    label: str | None = None,
    axes: Iterable[str] = (),
) -> Cell:
    """One cell, as `Cells` makes many."""
    return Cells()(cfg, choices, overrides, label, axes)


def composed_cells() -> Callable[..., Cell]:
    """What makes a cell of overrides, and perhaps of `axes`, as a command would."""
    known = vocabulary()
    composer, cells = Composer(Choices(known.loader()), known.groups), Cells()

    def cell(overrides: list[str], axes: Iterable[str] = ()) -> Cell:
        return cells(*composer(overrides), overrides, axes=axes)

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


def _check_names(config: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """What no run reads, with or without a plus, would make another run of the same."""
    known = {*names_of_config(), *(group.partition("/")[0] for group in choices)}
    if more := sorted(set(config) - known):
        keys = keys_of({name: part for name, part in config.items() if name in known})
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
        config["engine"] = config["engine"] | {"device": "cuda" if gpus else "cpu"}


def _ask_for_energy(config: dict[str, Any]) -> None:
    """A task of energies sets the switch of a model that is built with or without a head for it."""
    model, labels = config["model"], stated(config["task"], "labels") or ()
    if "energy" in labels and model.get("energy_head") is False:
        config["model"] = model | {"energy_head": True}


def _ask_for_denoising(config: dict[str, Any]) -> None:
    """`dens=` sets the switches of a model that is built with or without parts for it."""
    dens, model = config.get("dens"), config["model"]
    if dens is None:
        return
    wanted = {"dens": True, "sigma_encoding": dens.get("sigma_encoding")}
    switches = {switch: True for switch, on in wanted.items() if on and switch in model}
    config["model"] = model | switches
