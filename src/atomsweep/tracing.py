"""Whether code runs on values, or is being written down as a graph for a compiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_traced = ContextVar("traced", default=False)  # of this thread: those of the loader go on


def is_traced() -> bool:
    """True while a graph is made of what runs: no value can be read then, and operations fuse."""
    return _traced.get() or torch.compiler.is_compiling()


@contextmanager
def tracing() -> Iterator[None]:
    """A block in which `is_traced`."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)
