"""Weights that fade an edge out towards the cutoff."""

import math

import torch
from torch import Tensor


def cosine_cutoff(dist: Tensor, cutoff: float) -> Tensor:
    """Quarter of a cosine: alpha(x) = cos(pi x / 2c), which reaches 0 at the cutoff, with a kink.

    ForceNet, arXiv:2103.01436, Sec. 3.1.1. Not the half cosine (1 + cos(pi x / c)) / 2 of SchNet.

    Args:
        dist: edge lengths within the cutoff, Å.
        cutoff: c, Å.

    Shape: any -> the same.
    """
    return torch.cos(dist * (math.pi / (2.0 * cutoff)))


def half_cosine_cutoff(dist: Tensor, cutoff: float) -> Tensor:
    """Half of a cosine: (1 + cos(pi x / c)) / 2, which reaches 0 at the cutoff with slope 0.

    SchNet as in torch_geometric and the Open Catalyst code; arXiv:1706.08566 has no cutoff.

    Args:
        dist: edge lengths within the cutoff, Å.
        cutoff: c, Å.

    Shape: any -> the same.
    """
    return 0.5 * (torch.cos(dist * (math.pi / cutoff)) + 1.0)
