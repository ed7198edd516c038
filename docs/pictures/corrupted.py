"""Draws what DeNS makes of structures of a training split (arXiv:2403.09549, Appendix F).

    python docs/pictures/corrupted.py corrupted.png data=mini_oc dens=oc20 --sigmas 0.1 0.3 0.5

One row for each structure: as it is, then corrupted at each scale.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch_geometric.data import Batch

from atomsweep.build import build
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.dens.corrupt import Corruption, Draw
from atomsweep.shipped import CONF, shipped

Array = np.ndarray[Any, Any]


def main() -> None:
    """Draw as many structures as asked, chosen by the seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="of the picture: .png, .pdf or .svg")
    parser.add_argument("choices", nargs="*", help="data=… dens=… and what else is typed for a run")
    parser.add_argument("--structures", type=int, default=3, help="rows")
    parser.add_argument("--sigmas", type=float, nargs="+", required=True, help="Å")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with initialize_config_dir(str(shipped(CONF)), version_base="1.3"):
        config: Any = OmegaConf.to_container(
            compose("config", ["dens=v2_fixed", *options.choices]), resolve=True
        )
    source = build(config["data"], "data")
    source.prepare()
    split = source.split("train")
    places = np.random.default_rng(options.seed).choice(
        len(split), options.structures, replace=False
    )
    batch = GraphDataset(split, None).batch(places)
    dens = build(config["dens"], "dens")
    draw_corruption(batch, dens, options.sigmas, options.seed, options.path)


def draw_corruption(
    batch: Batch, corruption: Corruption, sigmas: Sequence[float], seed: int, path: Path
) -> None:
    """One row for each structure: as it is, then corrupted at each scale, all atoms drawn for.

    Moved atoms are filled, with the outline of where they were and an arrow along the force that is
    encoded; atoms left as they were are pale.

    Args:
        batch: structures with forces.
        corruption: ratio, fixed atoms and the rest; every structure is corrupted.
        sigmas: standard deviations of the noise, one for each column, Å.
        seed: of the draws.
        path: of the picture; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    places = torch.arange(len(batch.cell))
    columns: list[tuple[str, Draw | None]] = [("original", None)]
    for sigma in sigmas:
        one = replace(corruption, prob=1.0, max_force=None, max_ratio=None)
        one = replace(one, sigma_high=sigma, sigma_low=None, num_sigmas=1)
        columns.append((f"σ = {sigma:g} Å", one.draw(batch, seed, places)))
    figure = Figure(figsize=(3.2 * len(columns), 3.2 * len(places)), layout="constrained")
    axes = figure.subplots(len(places), len(columns), squeeze=False)
    for row, structure in enumerate(places.tolist()):
        atoms = (batch.batch == structure).numpy()
        for axis, (title, draw) in zip(axes[row], columns, strict=True):
            _panel(axis, batch, atoms, draw)
            axis.set_title(title if row == 0 else "")
        label = f"sid {int(batch.sid[structure])}, fid {int(batch.fid[structure])}"
        axes[row, 0].text(0.02, 0.98, label, transform=axes[row, 0].transAxes, va="top", size=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _panel(axis: Any, batch: Batch, atoms: Array, draw: Draw | None) -> None:
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.patches import Circle

    pos = batch.pos.numpy()[atoms]
    noise = np.zeros_like(pos) if draw is None else draw.noise.numpy()[atoms]
    encoded = np.zeros(len(pos), bool) if draw is None else draw.encoded.numpy()[atoms]
    moved = np.zeros(len(pos), bool) if draw is None else draw.moved.numpy()[atoms]
    forces = batch.forces.numpy()[atoms]
    view = _view(pos, bool(batch.pbc.any()))
    before, after = pos @ view.T, (pos + noise) @ view.T
    numbers = batch.atomic_numbers.numpy()[atoms]
    for atom in np.argsort(after[:, 2]):  # the nearest to the eye last
        radius, colour = 0.7 * covalent_radii[numbers[atom]], jmol_colors[numbers[atom]]
        pale = 1.0 if draw is None or moved[atom] else 0.35
        axis.add_patch(
            Circle(after[atom, :2], radius, fc=colour, ec="black", lw=0.6, alpha=pale, zorder=2)
        )
        if moved[atom]:
            axis.add_patch(
                Circle(before[atom, :2], radius, fill=False, ec="black", ls=":", lw=0.8, zorder=3)
            )
    arrows = (forces @ view.T)[:, :2]
    largest = np.linalg.norm(forces, axis=-1).max()
    if encoded.any() and largest > 0:  # the largest force of the structure is 2 Å long
        start, length = after[encoded, :2], 2.0 / largest * arrows[encoded]
        axis.quiver(
            *start.T, *length.T, angles="xy", scale_units="xy", scale=1, color="crimson", zorder=4,
            width=0.008,
        )  # fmt: skip
    low, high = before[:, :2].min(0) - 2.2, before[:, :2].max(0) + 2.2
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])


def _view(pos: Array, periodic: bool) -> Array:
    """Rows: right, up and towards the eye. Slabs from the side, a little from above."""
    if not periodic:
        return np.linalg.svd(pos - pos.mean(0), full_matrices=True)[2]
    turn, tilt = np.radians(15), np.radians(12)
    right = np.array([np.cos(turn), np.sin(turn), 0])
    eye = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    return np.stack([right, np.cross(eye, right), eye])


if __name__ == "__main__":
    main()
