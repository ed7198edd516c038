"""What a class that a config names states in its body, read without importing it.

A launch has to know a few things of a part before anything is built: what a task learns, whether a
model predicts an energy, whether data are one's own. The class says so once, as a class attribute;
its module may import torch, which takes seconds.
"""

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from atomsweep.build import TARGET, UserError, plugins
from atomsweep.classes import present_path
from atomsweep.shipped import PACKAGE


def stated(node: Any, name: str) -> Any:
    """What the first class named in a config node states of itself, or one that it inherits from.

    Args:
        node: of a config; classes may be named deeper in it.
        name: of a class attribute.

    Returns:
        Its value; None where no class states it.

    Raises:
        UserError: it is stated by an expression that only an import could tell; a plugin cannot be
            found.
    """
    found = (_of_class(present_path(target), name) for target in targets(node))
    return next((value for value in found if value is not None), None)


def targets(node: Any) -> list[str]:
    """Classes that a config node names, outermost first."""
    if isinstance(node, Mapping):
        own = [str(node[TARGET])] if TARGET in node else []
        return [*own, *(target for value in node.values() for target in targets(value))]
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [target for value in node for target in targets(value)]
    return []


def _of_class(target: str, name: str) -> Any:
    module, _, called = target.rpartition(".")
    tree = _tree(module)
    if tree is None:
        return None
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == called:
            value = _in_body(statement, name)
            bases = [base.id for base in statement.bases if isinstance(base, ast.Name)]
            inherited = (_of_class(f"{module}.{base}", name) for base in bases)
            return (
                value if value is not None else next((v for v in inherited if v is not None), None)
            )
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if called == (alias.asname or alias.name):
                    return _of_class(f"{_source(statement, module)}.{alias.name}", name)
    return None


def _in_body(definition: ast.ClassDef, name: str) -> Any:
    for statement in definition.body:
        if isinstance(statement, ast.Assign):
            left, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            left, value = [statement.target], statement.value
        else:
            continue
        if any(isinstance(one, ast.Name) and one.id == name for one in left):
            try:
                return ast.literal_eval(value)
            except ValueError as error:
                raise UserError(
                    f"{definition.name}.{name} must be a literal such as True or ('energy',), "
                    "since a launch reads it without importing the class, got "
                    f"{ast.unparse(value)}"
                ) from error
    return None


def _source(statement: ast.ImportFrom, module: str) -> str:
    """Absolute name of the module that is imported from, in a file of `module`."""
    if not statement.level:
        return str(statement.module)
    path = _file(module)
    up = statement.level - (path is not None and path.name == "__init__.py")
    parents = module.split(".")[: len(module.split(".")) - up]
    return ".".join([*parents, *([statement.module] if statement.module else [])])


@cache
def _tree(module: str) -> ast.Module | None:
    path = _file(module)
    return ast.parse(path.read_bytes()) if path is not None else None


def _file(module: str) -> Path | None:
    """Where a module of the package or of a plugin lies; None for others."""
    top, *rest = module.split(".")
    root = PACKAGE if top == PACKAGE.name else plugins().get(top)
    if root is None:
        return None
    place = root.joinpath(*rest)
    found = [place.with_suffix(".py"), place / "__init__.py"]
    return next((path for path in found if path.is_file()), None)
