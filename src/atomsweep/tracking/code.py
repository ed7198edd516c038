"""Which code a run was made with: a hash of every module that its config reaches; nothing imported.

A new model beside the old ones, or another choice of activation, leaves finished runs as they are.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from atomsweep.build import plugins

PACKAGE = Path(__file__).resolve().parents[1]
SCIENCE = ("models", "nn", "tasks", "engine", "dens", "data", "graph", "augment")
"""Rooms and modules of the package that decide a result."""
ROOTS = ("experiment",)
"""What every run goes through: the modules of `SCIENCE` that these import are reached always."""


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """File → 12 hex digits of its hash, for the modules of `SCIENCE` that a config reaches.

    Reached are the modules of the `_target_`s and, from there, all that they import, inside
    functions too, with the packages that they lie in and the tables (.csv) that bear a module's
    name. Of a plugin every module counts that is reached. Equal code gives equal results; a comment
    counts as a change.

    Args:
        config: of a run.

    Returns:
        Files relative to the package, those of plugins as `<plugin>:<file>`, sorted.
    """
    wanted = [_module(name) for name in _targets(config)]
    for root in ROOTS:
        wanted += imported_by(root + ".py")
    reached: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path is None or path in reached or not _counts(path):
            continue
        reached.add(path)
        wanted += imported_by(path)
        wanted += _packages_around(path)
    tables = {table for p in reached if hash_of(table := p.removesuffix(".py") + ".csv")}
    return {path: found for path in sorted(reached | tables) if (found := hash_of(path))}


def changed(environment: Mapping[str, Any]) -> list[str]:
    """Files of the code of a run, in any of the processes that worked on it, that differ now.

    Args:
        environment: the run's `environment.json`. One from before code was recorded names none, so
            nothing tells that it was another; nor where its plugin is not named now.
    """
    found = set()
    for code in environment.get("code") or []:
        if isinstance(code, Mapping):  # one hash of everything, as once, tells of no file
            other = {path for path, value in code.items() if value != hash_of(path)}
            found |= {path for path in other if ":" not in path or _place(path)}
    return sorted(found)


@cache
def hash_of(path: str) -> str | None:
    """12 hex digits over a file that `code_of` names; None without the file."""
    place = _place(path)
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()[:12] if place else None
    except OSError:
        return None


@cache
def imported_by(path: str) -> tuple[str | None, ...]:
    """Files that a file imports, of the package and of plugins, wherever the statement stands."""
    place = _place(path)
    if place is None or not place.is_file():
        return ()
    found = []
    for node in ast.walk(ast.parse(place.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = _dotted(path).split(".")[: -node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{start}.{alias.name}" for alias in node.names]
    return tuple(_module(name) for name in found)


def _packages_around(path: str) -> list[str]:
    """The `__init__.py` of every package that a file lies in."""
    plugin, colon, inside = path.rpartition(":")
    folders = [parent.as_posix() for parent in Path(inside).parents]
    return [plugin + colon + (f"{f}/" if f != "." else "") + "__init__.py" for f in folders]


def _counts(path: str) -> bool:
    return ":" in path or path.split("/")[0].removesuffix(".py") in SCIENCE


def _packages() -> dict[str, Path]:
    return {PACKAGE.name: PACKAGE, **plugins()}


def _place(path: str) -> Path | None:
    """Where a file lies that `code_of` names; None where its plugin is not known."""
    plugin, _, inside = path.rpartition(":")
    folder = _packages().get(plugin or PACKAGE.name)
    return folder / inside if folder else None


def _dotted(path: str) -> str:
    """Dotted name of a file; a package's is that of its `__init__`, so that one level is itself."""
    plugin, _, inside = path.rpartition(":")
    return f"{plugin or PACKAGE.name}/{inside.removesuffix('.py')}".replace("/", ".")


def _module(name: str) -> str | None:
    """File of the longest part of a dotted name that is a module or a package we know."""
    top, *parts = name.split(".")
    folder = _packages().get(top)
    if folder is None:
        return None
    prefix = "" if top == PACKAGE.name else f"{top}:"
    for length in range(len(parts), -1, -1):
        stem = "/".join(parts[:length])
        for path in (f"{stem}.py" if stem else "", f"{stem}/__init__.py".lstrip("/")):
            if path and (folder / path).is_file():
                return prefix + path
    return None


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)
