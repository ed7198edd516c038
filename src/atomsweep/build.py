"""Config node → object, after every argument was held against its target's signature.

A config is not a program: only what lies in `TARGETS` can be named, and in the packages that the
user of this process trusts with the environment variable `ATOMSWEEP_PLUGINS`. A config cannot.
"""

import inspect
import os
import pydoc
import typing
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atomsweep.parts import present_path

TARGETS = ("atomsweep.", "torch.nn.", "torch.optim.")
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
    """Instantiate a config node, after each argument was held against its target's signature.

    Raises:
        UserError: unknown target, unknown or missing argument, wrong type, or the target's own
            refusal.
    """
    if node is None:
        return None
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    node = _with_present_paths(node)
    _check(node, where)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise UserError(str(cause)) from error
        raise
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


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


def _with_present_paths(node: Any) -> Any:
    """The same node with each class where it lies now: a run may be older than a move."""
    if isinstance(node, Mapping):
        return {
            key: present_path(value)
            if key == "_target_" and isinstance(value, str)
            else _with_present_paths(value)
            for key, value in node.items()
        }
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_with_present_paths(value) for value in node]
    return node


def _check(node: Any, where: str) -> None:
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_arguments(node, where)
    for key, value in node.items():
        _check(value, f"{where}.{key}")


def _check_arguments(node: Mapping[str, Any], where: str) -> None:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    name = str(node["_target_"])
    allowed = (*TARGETS, *(f"{package}." for package in plugins()))
    if not name.startswith(allowed):
        known = ", ".join(f"{prefix}*" for prefix in allowed)
        raise UserError(
            f"{where}._target_ must lie in one of {known}, got {name}; "
            f"if you trust it, {PLUGINS}={name.partition('.')[0]} in the environment allows it"
        )
    try:
        target = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        told = f"{type(error.value).__name__}: {error.value}"
        raise UserError(f"{where}._target_ {name} cannot be imported: {told}") from error.value
    if not callable(target) or not f"{getattr(target, '__module__', '')}.".startswith(allowed):
        raise UserError(f"{where}._target_ {name} does not exist; see the options of {where}")
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if unknown := sorted(set(given) - set(parameters)):
        raise UserError(
            f"{where}.{unknown[0]} is unknown to {name}; it takes {', '.join(parameters)}"
        )
    required = {key for key, p in parameters.items() if p.default is p.empty}
    if not node.get("_partial_") and (missing := sorted(required - set(given))):
        raise UserError(f"{where}.{missing[0]} is missing; {name} needs it")
    hints = _hints(target)
    for key, value in given.items():
        if key not in hints or (isinstance(value, Mapping) and "_target_" in value):
            continue
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            adapter.validate_python(value, strict=True)
        except PydanticSchemaGenerationError:
            continue
        except ValidationError as error:
            expected = inspect.formatannotation(hints[key])
            raise UserError(f"{where}.{key} must be {expected}, got {value!r}") from error


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except NameError:  # annotations that only a type checker can see
        return {}
