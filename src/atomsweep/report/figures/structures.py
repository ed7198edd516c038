"""Single structures of a run: the worst predictions, errors by element and by force, parity.

Read from `<run>/predictions/<split>.npz`, a sample of a split in the arrays of `ARRAYS`.
"""

import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from atomsweep.report.figures.curves import INK, MUTED, SERIES, dress
from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.read.tidy import METRIC, as_float
from atomsweep.report.tables import grids as render
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.parts import Part
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARRAYS = {
    "pos": "(N, 3), Å",
    "atomic_numbers": "(N,)",
    "natoms": "(B,)",
    "forces": "(N, 3), eV/Å, reference",
    "forces_pred": "(N, 3), eV/Å",
    "fixed": "(N,), bool: not counted",
    "sid": "(B,), text",
    "fid": "(B,), frame of the trajectory",
}
"""Arrays of a file of predictions, no pickles: N atoms of B structures, one after another."""

WORST = 10  # in the table
PICTURED = 3
BINS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, np.inf)  # of |F|, eV/Å
MOST_POINTS = 3000  # of a parity plot
Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """A sample of one split, see `ARRAYS`; `structure` tells of each atom whose it is."""

    arrays: dict[str, Array]
    structure: Array

    @property
    def free(self) -> Array:
        """Atoms that count."""
        return ~self.arrays["fixed"].astype(bool)

    @property
    def errors(self) -> Array:
        """Mean over components of |predicted − reference| of each atom, (N,), eV/Å."""
        difference = self.arrays["forces_pred"] - self.arrays["forces"]
        return np.asarray(np.abs(difference).mean(axis=1))

    def structure_errors(self) -> Array:
        """Force MAE of each structure over its free atoms, (B,); NaN where none is free."""
        count = len(self.arrays["natoms"])
        total = np.bincount(self.structure[self.free], self.errors[self.free], count)
        number = np.bincount(self.structure[self.free], minlength=count)
        return np.divide(total, number, out=np.full(count, np.nan), where=number > 0)


def read_predictions(path: Path) -> Predictions:
    """A file of predictions.

    Raises:
        ValueError: it is damaged, or an array is missing or does not fit the others.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in ARRAYS if name not in arrays]:
        raise ValueError(f"{path} must have the arrays {', '.join(ARRAYS)}; it has no {lacking[0]}")
    atoms = int(arrays["natoms"].sum())
    shapes: dict[str, tuple[int, ...]] = {
        "pos": (atoms, 3),
        "forces": (atoms, 3),
        "forces_pred": (atoms, 3),
    }
    shapes |= dict.fromkeys(("atomic_numbers", "fixed"), (atoms,))
    shapes |= dict.fromkeys(("sid", "fid"), arrays["natoms"].shape)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            told = f"{name} must have shape {shape}, got {arrays[name].shape}"
            raise ValueError(f"{path}: {told}")
    structure = np.repeat(np.arange(len(arrays["natoms"])), arrays["natoms"])
    return Predictions(arrays, structure)


def structures_section(part: Part, number: int, problems: list[str], pictured: set[str]) -> Section:
    """Structures of the best run of a table that has predictions; empty where none has.

    Args:
        part: the table.
        number: of the table, from 1.
        problems: files that cannot be read are added.
        pictured: identities whose structures another table of the page shows; this one is added.
    """
    section = Section(f"structures-{number}", "Structures")
    finished = part.frame[part.frame["state"] == schema.FINISHED]
    split = part.cells["split"].iloc[0]
    column = f"{METRIC}{schema.metric_name(split, part.metric)}"
    if column not in finished:
        return section
    order = finished[column].map(as_float).sort_values(ascending=render.better(column) == "low")
    places = finished["path"].map(str)
    for index in order.index:
        path = Path(places[index]) / schema.PREDICTIONS / f"{split}.npz"
        if not path.is_file():
            continue
        run = finished.loc[index]
        try:
            found = read_predictions(path)
        except ValueError as error:
            name = path.relative_to(path.parents[2])
            problems.append(str(error).replace(str(path), str(name)))
            continue
        if run["identity"] in pictured:
            return section
        pictured.add(run["identity"])
        told = f"{part.label(run)}, run {run['identity']}, on {render.split_title(split)}"
        _fill(section, found, told, number)
        return section
    return section


def _fill(section: Section, found: Predictions, told: str, number: int) -> None:
    section.text.append(
        f"{told}: a sample of {len(found.arrays['natoms'])} structures. Errors are the mean over "
        "components of |predicted − reference|, over free atoms, in eV/Å."
    )
    worst = _worst(found)
    section.grids += [
        ("The worst predictions.", worst_grid(found, worst)),
        ("By element.", element_grid(found)),
        ("By size of the reference force.", force_grid(found)),
    ]
    section.pictures += [
        Picture(
            f"structures-{number}",
            _draw_structures(found, worst[:PICTURED]),
            "The worst predicted structures from the side, with force arrows",
            "The worst structures, seen along y. Blue arrows: reference force; orange: predicted.",
            wide=True,
        ),
        Picture(
            f"parity-{number}",
            _draw_parity(found),
            "Predicted against reference force components",
            "Predicted against reference force components of free atoms, eV/Å.",
        ),
    ]


def worst_grid(found: Predictions, worst: list[int]) -> Grid:
    """Structures with the largest error, by id."""
    a, errors = found.arrays, found.structure_errors()
    lines = []
    for i in worst:
        atoms = found.structure == i
        largest = np.linalg.norm(a["forces"][atoms & found.free], axis=1).max()
        shown = [str(a["sid"][i]), str(a["fid"][i]), _formula(a["atomic_numbers"][atoms])]
        shown += [str(int(a["natoms"][i])), render.short(float(errors[i]))]
        lines.append([Text(text) for text in [*shown, render.short(float(largest))]])
    return Grid(["Id", "Frame", "Formula", "Atoms", "Error", "Largest |F|"], lines, "lllrrr")


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
            Text(render.count(int(chosen.sum()))),
            Text(render.short(float(found.errors[chosen].mean()))),
            Text(render.short(float(size[chosen].mean()))),
        ]
        for name, chosen in groups
        if chosen.any()
    ]
    return Grid([title, "Atoms", "Error", "Mean |F|"], lines, "lrrr")


def _worst(found: Predictions) -> list[int]:
    errors = np.nan_to_num(found.structure_errors(), nan=-1.0)
    return [int(i) for i in np.argsort(-errors, kind="stable")[:WORST] if errors[i] >= 0]


def symbol(number: int) -> str:
    """Symbol of an element."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[int(number)])


