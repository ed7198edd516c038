"""Which code a run was made with: a hash of every module that its config reaches; nothing imported.

A new model beside the old ones, or another choice of activation, leaves finished runs as they are.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
SCIENCE = ("models", "nn", "tasks", "engine", "dens", "data", "graph", "augment")
"""Rooms and modules of the package that decide a result."""
ROOTS = ("experiment",)
"""What every run goes through: the modules of `SCIENCE` that these import are reached always."""


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """File → 12 hex digits of its hash, for the modules of `SCIENCE` that a config reaches.

    Reached are the modules of the `_target_`s and, from there, all that they import, inside
    functions too, with the packages that they lie in and the tables (.csv) that bear a module's
    name. Equal code gives equal results; a comment counts as a change.

    Args:
        config: of a run.

    Returns:
        Files relative to the package, sorted.
    """
    wanted = [_module(PACKAGE, name.split(".")[1:]) for name in _targets(config)]
    for root in ROOTS:
        wanted += imported_by(root + ".py")
    reached: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path is None or path in reached or path.split("/")[0].removesuffix(".py") not in SCIENCE:
            continue
        reached.add(path)
        wanted += imported_by(path)
        wanted += [f"{parent}/__init__.py" for parent in Path(path).parents if str(parent) != "."]
    tables = {table for p in reached if hash_of(table := p.removesuffix(".py") + ".csv")}
    return {path: found for path in sorted(reached | tables) if (found := hash_of(path))}


def changed(environment: Mapping[str, Any]) -> list[str]:
    """Files of the code of a run, in any of the processes that worked on it, that differ now.

    Args:
        environment: the run's `environment.json`. One from before code was recorded names none, so
            nothing tells that it was another.
    """
    found = set()
    for code in environment.get("code") or []:
        if isinstance(code, Mapping):  # one hash of everything, as once, tells of no file
            found |= {path for path, value in code.items() if value != hash_of(path)}
    return sorted(found)


@cache
def hash_of(path: str) -> str | None:
    """12 hex digits over a file of the package; None without the file."""
    try:
        return hashlib.sha256((PACKAGE / path).read_bytes()).hexdigest()[:12]
    except OSError:
        return None


@cache
def imported_by(path: str) -> tuple[str | None, ...]:
    """Files of the package that a file of it imports, wherever the statement stands."""
    found = []
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        found += [_module(PACKAGE, p[1:]) for p in parts if p[0] == PACKAGE.name]
    return tuple(found)


def _module(package: Path, parts: list[str]) -> str | None:
    """File of the longest part of a dotted name that is a module or a package."""
    for length in range(len(parts), 0, -1):
        stem = "/".join(parts[:length])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if (package / path).is_file():
                return path
    return None


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if str(node.get("_target_", "")).startswith(f"{PACKAGE.name}."):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)
