"""Draws docs/pictures/architecture.svg: the rooms of the package, and which imports which.

    python docs/pictures/architecture.py

Rooms, their order and their imports are read from the code and from `pyproject.toml`, so the
picture cannot say what is not so; tests/test_architecture.py holds that it is the present one. An
arrow that follows from others is left out.
"""

import ast
import sys
import tomllib
from html import escape
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
WIDTH, BOX, ROW = 900, 46, 78  # pixels

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2933; text-anchor: middle }
.name { font-weight: 600 }
.purpose { font-size: 11px; fill: #52606d }
rect { fill: #f5f7fa; stroke: #7b8794; rx: 6px }
path { fill: none; stroke: #9aa5b1; stroke-width: 1.2; marker-end: url(#head) }
"""


def rooms() -> list[list[str]]:
    """Rooms of each layer from the top, as the contract of `lint-imports` has them."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    contract = next(one for one in contracts if one["name"] == "Imports go down only")
    rows = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    kept = [[name for name in row if folder_of(name) is not None] for row in rows]
    return [row for row in kept if row]


def folder_of(name: str) -> Path | None:
    """The folder of a room; None for a single file."""
    folder = REPOSITORY / "src" / Path(*name.split("."))
    return folder if folder.is_dir() else None


def purpose(name: str) -> str:
    """What a room is for: its docstring up to the first stop or colon."""
    text = (REPOSITORY / "src" / Path(*name.split(".")) / "__init__.py").read_text(encoding="utf-8")
    said = (ast.get_docstring(ast.parse(text)) or "").splitlines()[:1]
    return "".join(said).split(":")[0].split(". ")[0].rstrip(".")


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second, those that follow from others apart."""
    graph = grimp.build_graph("atomsweep", "hydra_plugins", cache_dir=None)
    room_of = {
        module: next((n for n in names if module == n or module.startswith(f"{n}.")), None)
        for module in graph.modules
    }
    direct = {
        (room_of[a], room_of[b])
        for a in graph.modules
        for b in graph.find_modules_directly_imported_by(a)
        if room_of[a] and room_of[b] and room_of[a] != room_of[b]
    }
    below: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in below:
            nexts = {b for a, b in direct if a == name}
            below[name] = nexts.union(*(reached(b) for b in nexts)) if nexts else set()
        return below[name]

    return {
        (a, b)
        for a, b in direct
        if not any(b in reached(c) for x, c in direct if x == a and c != b)
    }


def draw() -> str:
    """The picture as SVG."""
    rows = rooms()
    places: dict[str, tuple[float, float, float]] = {}  # left, top, width
    for number, row in enumerate(rows):
        width = (WIDTH - 20 * (len(row) + 1)) / len(row) if len(row) > 1 else WIDTH * 0.62
        start = 20.0 if len(row) > 1 else (WIDTH - width) / 2
        for place, name in enumerate(row):
            places[name] = (start + place * (width + 20), 14 + number * ROW, width)
    lines = []
    for a, b in sorted(imports(list(places))):
        (left, top, width), (left2, top2, width2) = places[a], places[b]
        x, x2 = left + width / 2, left2 + width2 / 2
        y, y2 = top + BOX, top2 - 5
        skipped = round((top2 - top) / ROW) - 1
        if skipped:  # around the boxes between
            side = -1 if x <= WIDTH / 2 else 1
            bend = WIDTH / 2 + side * (WIDTH * 0.31 + 24 + 14 * skipped)
            x, x2 = x + side * width * 0.42, x2 + side * width2 * 0.42
            curve = f"C{bend:.0f} {y + 40} {bend:.0f} {y2 - 40} {x2:.0f} {y2}"
            lines.append(f'<path d="M{x:.0f} {y} {curve}"/>')
        else:
            lines.append(f'<path d="M{x:.0f} {y} L{x2:.0f} {y2}"/>')
    for name, (left, top, width) in places.items():
        middle = left + width / 2
        lines += [
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{BOX}"/>',
            f'<text class="name" x="{middle:.0f}" y="{top + 19}">'
            f"{escape(name.removeprefix('atomsweep.'))}</text>",
            f'<text class="purpose" x="{middle:.0f}" y="{top + 36}">{escape(purpose(name))}</text>',
        ]
    height = 14 + len(rows) * ROW
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#9aa5b1;stroke:none"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>The rooms of atomsweep; an arrow points to what a room imports</title>\n"
        f"<style>\n{STYLE}</style>\n<defs>{head}</defs>\n" + "\n".join(lines) + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE}\n")
