"""How one system of the embedded data set is made: bulk, slab, adsorbate, relaxation, frames.

Every function is deterministic in its arguments; `build_system(recipe, split, sid)` depends on
nothing else, so the data are the same whatever the number of workers. `mini_oc` stores the result.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import surface
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.optimize import BFGS

from atomsweep.data.generated.emt import FastEMT
from atomsweep.data.generated.mini_oc_recipe import (
    ADSORBATES,
    ANOMALIES,
    FACETS,
    MAX_ENERGY,
    MAX_FORCE,
    METALS,
    RATTLED_FID,
    Recipe,
    bulk_names,
)
from atomsweep.data.structure import Array, Structure


@dataclass
class System:
    """One relaxation: the frames that are kept, both ends, and what it is."""

    frames: list[Structure]
    ends: tuple[Structure, Structure]
    meta: dict[str, Any]


@functools.cache
def split_bulks(seed: int, heldout: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Bulks that are trained on, and alloys held out. Pure metals are always trained on."""
    alloys = bulk_names()[len(METALS) :]
    out = {alloys[i] for i in np.random.default_rng([seed]).permutation(len(alloys))[:heldout]}
    return tuple(b for b in bulk_names() if b not in out), tuple(b for b in alloys if b in out)


def _decorated(name: str, lattice: float) -> Atoms:
    """Cubic fcc cell of four atoms: pure, L1_2 (A3B, B at the corner) or L1_0 (AB in layers)."""
    kinds = list(Atoms(name).symbols)
    order = {1: [0, 0, 0, 0], 2: [0, 0, 1, 1], 4: [3, 0, 0, 0]}[len(kinds)]
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cell = lattice * np.eye(3)
    return Atoms([kinds[i] for i in order], positions=sites @ cell, cell=cell, pbc=True)


@functools.cache
def lattice_constant(name: str) -> float:
    """Cubic lattice constant (Å, to 0.001) that minimises the EMT energy, by golden section."""
    numbers = _decorated(name, 4.0).numbers

    def energy(lattice: float) -> float:
        atoms = _decorated(name, lattice)
        return FastEMT().energy_forces(numbers, atoms.positions, atoms.cell.array, atoms.pbc)[0]

    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    low, high = 3.3, 4.5
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = energy(left), energy(right)
    while high - low > 2e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = energy(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = energy(right)
    return round(float(low + high) / 2.0, 3)


def _cut_slab(recipe: Recipe, bulk: str, facet: tuple[int, int, int], shift: int) -> Atoms:
    """Unrelaxed slab, tags 0 below and 1 at the surface; `shift` drops so many top layers."""
    unit = _decorated(bulk, lattice_constant(bulk))
    spacing = unit.cell[0, 0] / np.linalg.norm(facet)
    slab = surface(unit, facet, int(np.ceil(recipe.min_depth / spacing)) + 3 + shift, periodic=True)
    slab.positions -= slab.positions.min(0)
    heights = np.unique(slab.positions[:, 2].round(2))
    top = heights[-1 - shift]
    bottom = heights[heights <= top - recipe.min_depth][-1]
    z = slab.positions[:, 2].round(2)
    slab = slab[(z >= bottom) & (z <= top)]
    lengths = np.linalg.norm(slab.cell.array[:2], axis=1)
    slab = slab.repeat((*np.ceil(recipe.min_xy / lengths - 1e-6).astype(int), 1))
    height = np.ptp(slab.positions[:, 2])
    cell = slab.cell.array.copy()
    cell[2] = [0.0, 0.0, height + recipe.vacuum]
    slab.set_cell(cell)
    slab.positions[:, 2] += 0.25 * recipe.vacuum - slab.positions[:, 2].min()
    slab.set_tags((slab.positions[:, 2] > slab.positions[:, 2].max() - 2.5).astype(int))
    slab.pbc = True
    return slab


@functools.lru_cache(maxsize=64)
def _relaxed_slab(
    recipe: Recipe, bulk: str, facet: tuple[int, int, int], shift: int
) -> tuple[Atoms, float]:
    """Relaxed clean slab and its energy (eV)."""
    slab = _cut_slab(recipe, bulk, facet, shift)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))
    path = _relax(slab, recipe.fmax, recipe.max_steps)
    slab.set_constraint()
    slab.calc = None
    return slab, path[-1][1]


@functools.cache
def gas_molecule(name: str) -> tuple[Atoms, float]:
    """An adsorbate relaxed in vacuum, binding atom at the origin, and its energy (eV)."""
    symbols, positions = ADSORBATES[name]
    return _gas(symbols, positions)


