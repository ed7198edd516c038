"""Templates of all pages, filled in."""

from pathlib import Path
from typing import Any

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
    environment.filters["svg"] = lambda p: inline(p.figure, f"fig-{p.name}", p.title)
    return environment.get_template(template).render(**values)


def _code(text: str) -> Any:
    """Sentences with `commands` in back ticks → escaped HTML with <code>."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    told = [
        Markup("<code>{}</code>").format(piece) if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    ]
    return Markup("").join(told)
