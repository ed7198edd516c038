"""Config node → object, after every argument was held against its target's signature.

A config is data, never a program: it may come from elsewhere, with a run directory. It can name
parts, which are classes of the rooms in `ROOMS`, activations and optimisers of torch, and classes
of the packages that the user of this process trusts with `ATOMSWEEP_PLUGINS`; nothing else.
"""

import inspect
import os
import pydoc
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from atomsweep.classes import present_path
from atomsweep.console import suggestion

ROOMS = (
    "atomsweep.augment",
    "atomsweep.data.formats",
    "atomsweep.data.generated",
    "atomsweep.dens",
    "atomsweep.engine.optim",
    "atomsweep.engine.trainer",
    "atomsweep.launch.slurm.settings",
    "atomsweep.models",
    "atomsweep.nn",
    "atomsweep.tasks",
)
"""Rooms and files whose classes are parts."""
TORCH = ("torch.nn", "torch.optim")
OURS = ("atomsweep", "torch")
PARTS = (
    "parts are models, layers, tasks, denoising, data sets, recipes, augmentations and clusters of "
    "atomsweep, and activations and optimisers of torch"
)
TARGET, PARTIAL = "_target_", "_partial_"
PLUGINS = "ATOMSWEEP_PLUGINS"  # names of packages, separated by commas


class UserError(Exception):
    """Something the user can mend: one sentence that says what to do."""


def plugins() -> dict[str, Path]:
    """Packages outside this one whose parts may be chosen, with the folder of each.

    Raises:
        UserError: one of them cannot be found.
    """
    found = {}
    for name in filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))):
        spec = find_spec(name) if name.isidentifier() else None
        places = spec.submodule_search_locations if spec is not None else None
        if not places:
            raise UserError(
                f"{PLUGINS} names {name}, which is no package that can be found; install it, or "
                "put the folder that it lies in into PYTHONPATH"
            )
        found[name] = Path(next(iter(places))).absolute()
    return found


def build(node: Any, where: str) -> Any:
    """The object of a config node, after each argument was held against its target's signature.

    Raises:
        UserError: a target that is no part, an unknown or missing argument, a wrong type, another
            key that begins with an underscore, or the target's own refusal.
    """
    node = _plain(node)
    _check(node, where)
    try:
        return _made(node)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    except (RuntimeError, ArithmeticError, LookupError) as error:  # e.g. a negative size
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} cannot be built of these values: {first}") from error


