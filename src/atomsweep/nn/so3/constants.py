"""Constant tables that stay exact when a model is cast from single to double precision."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn


class ConstantModule(nn.Module):
    """A module with tables in the precision that it is cast to, always rounded from float64.

    A plain buffer of a model made in single precision and cast to double keeps the rounding error
    of single precision, 1e-7, and with it an equivariance error of that size.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, np.ndarray] = {}

    def add_table(self, name: str, values: np.ndarray) -> None:
        """Register `values` as a buffer that is not saved."""
        self._tables[name] = values
        dtype = torch.get_default_dtype() if values.dtype.kind == "f" else None
        self.register_buffer(name, torch.as_tensor(values, dtype=dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, values in self._tables.items():
            cast: Any = getattr(self, name)
            exact = torch.as_tensor(values, dtype=cast.dtype, device="cpu")
            setattr(self, name, exact.to(cast.device))
        return self
