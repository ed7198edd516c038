"""How the frames of `mini_md` are made: a molecule at rest, then Langevin dynamics on GFN2-xTB."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.generated.mini_md_recipe import FRAMES, MOLECULES, Recipe
from atomsweep.data.structure import Array

if TYPE_CHECKING:
    from ase import Atoms


class XTB:
    """GFN2-xTB energies and forces of one molecule (tblite), on one thread.

    More threads add up in an order that differs from call to call, and dynamics make another
    trajectory of that; for molecules of this size they are slower, too.

    Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).

    Args:
        numbers: (N,) atomic numbers.

    Raises:
        ModuleNotFoundError: tblite is not installed.
    """

    def __init__(self, numbers: Array) -> None:
        if find_spec("tblite") is None:
            raise ModuleNotFoundError(
                "data=mini_md needs tblite, which is not installed: pip install tblite"
            )
        self.numbers = numbers
        self._calculator: Any = None
        self._last: Any = None
        self._threads: Any = None

    def __call__(self, pos: Array) -> tuple[float, Array]:
        """Energy, eV, and forces (N, 3), eV/Å, at positions (N, 3), Å."""
        from ase.units import Bohr, Hartree

        if self._calculator is None:
            self._calculator, self._threads = self._set_up(pos / Bohr)
        else:
            self._calculator.update(positions=pos / Bohr)
        with self._threads.limit(limits=1):
            # from the orbitals of the step before: half the iterations
            self._last = self._calculator.singlepoint(self._last)
        energy, gradient = self._last["energy"], self._last["gradient"]
        return float(energy * Hartree), -np.asarray(gradient) * Hartree / Bohr

    def _set_up(self, pos: Array) -> tuple[Any, Any]:
        """Calculator at positions in Bohr, and a handle on the threads of its libraries."""
        from tblite.interface import Calculator
        from threadpoolctl import ThreadpoolController

        calculator = Calculator("GFN2-xTB", self.numbers, pos)
        calculator.set("verbosity", 0)
        # 0.001 of the default: forces are to be gradients of the energies to 1e-5 eV/Å
        calculator.set("accuracy", 1e-3)
        return calculator, ThreadpoolController()


def langevin(
    oracle: Callable[[Array], tuple[float, Array]],
    masses: Array,
    pos: Array,
    recipe: Recipe,
    after_step: Callable[[int, Array, Array, float, Array], None],
) -> None:
    """Langevin dynamics by the BAOAB splitting, which samples positions right at large steps.

    Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013).

    Args:
        oracle: positions → energy, eV, and forces, eV/Å.
        masses: (N,) u.
        pos: (N, 3) Å, where it starts.
        recipe: temperature, time step, friction, steps and seed.
        after_step: called with the number of the step from 1, positions, velocities in
            Å √(u/eV), energy and forces.
    """
    from ase.units import fs, kB

    rng = np.random.default_rng(recipe.seed)
    step, mass = recipe.timestep * fs, masses[:, None]
    thermal = np.sqrt(kB * recipe.temperature / mass)  # standard deviation of a velocity
    keep = np.exp(-recipe.friction * recipe.timestep)
    velocity = thermal * rng.standard_normal(pos.shape)
    energy, forces = oracle(pos)
    for number in range(1, recipe.equilibration + recipe.frames * recipe.stride + 1):
        velocity = velocity + step / 2 * forces / mass
        pos = pos + step / 2 * velocity
        noise = rng.standard_normal(pos.shape)
        velocity = keep * velocity + np.sqrt(1 - keep**2) * thermal * noise
        pos = pos + step / 2 * velocity
        energy, forces = oracle(pos)
        velocity = velocity + step / 2 * forces / mass
        after_step(number, pos, velocity, energy, forces)


def relaxed(molecule: str) -> Atoms:
    """The molecule at a minimum of GFN2-xTB.

    Raises:
        ModuleNotFoundError: tblite is not installed.
    """
    from ase import Atoms
    from scipy.optimize import minimize

    atoms = Atoms(*MOLECULES[molecule])
    oracle = XTB(atoms.numbers)

    def flat(x: Array) -> tuple[float, Array]:
        energy, forces = oracle(x.reshape(-1, 3))
        return energy, -forces.ravel()

    found = minimize(flat, atoms.positions.ravel(), jac=True, method="BFGS", options={"gtol": 0.01})
    atoms.positions = found.x.reshape(-1, 3)
    return atoms


def build_frames(recipe: Recipe, progress: bool, directory: Path) -> None:
    """Run the dynamics of a recipe and write its frames into `directory`."""
    atoms = relaxed(recipe.molecule)
    n = len(atoms)
    pos, forces = np.empty((2, recipe.frames, n, 3))
    energy = np.empty(recipe.frames)
    what = f"dynamics of {recipe.molecule}"
    with Progress(what, "frame", recipe.frames, 0, progress) as bar:

        def keep(number: int, at: Array, velocity: Array, value: float, force: Array) -> None:
            index, left = divmod(number - recipe.equilibration - 1, recipe.stride)
            if left != recipe.stride - 1 or index < 0:
                return
            centre = atoms.get_masses() @ at / atoms.get_masses().sum()
            pos[index], energy[index], forces[index] = at - centre, value, force
            bar.update(1)

        langevin(XTB(atoms.numbers), atoms.get_masses(), atoms.positions, recipe, keep)
    np.savez(directory / FRAMES, numbers=atoms.numbers, pos=pos, energy=energy, forces=forces)
