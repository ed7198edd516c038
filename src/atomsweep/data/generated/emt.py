"""Effective medium theory, vectorised over pairs: the oracle that labels the embedded data set.

The same function as `ase.calculators.emt.EMT` (to rounding), an order of magnitude faster on the
slabs that are relaxed by the ten thousands here. The parameter table is ASE's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import parameters as ASE_PARAMETERS
from ase.data import atomic_numbers as ASE_NUMBERS
from ase.units import Bohr

from atomsweep.data.structure import Array, Structure

BETA = 1.809  # (16π/3)^(1/3) / √2, rounded as in ASE
SKIN = 0.6  # Å beyond the cutoff: pairs are searched again once an atom has moved by half of it
ELEMENTS = {ASE_NUMBERS[symbol]: symbol for symbol in ASE_PARAMETERS}


class _Elements(NamedTuple):
    """EMT parameters by atomic number (rows that EMT does not know are NaN), in eV and Å."""

    e0: Array
    s0: Array
    v0: Array
    eta: Array
    kappa: Array
    lam: Array
    n0: Array
    gamma1: Array
    gamma2: Array


def _cutoff() -> tuple[float, float, float]:
    """Midpoint, end (Å) and slope (1/Å) of the smoothing w(r) = 1 / (1 + exp(a (r - rc))).

    The midpoint lies between the 3rd and 4th neighbours of the largest fcc metal of the table,
    and w has fallen to 1e-4 at the 4th.
    """
    nearest = BETA * max(p[1] for p in ASE_PARAMETERS.values()) * Bohr
    middle = nearest * 0.5 * (math.sqrt(3.0) + 2.0)
    return middle, middle + 0.5, math.log(1e4 - 1.0) / (2.0 * nearest - middle)


RC, R_END, SLOPE = _cutoff()


def _elements() -> _Elements:
    table = np.full((7, 119), np.nan)
    for number, symbol in ELEMENTS.items():
        e0, s0, v0, eta, kappa, lam, n0 = ASE_PARAMETERS[symbol]
        table[:, number] = e0, s0 * Bohr, v0, eta / Bohr, kappa / Bohr, lam / Bohr, n0 / Bohr**3
    e0, s0, v0, eta, kappa, lam, n0 = table
    shell = (
        np.sqrt([1.0, 2.0, 3.0])[:, None] * BETA * s0
    )  # first three fcc shells of 12, 6, 24 atoms
    weight = np.array([12.0, 6.0, 24.0])[:, None] / 12.0 / (1.0 + np.exp(SLOPE * (shell - RC)))
    gamma1 = (weight * np.exp(-eta * (shell - BETA * s0))).sum(0)
    gamma2 = (weight * np.exp(-kappa / BETA * (shell - BETA * s0))).sum(0)
    return _Elements(e0, s0, v0, eta, kappa, lam, n0, gamma1, gamma2)


_TABLE = _elements()


def half_pairs(pos: Array, cell: Array, pbc: Array, cutoff: float) -> tuple[Array, Array, Array]:
    """Every pair of atoms or images within `cutoff`, once: first, second, shift (P, 3) Å.

    Brute force over all images that can be in reach; the pairs of a slab in a small cell are
    found faster so than by sorting atoms into cells.
    """
    natoms = len(pos)
    reach = np.zeros(3, dtype=int)
    if pbc.any():
        inverse = np.linalg.inv(cell)
        fractional = pos @ inverse
        span = np.ptp(fractional, axis=0)
        reach = np.where(pbc, np.floor(cutoff * np.linalg.norm(inverse, axis=0) + span), 0).astype(
            int
        )
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1)
    steps = steps.reshape(-1, 3)
    steps = steps[len(steps) // 2 :]  # the zero shift, then one of each ± pair
    shifts = steps @ cell  # (S, 3)
    vec = (pos[None, :, None] + shifts[:, None, None] - pos[None, None, :]).reshape(-1, 3)
    near = np.einsum("pi,pi->p", vec, vec) < cutoff**2
    image, second, first = np.unravel_index(np.flatnonzero(near), (len(shifts), natoms, natoms))
    once = (image > 0) | (second > first)
    return first[once], second[once], shifts[image[once]]


class _Pairs:
    """What stays the same while atoms move by less than half the skin."""

    def __init__(self, numbers: Array, pos: Array, cell: Array, pbc: Array) -> None:
        unknown = sorted(set(numbers.tolist()) - set(ELEMENTS))
        if unknown:
            raise ValueError(
                f"EMT has parameters for {sorted(ELEMENTS.values())} only, "
                f"got atomic numbers {unknown}"
            )
        self.numbers, self.cell, self.pbc, self.pos = (
            numbers.copy(),
            cell.copy(),
            pbc.copy(),
            pos.copy(),
        )
        self.first, self.second, self.shift = half_pairs(pos, cell, pbc, R_END + SKIN)
        t = _TABLE
        a, b = numbers[self.first], numbers[self.second]
        log_chi = np.log(t.n0[b] / t.n0[a])  # density of b in units of a's
        # exponents c - k r: of the density at a due to b, at b due to a, then of pair energies
        self.slopes = np.stack([t.eta[b], t.eta[a], t.kappa[b] / BETA, t.kappa[a] / BETA])
        self.constants = np.stack(
            [
                t.eta[b] * BETA * t.s0[b] + log_chi,
                t.eta[a] * BETA * t.s0[a] - log_chi,
                t.kappa[b] * t.s0[b] + log_chi + np.log(t.v0[a] / (2.0 * t.gamma2[a])),
                t.kappa[a] * t.s0[a] - log_chi + np.log(t.v0[b] / (2.0 * t.gamma2[b])),
            ]
        )
        self.e0, self.v0, self.lam = t.e0[numbers], t.v0[numbers], t.lam[numbers]
        self.kappa, self.beta_eta = t.kappa[numbers], BETA * t.eta[numbers]
        self.twelve_gamma1 = 12.0 * t.gamma1[numbers]

    def serve(self, numbers: Array, pos: Array, cell: Array, pbc: Array) -> bool:
        return (
            np.array_equal(numbers, self.numbers)
            and np.array_equal(cell, self.cell)
            and np.array_equal(pbc, self.pbc)
            and float(((pos - self.pos) ** 2).sum(1).max()) < (0.5 * SKIN) ** 2
        )


def _evaluate(pairs: _Pairs, pos: Array) -> tuple[float, Array]:
    natoms = len(pos)
    first, second = pairs.first, pairs.second
    vec = pos[second] + pairs.shift - pos[first]  # (P, 3)
    dist = np.sqrt(np.einsum("pi,pi->p", vec, vec))
    with np.errstate(over="ignore"):
        w = 1.0 / (1.0 + np.exp(SLOPE * (dist - RC)))
    w[dist >= R_END] = 0.0
    terms = np.exp(pairs.constants - pairs.slopes * dist) * w  # (4, P)
    slopes = SLOPE * (w - 1.0) - pairs.slopes  # d log(term) / dr

    density = np.bincount(first, terms[0], natoms) + np.bincount(second, terms[1], natoms)
    inside = density > 0.0  # an atom without neighbours has no energy and no force
    density = np.where(inside, density, 1.0)
    ds = -np.log(density / pairs.twelve_gamma1) / pairs.beta_eta
    cohesive = np.exp(-pairs.lam * ds)
    embedding = 6.0 * pairs.v0 * np.exp(-pairs.kappa * ds)
    per_atom = pairs.e0 * (1.0 + pairs.lam * ds) * cohesive + embedding
    slope_atom = pairs.e0 * pairs.lam**2 * ds * cohesive + pairs.kappa * embedding
    slope_atom = np.where(
        inside, slope_atom / (pairs.beta_eta * density), 0.0
    )  # dE_i / d density_i
    energy = float(per_atom[inside].sum() - terms[2:].sum() - pairs.e0.sum())

    radial = (
        slope_atom[first] * terms[0] * slopes[0]
        + slope_atom[second] * terms[1] * slopes[1]
        - terms[2] * slopes[2]
        - terms[3] * slopes[3]
    )  # dE/dr of every pair
    push = (radial / dist)[:, None] * vec
    forces = np.empty((natoms, 3))
    for axis in range(3):
        column = push[:, axis]
        forces[:, axis] = np.bincount(first, column, natoms) - np.bincount(second, column, natoms)
    return energy, forces


class FastEMT(Calculator):
    """ASE calculator of effective medium theory: energy (eV) and forces (eV/Å), no stress.

    Jacobsen, Stoltze and Nørskov, Surf. Sci. 366 (1996) 394, with the smoothing of
    `ase.calculators.emt.EMT(asap_cutoff=False)`. Pairs are kept between calls while no atom has
    moved by more than half a skin.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE's interface)
    nolabel = True

    def __init__(self) -> None:
        super().__init__()
        self._pairs: _Pairs | None = None

    def energy_forces(
        self, numbers: Array, pos: Array, cell: Array, pbc: Array
    ) -> tuple[float, Array]:
        """Energy (eV) and forces (N, 3) (eV/Å) of float64 positions (N, 3) in Å."""
        if self._pairs is None or not self._pairs.serve(numbers, pos, cell, pbc):
            self._pairs = _Pairs(numbers, pos, cell, pbc)
        return _evaluate(self._pairs, pos)

    def check_state(self, atoms: Any, tol: float = 0.0) -> list[str]:
        """What changed since the last call, exactly; ASE's own comparison costs more than EMT."""
        last = self.atoms
        if last is None:
            return list(all_changes)
        pairs = {
            "positions": (last.positions, atoms.positions),
            "numbers": (last.numbers, atoms.numbers),
            "cell": (last.cell.array, atoms.cell.array),
            "pbc": (last.pbc, atoms.pbc),
        }
        return [name for name, (old, new) in pairs.items() if not np.array_equal(old, new)]

    def calculate(
        self,
        atoms: Any = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        assert self.atoms is not None
        energy, forces = self.energy_forces(
            self.atoms.numbers, self.atoms.positions, self.atoms.cell.array, self.atoms.pbc
        )
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


class EMTOracle:
    """The potential behind `mini_oc`, for tasks that need a true force call (AFbT, relaxations).

    Energies are totals of the potential; the labels of `mini_oc` subtract a reference for each
    system, so differences within one system agree.
    """

    def calculator(self) -> FastEMT:
        """A new ASE calculator; one for each structure that is relaxed."""
        return FastEMT()

    def __call__(self, structure: Structure) -> tuple[float, Array]:
        """Energy (eV) and forces (N, 3) (eV/Å) of a structure, fixed atoms included."""
        return FastEMT().energy_forces(
            structure.atomic_numbers.astype(np.int64),
            structure.pos.astype(np.float64),
            np.asarray(structure.cell, dtype=np.float64),
            structure.pbc,
        )
