"""The house as docs/architecture.md says it is: no circles, small files, every room introduced."""

import ast
import graphlib
import importlib.util
import re
import statistics

import grimp
import pytest

from tests.places import REPOSITORY, SOURCE

MOST_LINES, MEDIAN_LINES = 400, 150
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent for path in SOURCE.rglob("__init__.py"))


@pytest.fixture(scope="module")
def picture():
    path = REPOSITORY / "docs" / "pictures" / "architecture.py"
    spec = importlib.util.spec_from_file_location("architecture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_files_import_one_another_in_a_circle():
    """Imports inside functions and for type checkers alone count too."""
    graph = grimp.build_graph("atomsweep", "hydra_plugins", cache_dir=None)
    needs = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    order = list(graphlib.TopologicalSorter(needs).static_order())
    assert len(order) > 200
    assert order.index("atomsweep.tracking.run") < order.index("atomsweep.cli.main")


def test_a_circle_would_be_found():
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_files_are_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(p): n for p, n in lengths.items() if n > MOST_LINES} == {}
    assert statistics.median(n for n in lengths.values() if n > 0) <= MEDIAN_LINES


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(SOURCE).as_posix())
def test_a_room_says_what_it_is_for(room):
    assert len(ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "") > 30


def test_the_picture_is_that_of_the_present_imports(picture):
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.draw(), (
        "draw it anew: python docs/pictures/architecture.py"
    )


def test_files_that_the_page_names_are_there():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 15
    places = (REPOSITORY, SOURCE, SOURCE / "atomsweep")
    assert [n for n in named if not any((place / n).exists() for place in places)] == []
