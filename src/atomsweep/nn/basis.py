"""The six bases of ForceNet (arXiv:2103.01436, Sec. 3.1.2) for the inputs of edges and atoms.

A basis has no cutoff weight and no linear layer F_b behind it: the model has both. Models take a
factory and call `basis(in_dim=...)` for the edges, then `for_nodes` gives the same family for the
atoms.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

ActFactory = Callable[[], nn.Module]


def needed_act(act: ActFactory | None, owner: str, example: str) -> ActFactory:
    """The activation of what cannot do without one.

    Args:
        act: as configured; None is `act=none`.
        owner: what needs it.
        example: an option that suits it.

    Raises:
        ValueError: there is none.
    """
    if act is None:
        raise ValueError(f"{owner} needs an activation, got none; choose one, e.g. act={example}")
    return act


class Basis(nn.Module, ABC):
    """A map from the components of an input to basis functions.

    Attributes:
        needs_direction: the first three components must be a unit vector.
        needs_unit_range: components must lie in [0, 1]; a model maps unit vectors to (n + 1) / 2.
        linear_follows: the model puts its linear layer F_b behind.
        in_dim: number of input components D.
        out_dim: number of basis functions K.
    """

    needs_direction: ClassVar[bool] = False
    needs_unit_range: ClassVar[bool] = False
    linear_follows: ClassVar[bool] = True

    in_dim: int
    out_dim: int

    @abstractmethod
    def for_nodes(self, in_dim: int) -> "Basis":
        """The basis of the same family for atoms: `in_dim` inputs in [0, 1], no direction."""


BasisFactory = Callable[..., Basis]


class IdentityBasis(Basis):
    """The input as it is, followed by F_b.

    ForceNet, arXiv:2103.01436, Sec. 3.1.2 "Identity".

    Args:
        in_dim: number of input components D.

    Shape: (..., D) -> (..., D).
    """

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = in_dim

    def for_nodes(self, in_dim: int) -> Self:
        """The input as it is, also for atoms."""
        return type(self)(in_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., D)."""
        return x


class NoBasis(IdentityBasis):
    """The input as it is, without F_b: joined to the node embeddings as raw components.

    ForceNet, arXiv:2103.01436, Table 5 "None".
    """

    linear_follows = False


class LinearActBasis(Basis):
    """A learned layer: b(x) = act(W x + b), as many outputs as the sine basis has.

    ForceNet, arXiv:2103.01436, Sec. 3.1.2 "Linear + Act".

    Args:
        in_dim: number of input components D.
        act: factory of the activation.
        num_functions: outputs for each input component, J.

    Shape: (..., D) -> (..., D * J).

    Raises:
        ValueError: there is no activation.
    """

    def __init__(self, in_dim: int, act: ActFactory | None, num_functions: int = 50) -> None:
        super().__init__()
        act = needed_act(act, "basis=linact", "swish")
        self.in_dim = in_dim
        self.out_dim = in_dim * num_functions
        self._make_act = act
        self._num_functions = num_functions
        self.linear = nn.Linear(in_dim, self.out_dim)
        self.act = act()

    def for_nodes(self, in_dim: int) -> Self:
        """A layer of its own for the atoms."""
        return type(self)(in_dim, self._make_act, self._num_functions)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., D * J)."""
        return self.act(self.linear(x))


class SineBasis(Basis):
    """Sines of geometrically growing frequency: b_j(x) = sin(1.1^j x), j = 0 ... J-1.

    ForceNet, arXiv:2103.01436, Sec. 3.1.2 "Sine".

    Args:
        in_dim: number of input components D.
        num_freqs: number of frequencies J.

    Shape: (..., D) -> (..., J * D); all components of one frequency are adjacent.
    """

    growth: ClassVar[float] = 1.1

    def __init__(self, in_dim: int, num_freqs: int = 50) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = num_freqs * in_dim
        # Powers in the working precision, rounded as in the public code: weights can be exchanged.
        freqs = self.growth ** torch.arange(num_freqs, dtype=torch.get_default_dtype())
        self.register_buffer("freqs", freqs, persistent=False)  # (J,)
        self.freqs: Tensor

    def for_nodes(self, in_dim: int) -> Self:
        """The same frequencies for atoms."""
        return type(self)(in_dim, self.freqs.numel())

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., J * D)."""
        return torch.sin(self.freqs[:, None] * x[..., None, :]).flatten(-2)


