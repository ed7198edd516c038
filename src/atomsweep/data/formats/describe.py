"""What is in a data set: counts, elements, sizes, distributions of labels, odd frames, a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.formats.sane import Histogram, Said, UnitSigns
from atomsweep.data.formats.tallies import (
    Drawn,
    Identities,
    Range,
    Reasons,
    row_of,
    share,
)
from atomsweep.data.frames import Frame, Reader
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import Part, frames_of, parts_of
from atomsweep.data.store.systems import ROW
from atomsweep.data.structure import MAX_ATOMIC_NUMBER, Array, DataError, Structure, structure_fault
from atomsweep.graph.neighbors import shortest_distance
from atomsweep.processes import ProcessLost, in_order

MAX_FORCE = 50.0  # eV/Å, above which OC20 leaves frames out
CLOSE = 0.5  # Å: no two atoms of a molecule or solid are closer
TOGETHER = 4096  # frames whose identities become an array
LARGE = 8  # parts; of more, other processes read some
LOOK = 3.0  # Å: how far the first frames are searched for near atoms
_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 141)])  # eV/Å, |force component|
_MERGED = (
    *("energies", "energies_per_atom", "some_energies", "forces", "components"),
    *("signs", "odd", "faults"),
)


@dataclass
class Description:
    """Sums over frames, in memory that does not grow with them.

    Attributes:
        max_force: eV/Å, above which `data.max_force` leaves a frame out.
        said: units that were given.
        sizes: frames by their number of atoms.
        elements: (119,) atoms of each atomic number.
        tags: atoms of tag 0, 1, 2.
        fixed: number of fixed atoms.
        components: |component| of forces on free atoms, eV/Å.
        force_sum: of |component| on free atoms.
        odd: frames with a force above `max_force`.
        faults: frames that cannot be used.
        unkept: frames by the constraint that a structure cannot keep.
        distance: the shortest between two atoms or images of them, Å, and whose.
        left_out: files that are not read and why, in words.
    """

    max_force: float | None = MAX_FORCE
    said: Said = field(default_factory=Said)
    sizes: Counter[int] = field(default_factory=Counter)
    energies: Range = field(default_factory=Range)
    energies_per_atom: Range = field(default_factory=Range)
    some_energies: Drawn = field(default_factory=Drawn)
    forces: Range = field(default_factory=Range)
    identities: Identities = field(default_factory=Identities)
    signs: UnitSigns = field(default_factory=UnitSigns)
    elements: Array = field(default_factory=lambda: np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64))
    tags: Array = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    fixed: int = 0
    periodic: int = 0
    components: Histogram = field(default_factory=lambda: Histogram(_BINS))
    force_sum: float = 0.0
    odd: Reasons = field(default_factory=Reasons)
    faults: Reasons = field(default_factory=Reasons)
    unkept: Counter[str] = field(default_factory=Counter)
    distance: tuple[float, str] = (LOOK, "")
    left_out: str = "none"

    @property
    def frames(self) -> int:
        """Frames that can be used."""
        return self.sizes.total()

    def add(self, frame: Frame, where: str) -> None:
        """Count a frame that can be used."""
        structure = frame.structure
        assert structure is not None
        self.sizes[structure.natoms] += 1
        self.unkept.update(frame.unkept)
        self.elements += np.bincount(structure.atomic_numbers, minlength=len(self.elements))
        self.tags += np.bincount(np.clip(structure.tags, 0, 2), minlength=3)
        self.fixed += int(structure.fixed.sum())
        self.periodic += bool(structure.pbc.any())
        self.signs.add(structure)
        self._add_distance(structure, where)
        if structure.energy is not None:
            self.energies.add(structure.energy, where)
            self.energies_per_atom.add(structure.energy / structure.natoms, where)
            self.some_energies.add(structure.energy)
        if structure.forces is not None:
            self._add_forces(structure.forces, structure.fixed, where)

    def merge(self, other: Description) -> None:
        """Take the frames of another, which come after, but for their identities."""
        for name in ("sizes", "unkept"):
            getattr(self, name).update(getattr(other, name))
        for name in ("elements", "tags", "fixed", "periodic", "force_sum"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _MERGED:
            getattr(self, name).merge(getattr(other, name))
        if other.distance[1] and (not self.distance[1] or other.distance[0] < self.distance[0]):
            self.distance = other.distance

    def _add_forces(self, forces: Array, fixed: Array, where: str) -> None:
        largest = float(np.abs(forces).max())
        self.forces.add(largest, where)
        if self.max_force is not None and largest > self.max_force:
            self.odd.add(f"|F| = {largest:.0f} eV/Å", where)
        free = np.abs(forces[~fixed]).ravel()
        self.components.add(free)
        self.force_sum += float(free.sum())

    def _add_distance(self, structure: Structure, where: str) -> None:
        """Look for atoms that are nearer than any before."""
        from ase.data import chemical_symbols

        found = shortest_distance(structure.pos, structure.cell, structure.pbc, self.distance[0])
        if found is not None and (found[0] < self.distance[0] or not self.distance[1]):
            distance, i, j = found
            a, b = (chemical_symbols[structure.atomic_numbers[k]] for k in (i, j))
            what = "and an image of it" if i == j else f"and {j} ({b})"
            self.distance = distance, f"atoms {i} ({a}) {what} in {where}"

    def quantile(self, part: float) -> float:
        """Of |force component|, to the width of a bin (12 %)."""
        total = np.cumsum(self.components.counts)
        return float(_BINS[1 + int(np.searchsorted(total, part * total[-1]))])

    def report(self) -> list[tuple[str, str]]:
        """Rows of name and value for a reader."""
        from ase.data import chemical_symbols

        usable, unkept = self.frames, sorted(self.unkept.items())
        read = usable + self.faults.counts.total()
        atoms = sum(size * count for size, count in self.sizes.items())
        order = np.argsort(-self.elements, kind="stable")
        elements = [
            f"{chemical_symbols[z]} {self.elements[z]}" for z in order if self.elements[z] > 0
        ]
        sizes = f"{min(self.sizes)} to {max(self.sizes)}, mean {atoms / usable:.1f}"
        distance, whose = self.distance
        return [
            ("frames", f"{usable}" + (f" of {read} that were read" if read > usable else "")),
            ("cannot be used", self.faults.text(read)),
            *(
                [(f"|F| > {self.max_force:g} eV/Å, left out", self.odd.text(read))]
                if self.max_force is not None
                else []
            ),
            *self.identities.report(),
            ("atoms", f"{atoms} ({sizes})"),
            ("periodic frames", str(self.periodic)),
            (f"elements ({len(elements)})", ", ".join(elements)),
            ("tags 0 / 1 / 2", " / ".join(map(str, self.tags))),
            ("fixed atoms", str(self.fixed)),
            ("constraints not kept", "\n".join(f"{k} ({n} frames)" for k, n in unkept) or "none"),
            (
                "shortest distance",
                f"{distance:.3f} Å, {whose}" if whose else f"above {LOOK:g} Å",
            ),
            *self._labels(),
            ("files left out", self.left_out),
            ("what looks odd", "\n".join(self.oddities()) or "nothing"),
        ]

    def _labels(self) -> list[tuple[str, str]]:
        rows = []
        if self.energies.count:
            energies = self.energies
            low, middle, high = np.quantile(self.some_energies.values, [0.01, 0.5, 0.99])
            rows += [
                ("energy (eV)", f"mean {energies.mean:.4f}, std {energies.std:.4f}"),
                ("energy 1 / 50 / 99 %", f"{low:.4f} / {middle:.4f} / {high:.4f}"),
                ("energy range", energies.ends()),
                ("energy per atom", f"{self.energies_per_atom.ends()} eV"),
            ]
        if components := int(self.components.counts.sum()):
            shares = " / ".join(f"{self.quantile(q):.3g}" for q in (0.1, 0.5, 0.9, 0.99))
            rows += [
                ("|F| component, free", f"mean {self.force_sum / components:.4f} eV/Å"),
                ("10 / 50 / 90 / 99 %", shares),
                ("largest of a frame", f"{self.forces.ends('.4g')} eV/Å"),
            ]
        if (ratio := self.signs.work_ratio) is not None:
            pairs = f"{self.signs.pairs} pairs of frames that follow one another"
            rows.append(("energy change / work of forces", f"{ratio:.3f} ({pairs})"))
        without = self.frames - self.energies.count, self.frames - self.forces.count
        return [*rows, ("without energy / forces", " / ".join(map(str, without)))]

    def oddities(self) -> list[str]:
        """Sentences about what a conversion would ask, and about atoms that are too close."""
        found = []
        frames = self.frames
        limit = self.max_force
        fault = self.said.fault(self.signs)
        if fault is not None:
            found.append(fault)
        if limit is not None and self.odd.counts.total() > 0.2 * frames:
            found.append(
                f"{share(self.odd.counts.total(), frames)} of the frames have a force above "
                f"{limit:g} eV/Å and are left out; if they are not in eV/Å, type data.energy_unit="
                f"kcal/mol (or another); if they are, data.max_force={10 * limit:g}, or null"
            )
        elif fault is None and limit is not None and self.signs.median_force > 0.2 * limit:
            found.append(
                f"half of all forces are above {self.signs.median_force:.0f} eV/Å, as of data in "
                "kcal/mol; type data.energy_unit=kcal/mol (or another) if they are not in eV/Å"
            )
        if rounded := self.signs.grid.fault:
            found.append(rounded)
        if self.distance[1] and self.distance[0] < CLOSE:
            found.append(
                f"atoms are {self.distance[0]:.3g} Å apart, which no molecule or solid has: "
                "positions must be in Å, and no atom may be there twice"
            )
        return found

    def plot(self, path: Path, title: str) -> None:
        """Sizes, energies, forces and elements as one figure."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
        from ase.data import chemical_symbols

        figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
        figure.suptitle(title)
        sizes, energies, forces, elements = axes.ravel()
        sizes.hist(list(self.sizes), bins=40, weights=list(self.sizes.values()))
        sizes.set(xlabel="atoms", ylabel="frames")
        if self.energies.count:
            drawn = self.some_energies.values
            energies.hist(
                drawn, bins=60, weights=np.full(len(drawn), self.energies.count / len(drawn))
            )
        energies.set(xlabel="energy (eV)", ylabel="frames", yscale="log")
        if (counts := self.components.counts).any():
            forces.stairs(counts[1:], _BINS[1:], fill=True)
        forces.set(xlabel="|force component|, free atoms (eV/Å)", ylabel="components", xscale="log")
        there = np.flatnonzero(self.elements)
        elements.bar([chemical_symbols[z] for z in there], self.elements[there])
        elements.tick_params(axis="x", labelsize=max(4, 9 - len(there) // 8))
        elements.set(ylabel="atoms", yscale="log")
        figure.savefig(path, dpi=120)
        plt.close(figure)


def describe(
    reader: Reader,
    files: Iterable[Path],
    max_force: float | None = MAX_FORCE,
    said: Said | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Description:
    """Read every frame of files once. What is found does not depend on the number of processes.

    Args:
        reader: of the files.
        files: in order.
        max_force: eV/Å, as of a conversion.
        said: units of the labels.
        workers: processes.
        progress: show how far it is, where there are many frames.

    Raises:
        DataError: there is no usable frame.
    """
    files = list(files)
    found = Description(max_force, said if said is not None else Said())
    parts = [(reader, part, max_force, found.said) for part in parts_of(reader, files)]
    large = len(parts) > LARGE
    workers = workers if large else 1
    try:
        with Progress("reading frames", "part", len(parts), 0, progress and large) as bar:
            for one, rows in in_order(_of_part, parts, workers):
                found.merge(one)
                found.identities.add(rows)
                bar.update(1)
    except ProcessLost as error:
        raise OSError(f"the files cannot be read: {error}") from error
    if not found.frames:
        count = found.faults.counts.total()
        raise DataError(
            f"none of {count} frames can be used: {found.faults.first}"
            if count
            else f"there is no frame in {', '.join(map(str, files)) or 'no files'}"
        )
    return found


def _of_part(
    reader: Reader, part: Part, max_force: float | None, said: Said
) -> tuple[Description, Array]:
    """What is found in a part, and its frames as `ROW`s."""
    found, told, rows = Description(max_force, said), list[Array](), list[tuple[int, ...]]()
    found.some_energies.place = part.number << 40 | part.start
    for frame in frames_of(reader, part, said.units):
        where = f"frame {frame.index} of {part.file}"
        fault: str | None = frame.fault
        if frame.structure is not None:
            fault = structure_fault(frame.structure)
        if fault:
            found.faults.add(fault, where)
        else:
            found.add(frame, where)
            rows.append(row_of(frame, part.number, len(told) * TOGETHER + len(rows)))
        if len(rows) == TOGETHER:  # an array is a fifth as large
            told.append(np.array(rows, ROW))
            rows = []
    close_environment(part.file)  # whose pages would count as memory
    return found, np.concatenate([*told, np.array(rows, ROW)])


def as_text(rows: list[tuple[str, str]]) -> str:
    """Rows as aligned text; further lines of a value are indented."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 2)) for name, value in rows
    )
