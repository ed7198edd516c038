"""`until=decided` as it was typed: held against the sweep file that it needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atomsweep.build import UserError
from atomsweep.launch.plan import Cell
from atomsweep.sweep.grid import Grid
from atomsweep.sweep.looks import Look, Looks


@dataclass(frozen=True)
class Until:
    """What was asked for.

    Attributes:
        looks: of the sweep file.
        seeds: that a cell may have, those of the first look first.
        device_hours: of all runs of the sweep, after which no further seed is begun; None: no end.
        another: a cell and a seed → the same cell with that seed.
        look: root and sweep → how its claims stand.
    """

    looks: Looks
    seeds: range
    device_hours: float | None
    another: Callable[[Cell, int], Cell]
    look: Callable[[Path, str], Look]

    @classmethod
    def of(
        cls,
        grid: Grid,
        device_hours: object,
        another: Callable[[Cell, int], Cell],
        look: Callable[[Path, str], Look],
    ) -> "Until":
        """The request of a command.

        Raises:
            UserError: the sweep has no claims, or does not let them ask for seeds.
        """
        statement = grid.statement
        if statement is None:
            raise UserError(
                "until=decided needs claims, which a sweep file has; choose one, such as "
                "sweeps=forcenet/table5"
            )
        if not isinstance(statement.seeds, Looks):
            raise UserError(
                f"until=decided needs `seeds: {{first: 3, most: 16}}` in {grid.file}, which says "
                f"seeds: {statement.seeds}"
            )
        if not statement.claims:
            raise UserError(f"until=decided needs claims, and {grid.file} has none")
        looks, typed = statement.seeds, [str(seed) for seed in grid.groups.get("seed", ())]
        start = int(typed[0]) if typed and typed[0].isdecimal() else 0
        if typed != [str(start + n) for n in range(looks.first)]:
            raise UserError(
                f"until=decided needs {looks.first} first seeds in a row and chooses further ones "
                f"itself, got seed={','.join(typed)}; leave it out, or type seed=range(100,"
                f"{100 + looks.first}) for seeds of your own"
            )
        if device_hours is not None and not (
            isinstance(device_hours, int | float)
            and not isinstance(device_hours, bool)
            and 0 < device_hours < math.inf
        ):
            raise UserError(
                f"until.device_hours must be a number above 0 or null, got {device_hours!r}"
            )
        return cls(looks, range(start, start + looks.most), device_hours, another, look)

    @property
    def first(self) -> range:
        """Seeds that every cell is trained with."""
        return self.seeds[: self.looks.first]

    @property
    def later(self) -> range:
        """Seeds that claims may ask for."""
        return self.seeds[self.looks.first :]
