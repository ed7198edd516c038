"""The embedded molecules `mini_md`: dynamics on a semi-empirical quantum potential, made on use.

The stand-in for MD17: the same layout and division, GFN2-xTB instead of DFT. Frames are correlated,
so they are dealt out by frame, as MD17's are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomsweep.data.formats.npz import read_npz
from atomsweep.data.generated.molecules import SPLITS, MoleculeSource
from atomsweep.data.progress import Progress
from atomsweep.data.store.locked_build import build_once
from atomsweep.data.structure import Array, OnError, Provenance

if TYPE_CHECKING:
    from ase import Atoms

GENERATOR = 2  # raise when the same recipe would give other data
NOTE = "GFN2-xTB, not DFT: numbers are not comparable with those on MD17"
FRAMES = "frames.npz"
ARRAYS = ("numbers", "pos", "energy", "forces")

# Rough geometries (Å), relaxed before use; the enol form of malonaldehyde, which MD17 has
MOLECULES: dict[str, tuple[str, tuple[tuple[float, float, float], ...]]] = {
    "ethanol": (
        "CCOHHHHHH",
        (
            (-1.22, -0.22, 0.0),
            (0.0, 0.66, 0.0),
            (1.19, -0.15, 0.0),
            (1.95, 0.44, 0.0),
            (-2.13, 0.39, 0.0),
            (-1.24, -0.87, 0.89),
            (-1.24, -0.87, -0.89),
            (0.02, 1.31, 0.89),
            (0.02, 1.31, -0.89),
        ),
    ),
    "malonaldehyde": (
        "CCCOOHHHH",
        (
            (-1.2, 0.7, 0.0),
            (0.0, 0.0, 0.0),
            (1.2, 0.7, 0.0),
            (-1.28, 1.94, 0.0),
            (1.25, 2.02, 0.0),
            (-2.13, 0.13, 0.0),
            (0.0, -1.09, 0.0),
            (2.12, 0.15, 0.0),
            (0.32, 2.3, 0.0),
        ),
    ),
    "benzene": (
        "CCCCCCHHHHHH",
        tuple(
            (r * float(np.cos(k * np.pi / 3)), r * float(np.sin(k * np.pi / 3)), 0.0)
            for r in (1.39, 2.48)
            for k in range(6)
        ),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What determines the frames.

    Attributes:
        molecule: one of `MOLECULES`.
        seed: of velocities and noise.
        frames: how many are kept.
        temperature: K.
        timestep: fs.
        stride: steps between frames.
        friction: 1/fs, of the Langevin thermostat.
        equilibration: steps before the first frame.
    """

    molecule: str
    seed: int
    frames: int
    temperature: float
    timestep: float
    stride: int
    friction: float
    equilibration: int


class MiniMD(MoleculeSource):
    """Frames of one small molecule from Langevin dynamics with GFN2-xTB as oracle.

    Args:
        root: directory that holds data sets; the frames go to `<root>/mini_md-<fingerprint>`.
        molecule: ethanol, malonaldehyde or benzene.
        seed: of velocities, noise and division.
        frames: how many are made.
        temperature: K.
        timestep: fs.
        stride: steps between frames.
        friction: 1/fs.
        equilibration: steps before the first frame.
        train_size: frames.
        val_size: frames.
        test_size: the first so many of the rest; None keeps all.
        on_error: "skip" leaves out frames that cannot be used, counts and logs them.
        name: how reports call it.

    Raises:
        ValueError: an unknown molecule, or too few frames for the division.
    """

    def __init__(
        self,
        root: str,
        molecule: str,
        seed: int,
        frames: int,
        temperature: float,
        timestep: float,
        stride: int,
        friction: float,
        equilibration: int,
        train_size: int,
        val_size: int,
        test_size: int | None = None,
        on_error: OnError = "raise",
        name: str = "mini_md",
    ) -> None:
        if molecule not in MOLECULES:
            raise ValueError(
                f"data.molecule must be one of {', '.join(MOLECULES)}, got {molecule!r}"
            )
        if frames <= train_size + val_size:
            raise ValueError(
                f"data.frames is {frames}, too few for train_size={train_size}, "
                f"val_size={val_size} and a test set"
            )
        self.recipe = Recipe(
            molecule,
            seed,
            frames,
            float(temperature),
            float(timestep),
            stride,
            float(friction),
            equilibration,
        )
        self.molecule = molecule
        super().__init__(Path(root), train_size, val_size, test_size, on_error, name)
        self.directory = self.root / f"mini_md-{molecule}-{_hash(asdict(self.recipe))}"

    def fingerprint(self) -> str:
        """Hash of the recipe, of the generator's version and of the division."""
        sizes = [self.train_size, self.val_size, self.test_size]
        return _hash([asdict(self.recipe), sizes])

    def prepare(self, progress: bool = True) -> None:
        """Run the dynamics unless its frames are there, and divide them.

        Raises:
            ModuleNotFoundError: tblite is not installed.
            OSError: the disk is full or not writable; names the path.
        """
        if self.divided:
            return
        build_once(self.directory, partial(_build, self.recipe, progress), f"{self.name} frames")
        arrays = read_npz(self.directory / FRAMES, ARRAYS)
        self._divide(
            arrays.pop("numbers"),
            arrays,
            np.random.default_rng(self.recipe.seed).permutation(self.recipe.frames),
            None,
            {split: f"{self.name} {self.molecule} {split}" for split in SPLITS},
        )

    @property
    def provenance(self) -> Provenance:
        """Made here; see `NOTE`."""
        note = f"{NOTE}; {self.molecule} at {self.recipe.temperature:g} K, divided by frame"
        return Provenance("generated by atomsweep.data.mini_md", "CC0-1.0", note)


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


def _build(recipe: Recipe, progress: bool, directory: Path) -> None:
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


def _hash(content: object) -> str:
    text = json.dumps([GENERATOR, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