def _gas(symbols: str, positions: Any) -> tuple[Atoms, float]:
    atoms = Atoms(symbols, positions=positions)
    energy = _relax(atoms, fmax=0.01, max_steps=200)[-1][1]
    atoms.calc = None
    atoms.positions -= atoms.positions[0].copy()
    return atoms, energy


@functools.cache
def gas_references() -> dict[str, float]:
    """Energy (eV) of each adsorbate element in OC20's convention, by EMT.

    H = H2/2, O = H2O - H2, C = CO - O, N = N2/2: Chanussot et al., ACS Catal. 11 (2021) 6059.
    """
    hydrogen = _gas("HH", [(0, 0, 0), (0, 0, 0.74)])[1]
    water = _gas("OHH", [(0, 0, 0), (0.76, 0, 0.59), (-0.76, 0, 0.59)])[1]
    oxygen = water - hydrogen
    return {
        "H": hydrogen / 2.0,
        "O": oxygen,
        "C": gas_molecule("CO")[1] - oxygen,
        "N": gas_molecule("N2")[1] / 2.0,
    }


def _relax(atoms: Atoms, fmax: float, max_steps: int) -> list[tuple[Array, float, Array]]:
    """Relax in place; positions (Å), energy (eV) and raw forces (eV/Å) of every step.

    BFGS and not L-BFGS: the latter drives C and N atoms uphill off these surfaces.
    """
    atoms.calc = FastEMT()
    optimizer = BFGS(atoms, logfile=None, maxstep=0.1)
    path = []
    for _ in optimizer.irun(fmax=fmax, steps=max_steps):
        forces = atoms.get_forces(apply_constraint=False)
        path.append((atoms.positions.copy(), atoms.get_potential_energy(), forces))
    return path


def _rotation(rng: np.random.Generator, tilt: float) -> Array:
    """Rotation (3, 3): any azimuth, z tilted by at most `tilt` radians in a random direction."""
    spin, direction = rng.uniform(0, 2 * np.pi, 2)
    angle = rng.uniform(0, tilt)

    def about_z(a: float) -> Array:
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    lean = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    return about_z(direction) @ lean @ about_z(spin)


def _place(slab: Atoms, adsorbate: Atoms, rng: np.random.Generator) -> Atoms:
    """Slab with the adsorbate (tag 2) at a random site, just in contact.

    Site: centroid of the 1, 2 or 3 surface atoms nearest to a random point (atop, bridge, hollow),
    or the point itself. Upright within 25°, a third of the time in any orientation. Lowered until
    the closest contact is U(1, 1.25) times the sum of the covalent radii.
    """
    cell = slab.cell.array
    steps = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=2))) @ cell[:2]
    images = (slab.positions[None] + steps[:, None]).reshape(-1, 3)
    numbers = np.tile(slab.numbers, len(steps))
    is_top = np.tile(slab.positions[:, 2] > slab.positions[:, 2].max() - 1.0, len(steps))

    point = rng.random(2) @ cell[:2, :2]
    count = int(rng.integers(0, 4))
    if count:
        top = images[is_top]
        nearest = np.argsort(((top[:, :2] - point) ** 2).sum(1), kind="stable")[:count]
        point = top[nearest, :2].mean(0)
    tilt = np.pi if rng.random() < 1 / 3 else np.deg2rad(25.0)
    pos = adsorbate.positions @ _rotation(rng, tilt).T
    pos[:, :2] += point
    contact = rng.uniform(1.0, 1.25) * (
        covalent_radii[adsorbate.numbers][:, None] + covalent_radii[numbers][None]
    )
    lateral = ((pos[:, None, :2] - images[None, :, :2]) ** 2).sum(-1)  # (atoms, images)
    lift = images[None, :, 2] + np.sqrt(np.clip(contact**2 - lateral, 0, None)) - pos[:, None, 2]
    pos[:, 2] += lift[lateral < contact**2].max()

    system = slab.copy()
    system += Atoms(adsorbate.symbols, positions=pos, tags=[2] * len(adsorbate))
    system.set_constraint(FixAtoms(mask=system.get_tags() == 0))
    return system


