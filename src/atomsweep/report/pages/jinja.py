"""Templates of all pages, filled in."""

import re
from pathlib import Path
from typing import Any

from atomsweep.console import duration
from atomsweep.report.figures.files import inline

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page: a template with its values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    environment.filters["whole"] = _whole
    environment.filters["duration"] = duration
    environment.filters["svg"] = lambda p: inline(p.figure, f"fig-{p.name}", p.title)
    return environment.get_template(template).render(**values)


def _whole(text: str) -> Any:
    """Words of a head → escaped HTML in which none breaks at its hyphens, slashes or dots."""
    from markupsafe import Markup

    breaks, whole = re.compile(r"\w\W+\w"), Markup('<span class="whole">{}</span>')
    words = (whole.format(word) if breaks.search(word) else word for word in text.split(" "))
    return Markup(" ").join(words)


def _code(text: str) -> Any:
    """Sentences with `commands` in back ticks → escaped HTML with <code>."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    told = [
        Markup("<code>{}</code>").format(piece) if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    ]
    return Markup("").join(told)
