"""Which structures and atoms are corrupted, by how much, and the graph of what comes of it."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.draws import normal, uniform

_COIN, _SCALE, _ATOM, _NOISE = range(4)  # streams of random numbers


class Draw(NamedTuple):
    """What becomes of a batch.

    Attributes:
        structures: (B,) bool, corrupted.
        moved: (N,) bool, free atoms that are displaced.
        encoded: (N,) bool, atoms whose forces are encoded.
        noise: (N, 3) Å, displacements; zero elsewhere.
        sigma: (B,) Å, standard deviation of the noise of each structure, corrupted or not.
    """

    structures: Tensor
    moved: Tensor
    encoded: Tensor
    noise: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Corruption:
    """How structures are corrupted: p̃_i = p_i + ε_i, ε_i ~ N(0, σ² I). DeNS, arXiv:2403.09549.

    Attributes:
        prob: p_DeNS, with which a structure is corrupted.
        ratio: r, with which an atom of a corrupted structure is; 1 corrupts all.
        sigma_high: σ, Å; of multi-scale noise the largest.
        sigma_low: smallest of multi-scale noise (eq. 7), Å; None has the one σ.
        num_sigmas: K: σ_k is geometric from `sigma_low` to `sigma_high`, k uniform per structure.
        coin: "structure" decides for each one, as the paper says; "batch" once for all, as the
            released code does on OC20 and OC22.
        encode_fixed: fixed atoms are drawn for force encoding as well, though they never move, as
            in the released code on OC20.
        max_force: a structure with a larger force on an atom is not corrupted, eV/Å
            (EquiformerV3); None for no limit.
        max_ratio: nor one of whose atoms a larger share would be (EquiformerV3).
        dynamics: frames of molecular dynamics, whose fid is negative (`formats.ocp_lmdb.S2EF`), are
            corrupted as well; the paper spares them on OC20 All+MD.
    """

    prob: float
    ratio: float
    sigma_high: float
    sigma_low: float | None
    num_sigmas: int
    coin: Literal["structure", "batch"]
    encode_fixed: bool
    max_force: float | None
    max_ratio: float | None
    dynamics: bool = field(default=True, kw_only=True)  # runs of before had no such key

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1 or not 0 < self.ratio <= 1:
            raise ValueError(
                f"dens.prob must lie in [0, 1] and dens.ratio in (0, 1], got {self.prob} and "
                f"{self.ratio}"
            )
        low = self.sigma_high if self.sigma_low is None else self.sigma_low
        if not 0 < low <= self.sigma_high:
            raise ValueError(
                "dens.sigma_high must be positive and dens.sigma_low lie between 0 and it, got "
                f"{self.sigma_high} and {self.sigma_low}"
            )
        if self.num_sigmas < 1 or (self.sigma_low is None) != (self.num_sigmas == 1):
            raise ValueError(
                "dens.num_sigmas must be 1 for one σ (dens.sigma_low=null) and more for noise of "
                f"many scales, got {self.num_sigmas}"
            )

    def draw(self, batch: Batch, seed: int, places: Tensor) -> Draw:
        """Decide for every structure and atom.

        Args:
            batch: with `forces`.
            seed: of the step.
            places: (B,) place of each structure in the whole batch of the step.
        """
        first = batch.ptr[:-1][batch.batch]  # (N,)
        place = places[batch.batch]  # (N,)
        number = torch.arange(len(place), device=place.device) - first  # of the atom in its own
        coin = places if self.coin == "structure" else torch.full_like(places, -1)
        structures = uniform(seed, _COIN, coin) < self.prob  # (B,)
        drawn = uniform(seed, _ATOM, place, number) < self.ratio  # (N,)
        moved = drawn & ~batch.fixed
        structures = structures & self._allowed(batch, drawn)
        inside = structures[batch.batch]
        moved, drawn = moved & inside, drawn & inside
        sigma = self._sigmas(seed, places)
        axes = torch.arange(3, device=place.device)
        noise = normal(
            seed, _NOISE, *torch.broadcast_tensors(place[:, None], number[:, None], axes)
        )
        noise = noise * sigma[batch.batch][:, None] * moved[:, None]
        encoded = drawn if self.encode_fixed else moved
        return Draw(structures, moved, encoded, noise.to(batch.pos.dtype), sigma)

    def _sigmas(self, seed: int, places: Tensor) -> Tensor:
        """(B,) float64, Å."""
        if self.sigma_low is None:
            return torch.full_like(places, self.sigma_high, dtype=torch.float64)
        logs = torch.linspace(
            math.log(self.sigma_low),
            math.log(self.sigma_high),
            self.num_sigmas,
            dtype=torch.float64,
            device=places.device,
        )
        k = (uniform(seed, _SCALE, places) * self.num_sigmas).long()
        return torch.exp(logs)[k]

    def _allowed(self, batch: Batch, drawn: Tensor) -> Tensor:
        """(B,) bool, structures that may be corrupted: EquiformerV3's limits, and dynamics."""
        allowed = torch.ones(len(batch.cell), dtype=torch.bool, device=batch.pos.device)
        if not self.dynamics:
            allowed &= batch[keys.FID] >= 0
        if self.max_force is not None:
            allowed &= _count(batch, batch.forces.norm(dim=-1) > self.max_force) == 0
        if self.max_ratio is not None:
            allowed &= _count(batch, drawn) <= self.max_ratio * _count(batch, drawn | True)
        return allowed


def _count(batch: Batch, atoms: Tensor) -> Tensor:
    """(B,) number of the atoms (N,) in each structure, float64."""
    zeros = torch.zeros(len(batch.cell), dtype=torch.float64, device=batch.pos.device)
    return zeros.index_add_(0, batch.batch, atoms.double())