def _anomaly(gas: Atoms, tags: Array, numbers: Array, start: Array, end: Array, cell: Array) -> int:
    """Index into ANOMALIES: what went wrong with the relaxation, as OC20 marks it."""
    radii = covalent_radii[numbers]
    ads = tags == 2
    sums = radii[ads][:, None] + radii[ads][None]

    def distances(pos: Array) -> Array:
        return np.linalg.norm(pos[:, None] - pos[None], axis=-1)

    bonded = distances(gas.positions) < 1.3 * sums
    if (distances(end[ads]) > 1.3 * sums)[bonded].any():
        return ANOMALIES.index("dissociation")
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=2))) @ cell[:2]
    vec = end[ads][:, None, None] - end[~ads][None, :, None] - steps[None, None]
    contact = 1.5 * (radii[ads][:, None] + radii[~ads][None])
    if not (np.linalg.norm(vec, axis=-1).min(-1) < contact).any():
        return ANOMALIES.index("desorption")
    if (np.linalg.norm((end - start)[~ads], axis=1) > 1.0).any():
        return ANOMALIES.index("reconstruction")
    return ANOMALIES.index("none")


def _drawn(
    recipe: Recipe, split: str, rng: np.random.Generator
) -> tuple[str, str, tuple[int, int, int], int]:
    """Bulk, adsorbate, facet and number of top layers left out of a system of a split."""
    known, heldout = split_bulks(recipe.seed, recipe.heldout_bulks)
    new_bulk = split in ("val_ood_cat", "val_ood_both")
    new_adsorbate = split in ("val_ood_ads", "val_ood_both")
    bulk = str(rng.choice(heldout if new_bulk else known))
    name = str(rng.choice(recipe.ood_adsorbates if new_adsorbate else recipe.train_adsorbates))
    facet = FACETS[int(rng.integers(len(FACETS)))]
    return bulk, name, facet, int(rng.integers(2)) if bulk not in METALS else 0


def _usable(frame: Structure) -> bool:
    """Whether a frame passes OC20's own filter."""
    assert frame.energy is not None
    assert frame.forces is not None
    return abs(frame.energy) <= MAX_ENERGY and bool((np.abs(frame.forces) <= MAX_FORCE).all())


def build_system(recipe: Recipe, split: str, sid: int) -> System:
    """Make one system: relax it, thin its frames at random and rattle some of them."""
    rng = np.random.default_rng([recipe.seed, sid])
    bulk, name, facet, shift = _drawn(recipe, split, rng)
    slab, slab_energy = _relaxed_slab(recipe, bulk, facet, shift)
    gas, _ = gas_molecule(name)
    system = _place(slab, gas, rng)
    start = system.positions.copy()
    numbers, tags, cell = system.numbers, system.get_tags(), system.cell.array.copy()
    reference = slab_energy + sum(gas_references()[symbol] for symbol in gas.symbols)
    path = _relax(system, recipe.fmax, recipe.max_steps)

    def frame(pos: Array, energy: float, forces: Array, fid: int) -> Structure:
        return Structure(
            numbers,
            pos,
            cell,
            np.ones(3, dtype=bool),
            tags,
            tags == 0,
            forces,
            energy - reference,
            sid,
            fid,
        )

    relaxation = [frame(*step, fid) for fid, step in enumerate(path)]
    num_rattled = round(recipe.rattled_share * recipe.frames_per_system)
    frames = [one for one in relaxation if _usable(one)]
    order = rng.permutation(len(frames))[: recipe.frames_per_system - num_rattled]
    kept = [frames[i] for i in np.sort(order)]
    potential = FastEMT()
    free = tags != 0
    for number in range(num_rattled):
        pos = path[int(rng.integers(len(path)))][0].copy()
        low, high = recipe.rattle_std
        std = low * (high / low) ** rng.random()
        pos[free] += rng.normal(0.0, std, (int(free.sum()), 3))
        energy, forces = potential.energy_forces(numbers, pos, cell, system.pbc)
        rattled = frame(pos, energy, forces, RATTLED_FID + number)
        if _usable(rattled):
            kept.append(rattled)

    end = path[-1]
    converged = bool(np.linalg.norm(end[2][free], axis=1).max() <= recipe.fmax)
    meta = {
        "sid": sid,
        "split": split,
        "bulk_symbols": bulk,
        "ads_symbols": name,
        "miller_index": list(facet),
        "shift": shift,
        "class": 0,
        "anomaly": _anomaly(gas, tags, numbers, start, end[0], cell),
        "converged": converged,
        "num_steps": len(path) - 1,
        "reference_energy": reference,
    }
    return System(kept, (relaxation[0], relaxation[-1]), meta)