def _formula(numbers: Array) -> str:
    kinds, counts = np.unique(numbers, return_counts=True)
    return "".join(f"{symbol(z)}{n if n > 1 else ''}" for z, n in zip(kinds, counts, strict=True))


def _draw_structures(found: Predictions, worst: list[int]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for place, i in enumerate(worst, 1):
        axes = figure.add_subplot(1, len(worst), place)
        _draw_structure(axes, found, found.structure == i)
        title = f"{found.arrays['sid'][i]}, frame {found.arrays['fid'][i]}"
        axes.set_title(title, fontsize=9, color=INK)
    return figure


def _draw_structure(axes: "Axes", found: Predictions, atoms: Array) -> None:
    """Side view: x to the right, z up; what is nearer lies above what is farther."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.patches import Circle

    a = {name: found.arrays[name][atoms] for name in ("pos", "atomic_numbers", "fixed")}
    for k in np.argsort(-a["pos"][:, 1]):
        z = int(a["atomic_numbers"][k])
        centre = (float(a["pos"][k, 0]), float(a["pos"][k, 2]))
        axes.add_patch(
            Circle(
                centre,
                0.8 * float(covalent_radii[z]),
                facecolor=tuple(jmol_colors[z]),
                edgecolor=MUTED,
                lw=0.6,
                alpha=0.35 if a["fixed"][k] else 0.9,
            )
        )
    pos, free = found.arrays["pos"][atoms], ~a["fixed"].astype(bool)
    reference, predicted = (found.arrays[n][atoms] for n in ("forces", "forces_pred"))
    scale = 1.8 / max(
        float(np.abs(reference[free]).max()), float(np.abs(predicted[free]).max()), 1e-9
    )
    for forces, colour in ((reference, SERIES[0]), (predicted, SERIES[1])):
        axes.quiver(
            pos[free, 0], pos[free, 2], scale * forces[free, 0], scale * forces[free, 2],
            color=colour, angles="xy", scale_units="xy", scale=1, width=0.009, zorder=3,
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0.12)
    axes.set_axis_off()


def _draw_parity(found: Predictions) -> "Figure":
    from matplotlib.figure import Figure

    true, predicted = (found.arrays[n][found.free].ravel() for n in ("forces", "forces_pred"))
    if len(true) > MOST_POINTS:
        chosen = np.random.default_rng(0).choice(len(true), MOST_POINTS, replace=False)
        true, predicted = true[chosen], predicted[chosen]
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    axes.plot(ends, ends, color=MUTED, lw=1, dashes=(3, 2))
    axes.plot(true, predicted, ".", color=SERIES[0], ms=2.5, alpha=0.5, rasterized=True)
    axes.set_xlabel("reference, eV/Å", color=MUTED)
    axes.set_ylabel("predicted, eV/Å", color=MUTED, fontsize=8.5)
    axes.set_title("Force components", loc="left", color=INK)
    return figure