class GaussianBasis(Basis):
    """Gaussians on a grid over [0, 1]: b_j(x) = exp(-(x - j s)^2 / 2 s^2), s = 1 / (J - 1).

    ForceNet, arXiv:2103.01436, Sec. 3.1.2 "Gaussian".

    Args:
        in_dim: number of input components D, each in [0, 1].
        num_gaussians: number of centres J, at least 2.

    Shape: (..., D) -> (..., J * D); all components of one centre are adjacent.
    """

    needs_unit_range = True

    def __init__(self, in_dim: int, num_gaussians: int = 50) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = num_gaussians * in_dim
        self.register_buffer("centres", torch.linspace(0.0, 1.0, num_gaussians), persistent=False)
        self.centres: Tensor

    def for_nodes(self, in_dim: int) -> Self:
        """The same centres for atoms."""
        return type(self)(in_dim, self.centres.numel())

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., J * D)."""
        width = 1.0 / (self.centres.numel() - 1)
        shift = (x[..., None, :] - self.centres[:, None]) / width
        return torch.exp(-0.5 * shift.square()).flatten(-2)


class SphericalBasis(Basis):
    """Outer product of real harmonics of the direction and learned functions of the distances.

    b = Y(n) ⊗ R(p), where R is a linear layer on the sine basis of the distances.
    ForceNet, arXiv:2103.01436, Sec. 3.1.2 "Spherical harmonics". Harmonics without a factor sqrt(2)
    at m != 0 and as many radial functions as distances follow the public code; the paper is silent
    on both. Degrees 0 to 2 are theirs.

    Args:
        in_dim: components of the input: a unit vector (3) and distances (D - 3).
        num_freqs: frequencies of the sine basis of the distances.
        num_radial: learned radial functions S; as many as there are distances if None.
        l_max: largest degree L of the harmonics.

    Raises:
        ValueError: l_max is negative.

    Shape: (..., D) -> (..., (L + 1)² * S); all radial functions of one harmonic are adjacent.
    """

    needs_direction = True

    def __init__(
        self,
        in_dim: int,
        num_freqs: int = 50,
        num_radial: int | None = None,
        l_max: int = 2,
    ) -> None:
        super().__init__()
        if l_max < 0:
            raise ValueError(f"basis.l_max must be 0 or more, got {l_max}")
        self.l_max = l_max
        num_distances = in_dim - 3
        self.in_dim = in_dim
        self.sine = SineBasis(num_distances, num_freqs)
        self.radial = nn.Linear(
            self.sine.out_dim, num_radial if num_radial is not None else num_distances
        )
        self.out_dim = (l_max + 1) ** 2 * self.radial.out_features

    def for_nodes(self, in_dim: int) -> SineBasis:
        """Sines: properties of an element have no direction."""
        return self.sine.for_nodes(in_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., (L + 1)² * S)."""
        angular = real_harmonics(x[..., :3], self.l_max)  # (..., (L + 1)²)
        radial = self.radial(self.sine(x[..., 3:]))  # (..., S)
        return (angular[..., :, None] * radial[..., None, :]).flatten(-2)


def real_harmonics(unit: Tensor, l_max: int = 2) -> Tensor:
    """Real and imaginary parts of the spherical harmonics up to a degree, as polynomials.

    With the polar angle from z and the azimuth from x, and the Condon-Shortley sign; for L = 2:

        Y_00, Y_10, Y_20,  Re Y_11, Re Y_21, Re Y_22,  Im Y_11, Im Y_21, Im Y_22

    These are parts of the complex harmonics, so those of m != 0 have half the mean square of the
    others. Y_lm = (-1)^m N_lm Q_lm(z) (x + iy)^m with Q_lm the m-th derivative of Legendre's P_l,
    by (l - m) Q_lm = (2l - 1) z Q_{l-1,m} - (l + m - 1) Q_{l-2,m}.

    Args:
        unit: unit vectors (x, y, z).
        l_max: L.

    Shape: (..., 3) -> (..., (L + 1)²).
    """
    x, y, z = unit.unbind(-1)
    if l_max == 2:  # the public code's degree in closed form: a third of the kernels
        return torch.stack(_second_degree(x, y, z), dim=-1)
    real, imaginary = torch.ones_like(x), torch.zeros_like(x)  # (x + iy)^m
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for m in range(l_max + 1):
        if m > 0:
            real, imaginary = real * x - imaginary * y, real * y + imaginary * x
        before, derivative = torch.zeros_like(z), torch.full_like(z, _double_factorial(2 * m - 1))
        for degree in range(m, l_max + 1):
            if degree > m:
                lower = (2 * degree - 1) * z * derivative - (degree + m - 1) * before
                before, derivative = derivative, lower / (degree - m)
            ratio = math.factorial(degree - m) / math.factorial(degree + m)
            norm = (-1) ** m * math.sqrt((2 * degree + 1) / (4 * math.pi) * ratio)
            parts[0].append(norm * derivative * real)
            if m > 0:
                parts[1].append(norm * derivative * imaginary)
    return torch.stack([*parts[0], *parts[1]], dim=-1)


def _second_degree(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    return [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        math.sqrt(3 / (4 * math.pi)) * z,
        math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1),
        -math.sqrt(3 / (8 * math.pi)) * x,
        -math.sqrt(15 / (8 * math.pi)) * x * z,
        math.sqrt(15 / (32 * math.pi)) * (x * x - y * y),
        -math.sqrt(3 / (8 * math.pi)) * y,
        -math.sqrt(15 / (8 * math.pi)) * y * z,
        math.sqrt(15 / (32 * math.pi)) * 2 * x * y,
    ]


def _double_factorial(n: int) -> float:
    return float(math.prod(range(n, 0, -2)))
