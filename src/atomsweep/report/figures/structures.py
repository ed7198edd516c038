"""The section on single structures of a run: drawings with forces, parity, tables of errors."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.figures.style import INK, MUTED, SERIES, dress
from atomsweep.report.read.predictions import Array, Predictions, read_predictions
from atomsweep.report.read.tidy import METRIC
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.structures import (
    element_grid,
    force_grid,
    formula,
    worst_grid,
    worst_of,
)
from atomsweep.report.tables.table import Table
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 3
MOST_POINTS = (
    1500  # of a parity plot: each stands in the page as a vector, in the colours of its theme
)
ARROW = 2.2  # Å: length of the longest arrow


def structures_section(
    table: Table, number: int, problems: list[str], pictured: set[str]
) -> Section:
    """Structures of the best run of a table that has predictions; empty where none has.

    Args:
        table: the table.
        number: of the table, from 1.
        problems: files that cannot be read are added.
        pictured: identities whose structures another table of the page shows; this one is added.
    """
    section = Section(f"structures-{number}", "Structures")
    finished = table.df[table.df["state"] == schema.FINISHED]
    split = table.cells["split"].iloc[0]
    column = f"{METRIC}{schema.metric_name(split, table.metric)}"
    if column not in finished:
        return section
    order = finished[column].map(as_float).sort_values(ascending=titles.better(column) == "low")
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
        told = f"{table.label(run)}, run {run['identity']}, on {table.split_title(split)}"
        _fill(section, found, told, number)
        return section
    return section


def _fill(section: Section, found: Predictions, told: str, number: int) -> None:
    section.text.append(
        f"{told}: a sample of {len(found.arrays['natoms'])} structures. Errors are the mean over "
        "components of |predicted − reference|, over free atoms, in eV/Å."
    )
    worst = worst_of(found)
    section.grids += [
        ("The worst predictions.", worst_grid(found, worst)),
        ("By element.", element_grid(found)),
        ("By size of the reference force.", force_grid(found)),
    ]
    section.pictures += [
        Picture(
            f"structures-{number}",
            partial(_draw_structures, found, worst[:PICTURED]),
            "The worst predicted structures from the side, with force arrows",
            "The worst structures, seen along y, each with its mean error; dashed: what is in "
            "sight of the cell; pale: fixed atoms. Wide blue arrows: reference force; narrow "
            "orange ones, on top: predicted. Each picture has its own scale of arrows, drawn "
            "below it.",
            wide=True,
        ),
        Picture(
            f"parity-{number}",
            partial(_draw_parity, found),
            "Predicted against reference force components",
            "Predicted against reference force components of free atoms, eV/Å.",
        ),
    ]


def _draw_structures(found: Predictions, worst: list[int]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout=None)
    wide = 1 / len(worst)
    for place, i in enumerate(worst):
        axes = figure.add_axes(((place + 0.03) * wide, 0.02, 0.94 * wide, 0.84))
        _draw_structure(axes, found, i)
        atoms = found.structure == i
        name = formula(found.arrays["atomic_numbers"][atoms])
        told = f"{name}, id {found.arrays['sid'][i]}, frame {found.arrays['fid'][i]}"
        error = f"error {spelled.short(float(found.structure_errors()[i]))} eV/Å"
        axes.set_title(f"{told}\n{error}", fontsize=9, color=INK)
    return figure


def _draw_structure(axes: "Axes", found: Predictions, i: int) -> None:
    """Side view: x to the right, z up; what is nearer lies above what is farther."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.patches import Circle

    atoms = found.structure == i
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
    seen = np.concatenate([forces[free][:, [0, 2]] for forces in (reference, predicted)])
    scale = ARROW / max(float(np.linalg.norm(seen, axis=1).max(initial=0.0)), 1e-9)
    for forces, colour, width in ((reference, SERIES[0], 0.017), (predicted, SERIES[1], 0.0075)):
        _arrows(axes, pos[free][:, [0, 2]], scale * forces[free][:, [0, 2]], colour, width)
    tips = [pos[free][:, [0, 2]] + scale * f[free][:, [0, 2]] for f in (reference, predicted)]
    ends = np.concatenate([pos[:, [0, 2]], *tips])
    left, right = ends[:, 0].min() - 1.2, ends[:, 0].max() + 1.2
    if "cell" in found.arrays and (edges := _cell(found.arrays["cell"][i])):
        for (x0, z0), (x1, z1) in edges:
            axes.plot([x0, x1], [z0, z1], color=MUTED, lw=0.7, dashes=(3, 2), zorder=0)
            left, right = min(left, x0 - 0.3, x1 - 0.3), max(right, x0 + 0.3, x1 + 0.3)
    low = ends[:, 1].min() - 1.2
    axes.set_xlim(left, right)
    axes.set_ylim(low - 1.6, ends[:, 1].max() + 1.2)
    step = _round_force(ARROW / scale)
    at = np.array([[left + 0.2, low - 0.9]])
    _arrows(axes, at, np.array([[scale * step, 0.0]]), INK, 0.0075)
    axes.annotate(
        f"{step:g} eV/Å", (at[0, 0] + scale * step + 0.25, at[0, 1]), va="center", color=INK,
        fontsize=8, annotation_clip=False,
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_axis_off()


def _arrows(axes: "Axes", start: Array, along: Array, colour: str, width: float) -> None:
    """Arrows of a length in Å."""
    axes.quiver(
        start[:, 0], start[:, 1], along[:, 0], along[:, 1], color=colour, angles="xy",
        scale_units="xy", scale=1, width=width, headwidth=3, headlength=3.5, headaxislength=3.2,
        zorder=3, clip_on=False,
    )  # fmt: skip


def _cell(cell: Array) -> list[tuple[Array, Array]]:
    """Edges of a cell from the side; none where a vector is missing."""
    if cell.shape != (3, 3) or abs(float(np.linalg.det(cell))) < 1e-6:
        return []
    side = cell[:, [0, 2]]
    edges = []
    for i in range(3):
        others = [side[j] for j in range(3) if j != i]
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            start = a * others[0] + b * others[1]
            edges.append((start, start + side[i]))
    return edges


def _round_force(largest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not longer than an arrow may be."""
    power = 10.0 ** np.floor(np.log10(max(largest, 1e-9)))
    return float(max(f * power for f in (1, 2, 5) if f * power <= max(largest, 1e-9) * (1 + 1e-9)))


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
    axes.plot(true, predicted, ".", color=SERIES[0], ms=3, mew=0, alpha=0.55)
    axes.set_xlabel("reference, eV/Å", color=MUTED)
    axes.set_ylabel("predicted, eV/Å", color=MUTED, fontsize=8.5)
    axes.set_title("Force components", loc="left", color=INK)
    return figure
