"""Activations that torch lacks; the others are torch classes named in conf/act/."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class ShiftedSoftplus(nn.Module):
    """Softplus that passes through the origin: f(x) = ln(1 + e^x) - ln 2.

    SchNet, arXiv:1706.08566, Sec. 4.1; tried by ForceNet, arXiv:2103.01436, Sec. 3.1.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape: any -> the same."""
        return F.softplus(x) - math.log(2.0)
