"""The section on single structures of a run: drawings with forces, parity, tables of errors."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.figures.style import INK, MUTED, SERIES, dress
from atomsweep.report.read.predictions import Array, Predictions, read_predictions
from atomsweep.report.read.tidy import METRIC
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import titles
from atomsweep.report.tables.parts import Part
from atomsweep.report.tables.structures import element_grid, force_grid, worst_grid, worst_of
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 3
MOST_POINTS = 3000  # of a parity plot


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
        told = f"{part.label(run)}, run {run['identity']}, on {part.split_title(split)}"
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
