"""Which code a run was made with: a hash of every module that its config reaches; nothing imported.

A new model beside the old ones, or another choice of activation, leaves finished runs as they are.
So do comments, docstrings and blank lines: a file is hashed without them.
"""

import ast
import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from atomsweep.build import plugins
from atomsweep.classes import present_path
from atomsweep.shipped import PACKAGE

SCIENCE = ("models", "nn", "tasks", "engine", "dens", "data", "graph", "augment")
"""Rooms and modules of the package that decide a result."""
ROOTS = ("worker/train",)
"""What every run goes through: the modules of `SCIENCE` that these import are reached always."""
VERSION_1 = "code_v1.json"
"""Files of the code when records of version 1, raw hashes, were last made.

Path -> `hash`: of the file then; `now`: the files that do the same today, with their hashes as they
were when that was checked.
"""
MARK = "v2-"  # begins a hash of version 2

_STRING_OR_COMMENT = re.compile(
    r"""("{3}|'{3})(?:\\.|(?!\1).)*\1|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*""", re.DOTALL
)
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # of statements, in a statement


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """File → 12 hex digits of its hash, for the modules of `SCIENCE` that a config reaches.

    Reached are the modules of the `_target_`s and, from there, all that they import, inside
    functions too, with the packages that they lie in and the tables (.csv) that bear a module's
    name. Of a plugin every module counts that is reached. Equal code gives equal results.

    Args:
        config: of a run.

    Returns:
        Files relative to the package, those of plugins as `<plugin>:<file>`, sorted.
    """
    wanted = [_module(present_path(name)) for name in _targets(config)]
    for root in ROOTS:
        wanted += imported_by(root + ".py")
    reached: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path is None or path in reached or not _counts(path):
            continue
        reached.add(path)
        hash_of(path)  # while its tree is at hand
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
            other = {path for path, value in code.items() if _differs(path, str(value))}
            found |= {path for path in other if ":" not in path or _place(path)}
    return sorted(found)


def _differs(path: str, recorded: str) -> bool:
    """Whether a file is another one than a record says, of this version or of the first."""
    if recorded.startswith(MARK):
        return recorded != hash_of(path)
    if ":" in path:  # of a plugin, whose files did not move
        place = _place(path)
        return place is None or not place.is_file() or recorded != _digest(place.read_bytes())
    then = _version_1().get(path)
    if then is None or then["hash"] != recorded:
        return True
    return any(value != hash_of(now) for now, value in then["now"].items())


@cache
def _version_1() -> dict[str, Any]:
    path = Path(__file__).with_name(VERSION_1)
    return json.loads(path.read_text()) if path.is_file() else {}


@cache
def hash_of(path: str) -> str | None:
    """Hash over what a file that `code_of` names does; None without the file."""
    place = _place(path)
    if place is None:
        return None
    try:
        content = place.read_bytes()
    except OSError:
        return None
    return MARK + _digest(_effective(content) if place.suffix == ".py" else content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _effective(source: bytes) -> bytes:
    """Python source without what changes no result, spelt alike under every version of Python."""
    try:
        tree = _parsed(source)
    except (SyntaxError, ValueError):
        return source
    text = source.decode("utf-8-sig")
    lines = text.splitlines()
    row = start = 0
    for found in _STRING_OR_COMMENT.finditer(text):
        if found[0].startswith("#"):
            at = found.start()
            row += text.count("\n", start, at)
            start = at
            lines[row] = lines[row][: at - text.rfind("\n", 0, at) - 1]
    for node in _statements(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            names = ""
        elif isinstance(node, ast.ImportFrom):  # however it is wrapped and ordered
            imported = sorted(f"{alias.name}:{alias.asname}" for alias in node.names)
            names = f"{'.' * node.level}{node.module} {' '.join(imported)}"
        else:
            continue
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        if lines[first][: node.col_offset].strip():  # behind another statement on its line
            continue
        lines[first] = f"{lines[first][: node.col_offset]}{names}"
        lines[first + 1 : last] = [""] * (last - first - 1)
    kept = [line.rstrip() for line in lines]
    return "\n".join(line for line in kept if line).encode()


@lru_cache(1)  # a file's hash and what it imports are asked for one after the other
def _parsed(source: bytes) -> ast.Module:
    return ast.parse(source)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements; none lies within an expression, of which most of a tree is."""
    waiting = deque[ast.AST]([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for name in _BLOCKS:
            waiting.extend(getattr(node, name, ()))


@cache
def imported_by(path: str) -> tuple[str | None, ...]:
    """Files that a file imports, of the package and of plugins, wherever the statement stands."""
    place = _place(path)
    if place is None or not place.is_file():
        return ()
    found = []
    for node in _statements(_parsed(place.read_bytes())):
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
