"""What a report is made of beside its tables: sections of text, grids and pictures.

Whoever adds a section (claims, costs, structures, hyper-parameters) returns one of these; Markdown
and page know how to show it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from atomsweep.report.tables.grids import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Picture:
    """A figure with its words. It is drawn only where the figure itself is shown.

    Attributes:
        name: of its files, without suffix.
        draw: makes the figure.
        title: what it shows, for readers who cannot see it.
        caption: below it.
        wide: needs the whole width of a page.
    """

    name: str
    draw: Callable[[], "Figure"]
    title: str
    caption: str
    wide: bool = False

    @cached_property
    def figure(self) -> "Figure":
        """Drawn once."""
        return self.draw()


@dataclass
class Section:
    """A part of a report.

    Attributes:
        slug: its anchor.
        title: heading.
        text: paragraphs above; `commands` in back ticks.
        grids: caption and table.
        pictures: figures.
        notes: small print below.
    """

    slug: str
    title: str
    text: list[str] = field(default_factory=list)
    grids: list[tuple[str, Grid]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.grids or self.pictures)
