"""Config node → object, after every argument was held against its target's signature.

A config is not a program: only what lies in `TARGETS` can be named.
"""

import inspect
import pydoc
import typing
from collections.abc import Mapping
from typing import Any

TARGETS = ("atomsweep.", "torch.nn.", "torch.optim.")


class UserError(Exception):
    """Something the user can mend: one sentence that says what to do."""


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
    if not name.startswith(TARGETS):
        raise UserError(
            f"{where}._target_ must lie in one of {', '.join(t + '*' for t in TARGETS)}, got {name}"
        )
    target = pydoc.locate(name)
    if not callable(target) or not getattr(target, "__module__", "").startswith(TARGETS):
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


def check_device(name: str, key: str, instead: str) -> None:
    """Refuse a device that torch does not see.

    Args:
        name: of the device.
        key: what the user set it with.
        instead: what to choose where it is not there.

    Raises:
        UserError: names it.
    """
    import torch

    try:
        kind = torch.device(name).type
        there = kind == "cpu" or torch.get_device_module(kind).is_available()
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"{key} must be cpu, cuda, mps or xpu, got {name!r}") from error
    if not there:
        raise UserError(f"{key} is {name}, but torch sees no such device here; choose {instead}")
