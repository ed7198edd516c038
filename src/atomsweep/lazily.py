"""Parts of a library that importing it brings along, and that are read when somebody uses them."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

DEAR = frozenset({"torch_geometric.datasets"})
"""Modules that nothing here uses and that take long: 0.9 s of CPU at the start of a process."""


class _Lazily(MetaPathFinder):
    """Finds the modules of `DEAR` as always, and has them executed at the first use.

    A submodule that is imported before that first use is executed twice, so its classes are others
    than those that the module names.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in DEAR:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def put_off() -> None:
    """Have the modules of `DEAR` read at their first use, if they have not been yet."""
    if not any(isinstance(finder, _Lazily) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lazily())