def build_learner(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Model and task of a run's config; the model predicts eV and eV/Å and is what is saved.

    Wherever a checkpoint is read its model must come from here: the task may have parts in it.

    Raises:
        UserError: as `build`; or model, task and denoising do not fit together.
    """
    task, dens = build(config["task"], "task"), build(config.get("dens"), "dens")
    model = build(config["model"], "model")
    try:
        task = task if dens is None else dens.around(task)
        return task.adapt(model), task
    except ValueError as error:
        raise UserError(str(error)) from error


def data_source(config: Mapping[str, Any]) -> Any:
    """The data set of a config.

    Raises:
        UserError: an argument is unknown, of the wrong type, or refused by the data set.
    """
    return build(config["data"], "data")


def _plain(node: Any) -> Any:
    """The same node of dicts and lists, each class where it lies now: a run may be older."""
    if isinstance(node, Mapping):
        plain = {str(key): _plain(value) for key, value in node.items()}
        if isinstance(plain.get(TARGET), str):
            plain[TARGET] = present_path(plain[TARGET])
        return plain
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_plain(value) for value in node]
    return node


def _made(node: Any) -> Any:
    """What a checked node stands for: innermost parts first."""
    if isinstance(node, list):
        return [_made(value) for value in node]
    if not isinstance(node, dict):
        return node
    given = {key: _made(value) for key, value in node.items() if key not in (TARGET, PARTIAL)}
    if TARGET not in node:
        return given
    target: Any = pydoc.locate(node[TARGET])
    return partial(target, **given) if node.get(PARTIAL) else target(**given)


def _check(node: Any, where: str) -> None:
    if isinstance(node, list):
        for place, value in enumerate(node):
            _check(value, f"{where}[{place}]")
    if isinstance(node, float) and not isfinite(node):
        raise UserError(f"{where} must be a finite number, got {node}")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key.startswith("_") and (key not in (TARGET, PARTIAL) or TARGET not in node):
            raise UserError(
                f"{where}.{key} is no key of a config: a part has {TARGET} and {PARTIAL}"
            )
        _check(value, f"{where}.{key}")
    if TARGET in node:
        if not isinstance(node.get(PARTIAL, False), bool):
            raise UserError(f"{where}.{PARTIAL} must be true or false, got {node[PARTIAL]!r}")
        _check_arguments(node, where, _part(node[TARGET], where))


def _part(name: Any, where: str) -> Any:
    """The class that a target names.

    Raises:
        UserError: it is no part, is not there, or cannot be imported.
    """
    trusted = plugins()
    top = str(name).partition(".")[0]
    private = "._" in str(name)
    if not isinstance(name, str) or private or not _lies_in(name, (*ROOMS, *TORCH, *trusted)):
        trust = f"; if you trust it, {PLUGINS}={top} in the environment allows it"
        raise UserError(
            f"{where}.{TARGET} must name a part, got {name}: {PARTS}{'' if top in OURS else trust}"
        )
    try:
        target = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        told = f"{type(error.value).__name__}: {error.value}"
        raise UserError(f"{where}.{TARGET} {name} cannot be imported: {told}") from error.value
    home = str(getattr(target, "__module__", ""))
    if not inspect.isclass(target) or not _lies_in(f"{home}.", (*ROOMS, *TORCH, *trusted)):
        raise UserError(
            f"{where}.{TARGET} {name} does not exist, or is no class that lies there; see the "
            f"options of {where}"
        )
    if _lies_in(f"{home}.", TORCH) and not _is_taken_from_torch(target):
        raise UserError(f"{where}.{TARGET} must name a part, got {name}: {PARTS}")
    return target


def _lies_in(name: str, rooms: Iterable[str]) -> bool:
    return name.startswith(tuple(f"{room}." for room in rooms))


def _is_taken_from_torch(target: type) -> bool:
    """Whether it is an activation or an optimiser; torch, where it is there, is imported by now."""
    bases = {f"{base.__module__}.{base.__qualname__}" for base in target.__mro__[1:]}
    if target.__module__ == "torch.nn.modules.activation":
        return "torch.nn.modules.module.Module" in bases
    return "torch.optim.optimizer.Optimizer" in bases


def _check_arguments(node: Mapping[str, Any], where: str, target: Any) -> None:
    from pydantic import ValidationError

    name = node[TARGET]
    given = {key: value for key, value in node.items() if key not in (TARGET, PARTIAL)}
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if unknown := sorted(set(given) - set(parameters)):
        raise UserError(
            f"{where}.{unknown[0]} is unknown to {name}; "
            f"{suggestion(unknown[0], parameters, f'{where}.')}"
        )
    required = {key for key, p in parameters.items() if p.default is p.empty}
    if not node.get(PARTIAL) and (missing := sorted(required - set(given))):
        raise UserError(f"{where}.{missing[0]} is missing; {name} needs it")
    hints = _hints(target)
    for key, value in given.items():
        if key not in hints or (isinstance(value, Mapping) and TARGET in value):
            continue
        try:
            if (adapter := _adapter(hints[key])) is not None:
                adapter.validate_python(value, strict=True)
        except ValidationError as error:
            expected = inspect.formatannotation(hints[key])
            raise UserError(f"{where}.{key} must be {expected}, got {value!r}") from error


@cache
def _adapter(hint: Any) -> Any:
    """What holds a value against a type; None for a type that it cannot check."""
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return None


@cache
def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except NameError:  # annotations that only a type checker can see
        return {}
