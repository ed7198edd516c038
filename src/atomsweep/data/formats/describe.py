"""What is in a data set: counts, elements, sizes, distributions of labels, odd frames, a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atomsweep.data.formats.spilled import Spilled
from atomsweep.data.frames import Frame, Reader
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import parts_of
from atomsweep.data.structure import MAX_ATOMIC_NUMBER, Array, DataError, Structure, structure_fault

SHOWN = 5  # messages of one kind
ODD_FORCE = 50.0  # eV/Å, above which OC20 leaves frames out
_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 141)])  # eV/Å, |force component|


@dataclass
class Description:
    """Sums over frames; what has a number for each frame is in a temporary file.

    Attributes:
        natoms: of each usable frame.
        energies: of those that have one, eV.
        ids: (sid, fid) of each.
        elements: (119,) atoms of each atomic number.
        tags: atoms of tag 0, 1, 2.
        fixed: number of fixed atoms.
        force_counts: histogram over `_BINS` of |component| on free atoms.
        force_sum: of |component| on free atoms.
        odd: messages about frames with a force above `ODD_FORCE`.
        faults: messages about frames that cannot be used.
        unkept: frames by the constraint that a structure cannot keep.
        left_out: files that are not read and why, in words.
    """

    natoms: Spilled = field(default_factory=lambda: Spilled("i8"))
    energies: Spilled = field(default_factory=lambda: Spilled("f8"))
    ids: Spilled = field(default_factory=lambda: Spilled("i8", 2))
    elements: Array = field(default_factory=lambda: np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64))
    tags: Array = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    fixed: int = 0
    periodic: int = 0
    force_counts: Array = field(default_factory=lambda: np.zeros(len(_BINS) - 1, dtype=np.int64))
    force_sum: float = 0.0
    odd: Messages = field(default_factory=lambda: Messages())
    faults: Messages = field(default_factory=lambda: Messages())
    unkept: Counter[str] = field(default_factory=Counter)
    left_out: str = "none"

    def add(self, structure: Structure, where: str) -> None:
        """Count a structure."""
        self.natoms.append(structure.natoms)
        self.ids.append(structure.sid, structure.fid)
        self.elements += np.bincount(structure.atomic_numbers, minlength=len(self.elements))
        self.tags += np.bincount(np.clip(structure.tags, 0, 2), minlength=3)
        self.fixed += int(structure.fixed.sum())
        self.periodic += bool(structure.pbc.any())
        if structure.energy is not None:
            self.energies.append(structure.energy)
        if structure.forces is not None:
            largest = float(np.abs(structure.forces).max())
            if largest > ODD_FORCE:
                self.odd.append(f"{where}: |F| = {largest:.0f} eV/Å")
            free = np.abs(structure.forces[~structure.fixed]).ravel()
            self.force_counts += np.histogram(free, _BINS)[0]
            self.force_sum += float(free.sum())

    def quantile(self, share: float) -> float:
        """Of |force component|, to the width of a bin (12 %)."""
        total = np.cumsum(self.force_counts)
        return float(_BINS[1 + int(np.searchsorted(total, share * total[-1]))])

    def report(self) -> list[tuple[str, str]]:
        """Rows of name and value for a reader."""
        from ase.data import chemical_symbols

        frames, atoms, unkept = len(self.natoms), self.natoms.total(), sorted(self.unkept.items())
        fewest = min(int(piece.min()) for piece in self.natoms.pieces())
        most = max(int(piece.max()) for piece in self.natoms.pieces())
        repeated = frames - self.ids.distinct(2)
        order = np.argsort(-self.elements, kind="stable")
        elements = [
            f"{chemical_symbols[z]} {self.elements[z]}" for z in order if self.elements[z] > 0
        ]
        rows = [
            ("frames", str(frames)),
            ("systems", str(self.ids.distinct(1))),
            ("atoms", f"{atoms} ({fewest} to {most}, mean {atoms / frames:.1f})"),
            ("periodic frames", str(self.periodic)),
            (f"elements ({len(elements)})", ", ".join(elements)),
            ("tags 0 / 1 / 2", " / ".join(map(str, self.tags))),
            ("fixed atoms", str(self.fixed)),
            ("constraints not kept", "\n".join(f"{k} ({n} frames)" for k, n in unkept) or "none"),
        ]
        if count := len(self.energies):
            mean, std = self.energies.total() / count, self.energies.std()
            low, middle, high = np.quantile(self.energies.sample(), [0.01, 0.5, 0.99])
            rows += [
                ("energy (eV)", f"mean {mean:.4f}, std {std:.4f}"),
                ("energy 1 / 50 / 99 %", f"{low:.4f} / {middle:.4f} / {high:.4f}"),
            ]
        if components := int(self.force_counts.sum()):
            shares = " / ".join(f"{self.quantile(q):.3g}" for q in (0.1, 0.5, 0.9, 0.99))
            rows += [
                ("|F| component, free", f"mean {self.force_sum / components:.4f} eV/Å"),
                ("10 / 50 / 90 / 99 %", shares),
            ]
        rows += [
            ("without energy", str(frames - len(self.energies))),
            (f"|F| > {ODD_FORCE:.0f} eV/Å", self.odd.told()),
            ("cannot be used", self.faults.told()),
            ("repeated ids", str(repeated)),
            ("files left out", self.left_out),
        ]
        return rows

    def plot(self, path: Path, title: str) -> None:
        """Sizes, energies, forces and elements as one figure."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
        from ase.data import chemical_symbols

        figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
        figure.suptitle(title)
        sizes, energies, forces, elements = axes.ravel()
        sizes.hist(self.natoms.sample(), bins=40)
        sizes.set(xlabel="atoms", ylabel="frames")
        if len(self.energies):
            energies.hist(self.energies.sample(), bins=60)
        energies.set(xlabel="energy (eV)", ylabel="frames", yscale="log")
        if self.force_counts.any():
            forces.stairs(self.force_counts[1:], _BINS[1:], fill=True)
        forces.set(xlabel="|force component|, free atoms (eV/Å)", ylabel="components", xscale="log")
        there = np.flatnonzero(self.elements)
        elements.bar([chemical_symbols[z] for z in there], self.elements[there])
        elements.tick_params(axis="x", labelsize=max(4, 9 - len(there) // 8))
        elements.set(ylabel="atoms", yscale="log")
        figure.savefig(path, dpi=120)
        plt.close(figure)


@dataclass
class Messages:
    """The first of many messages, and their number."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def append(self, message: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(message)

    def told(self) -> str:
        """A line for each that is shown, after their number."""
        more = self.count - len(self.first)
        return "\n".join([str(self.count), *self.first, *([f"and {more} more"] if more else [])])


def describe(reader: Reader, files: Iterable[Path]) -> Description:
    """Read every frame of files once.

    Raises:
        DataError: there is no usable frame.
    """
    files = list(files)
    found = Description()
    for frame, file in _frames(reader, files):
        where = f"frame {frame.index} of {file}"
        fault: str | None = frame.fault
        if frame.structure is not None:
            fault = structure_fault(frame.structure)
        if fault:
            found.faults.append(f"{where}: {fault}")
            continue
        assert frame.structure is not None
        found.add(frame.structure, where)
        found.unkept.update(frame.unkept)
    if not len(found.natoms):
        count = found.faults.count
        raise DataError(
            f"none of {count} frames can be used, the first for this: {found.faults.first[0]}"
            if count
            else f"there is no frame in {', '.join(map(str, files)) or 'no files'}"
        )
    return found


def _frames(reader: Reader, files: list[Path]) -> Iterator[tuple[Frame, Path]]:
    for part in parts_of(reader, files):
        for frame in reader.frames(part.file, part.number, part.start, part.stop):
            yield frame, part.file
        close_environment(part.file)  # whose pages would count as memory


def as_text(rows: list[tuple[str, str]]) -> str:
    """Rows as aligned text; further lines of a value are indented."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 2)) for name, value in rows
    )
