"""Errors of single structures as grids: the worst, by element, by size of the force."""

from collections import Counter
from itertools import pairwise

import numpy as np

from atomsweep.report.read.predictions import Array, Predictions
from atomsweep.report.tables import spelled
from atomsweep.report.tables.grids import Grid, Text

WORST = 10  # in the table
UNITS_OF_FORCE = ("Error, eV/Å", "Largest |F|, eV/Å", "Mean |F|, eV/Å")
BINS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, np.inf)  # of |F|, eV/Å


def worst_grid(found: Predictions, worst: list[int]) -> Grid:
    """Structures with the largest error, by id."""
    a, errors = found.arrays, found.structure_errors()
    lines = []
    for i in worst:
        atoms = found.structure == i
        largest = np.linalg.norm(a["forces"][atoms & found.free], axis=1).max()
        shown = [str(a["sid"][i]), str(a["fid"][i]), formula(a["atomic_numbers"][atoms])]
        shown += [str(int(a["natoms"][i])), spelled.short(float(errors[i]))]
        lines.append([Text(text) for text in [*shown, spelled.short(float(largest))]])
    return Grid(["Id", "Frame", "Formula", "Atoms", *UNITS_OF_FORCE[:2]], lines, "lllrrr")


def element_grid(found: Predictions) -> Grid:
    """Error by element."""
    numbers = found.arrays["atomic_numbers"]
    groups = [(symbol(z), found.free & (numbers == z)) for z in np.unique(numbers[found.free])]
    return _grouped(found, "Element", groups)


def force_grid(found: Predictions) -> Grid:
    """Error by size of the reference force."""
    size = np.linalg.norm(found.arrays["forces"], axis=1)
    groups = []
    for low, high in pairwise(BINS):
        told = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
        groups.append((told, found.free & (size >= low) & (size < high)))
    return _grouped(found, "|F|, eV/Å", groups)


def _grouped(found: Predictions, title: str, groups: list[tuple[str, Array]]) -> Grid:
    size = np.linalg.norm(found.arrays["forces"], axis=1)
    lines = [
        [
            Text(name),
            Text(spelled.count(int(chosen.sum()))),
            Text(spelled.short(float(found.errors[chosen].mean()))),
            Text(spelled.short(float(size[chosen].mean()))),
        ]
        for name, chosen in groups
        if chosen.any()
    ]
    return Grid([title, "Atoms", UNITS_OF_FORCE[0], UNITS_OF_FORCE[2]], lines, "lrrr")


def worst_of(found: Predictions) -> list[int]:
    """Indices of the structures with the largest errors, the worst first."""
    errors = np.nan_to_num(found.structure_errors(), nan=-1.0)
    return [int(i) for i in np.argsort(-errors, kind="stable")[:WORST] if errors[i] >= 0]


def symbol(number: int) -> str:
    """Symbol of an element."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[int(number)])


def formula(numbers: Array) -> str:
    """`C2H6O`, `AgHNi`: a formula in Hill's order, by the alphabet, after C and H where C is in it.

    ASE's order of this name puts H first without C too.
    """
    counts = Counter(symbol(z) for z in numbers)
    first = [one for one in ("C", "H") if "C" in counts and one in counts]
    order = first + sorted(set(counts) - set(first))
    return "".join(f"{one}{counts[one] if counts[one] > 1 else ''}" for one in order)
