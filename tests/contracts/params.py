"""Parameters of a test: the first for everybody, the others for `make test-slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def first(keep: int, values: Iterable[Any]) -> list[Any]:
    """The values, those after the first `keep` marked slow."""
    return [
        value if number < keep else pytest.param(value, marks=pytest.mark.slow)
        for number, value in enumerate(values)
    ]
