"""Who a test is for: its first parameters for everybody, others for `make test-slow` or a GPU."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """A test that needs a CUDA device."""
    for mark in ON_GPU:
        test = mark(test)
    return test


def first(keep: int, values: Iterable[Any]) -> list[Any]:
    """The values, those after the first `keep` marked slow."""
    return [
        value if number < keep else pytest.param(value, marks=pytest.mark.slow)
        for number, value in enumerate(values)
    ]
