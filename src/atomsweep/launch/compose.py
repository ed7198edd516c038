"""A composed config → the cell it stands for: resolved, checked, its data identified. No torch."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from atomsweep.build import UserError, data_source
from atomsweep.console import suggestion
from atomsweep.launch.gpus import visible_gpus
from atomsweep.launch.plan import Cell, check_name
from atomsweep.launch.typed import keys_of, names_of_config, unknown
from atomsweep.sweep.file import key_of
from atomsweep.tracking.identity import measured
from atomsweep.tracking.mlflow.connect import TrackingUnavailable, absolute

LAUNCH = ("hydra", "scale", "plan", "rerun", "search")  # keys of a launch, not of a run
LOCAL = ("parallel", "ranks")  # keys of a cluster that is this machine
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key


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
        config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in LAUNCH]),
            resolve=True,
            throw_on_missing=True,
        )
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
    wrong = {"seed": config["seed"]} if type(config["seed"]) is not int else {}
    if "_target_" not in cluster and (more := sorted(set(cluster) - set(LOCAL))):
        raise UserError(f"cluster has no {more[0]} here; {suggestion(more[0], LOCAL, 'cluster.')}")
    for key in ("ranks", "nodes", "parallel"):
        value = cluster.get(key)
        if value is None and (key == "parallel" or key not in cluster):
            continue
        if type(value) is not int or value < 1:
            wrong[f"cluster.{key}"] = value
    for key, value in wrong.items():
        least = "" if key == "seed" else " of at least 1"
        or_null = " or null" if key == "cluster.parallel" else ""
        raise UserError(f"{key} must be a whole number{least}{or_null}, got {value!r}")


def _choose_device(config: dict[str, Any]) -> None:
    """`auto` is a CUDA device where cells of this launch get one, else the CPU; needs no torch."""
    if config["engine"].get("device") == "auto":
        gpus = config["cluster"].get("gpus", len(visible_gpus()))
        config["engine"]["device"] = "cuda" if gpus else "cpu"


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
