"""Where in a sweep file something is wrong: line and key of what a checker complains about."""

from collections.abc import Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError


def told(error: ValidationError, node: Any, content: Any, model: type[BaseModel]) -> str:
    """`:line: key: what is wrong` of the first complaint that leads deepest into the file."""
    found = [(*place(node, content, e["loc"]), e) for e in error.errors()]
    line, key, first = max(found, key=lambda f: len(f[1]))
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    name = ".".join(key)
    if kind == "extra_forbidden":
        message = f"unknown; known are {', '.join(_fields(model, first['loc'][:-1]))}"
    elif kind == "missing":
        name, message = ".".join([*key, str(first["loc"][-1])]), "it is missing"
    elif kind != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {first['input']!r}"
    return f":{line}: " + (f"{name}: " if name else "") + message


def _fields(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Keys that the mapping at `loc` may have."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is not None:
            inner = (field.annotation, *get_args(field.annotation))
            models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
            model = next(iter(models), model)
    return list(model.model_fields)


def place(node: Any, content: Any, loc: Sequence[str | int]) -> tuple[int, list[str]]:
    """Line and key that an error's location leads to, as far as the file has it."""
    line, key = node.start_mark.line + 1, []
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            entry = next((e for e in node.value if e[0].value == part), None)
            if entry is None:
                continue  # a branch of a union, not of the file
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            continue
        key.append(str(part))
    return line, key


def doubled(node: Any) -> tuple[int, str] | None:
    """Line and name of a key that a mapping has twice; YAML would take the last in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
            if found := doubled(value):
                return found
    elif isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(doubled, node.value)), None)
    return None
