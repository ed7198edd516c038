"""The Median of data, made beside the first run on them: what errors are read against."""

from collections.abc import Callable, Sequence

from hydra.errors import HydraException

from atomsweep.build import UserError
from atomsweep.launch.compose import composed_cells
from atomsweep.launch.plan import Cell
from atomsweep.launch.slurm.settings import slurm_settings
from atomsweep.stated import stated
from atomsweep.sweep.file import key_of

MODEL = "median"
KEPT = ("data", "root", "tracking")  # what a baseline has in common with the runs


def baselines_of(cells: Sequence[Cell], judged: bool = False) -> list[Cell]:
    """One for each data set that cells train on here, unless they have it themselves.

    Of one's own data always. Of small ones where claims are judged: without it a run that has
    stayed at the Median cannot be told from one that has learnt. On a cluster it would be a job of
    its own; there `model=median` is a cell like others.

    Args:
        cells: of a launch.
        judged: their sweep file has claims.
    """
    have = {cell.data["fingerprint"] for cell in cells if cell.choices["model"] == MODEL}
    wanted = {
        cell.data["fingerprint"]: cell
        for cell in cells
        if any(stated(cell.config["data"], kind) for kind in ("own", "small")[: 1 + judged])
        and slurm_settings(cell.config) is None
    }
    if not wanted.keys() - have:
        return []
    compose = composed_cells()
    found = [_baseline(cell, compose) for print_, cell in wanted.items() if print_ not in have]
    return [cell for cell in found if cell is not None]


def _baseline(cell: Cell, compose: Callable[[list[str]], Cell]) -> Cell | None:
    kept = [o for o in cell.overrides if key_of(o).partition(".")[0] in KEPT]
    chosen = [f"{group}={cell.choices[group]}" for group in ("data", "task")]
    chosen = [o for o in chosen if key_of(o) not in map(key_of, kept)]  # an experiment may have
    try:
        made = compose([f"model={MODEL}", *chosen, *kept])
    except (HydraException, UserError):
        return None
    return made if made.data["fingerprint"] == cell.data["fingerprint"] else None
