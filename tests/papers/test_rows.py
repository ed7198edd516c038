"""Every row of every published table against what `scale=paper` composes.

`forcenet.yaml`, `dens.yaml` and `matsci.yaml` beside this file say, row by row, what a paper states
of a training. What it does not state is there too, with where else it comes from:

    states: printed in the paper, or in the tables of it that the facts recover
    released: of the authors' code and configurations
    inferred: follows from other numbers
    ours: nobody says

A row that is not there, and a fact of a training that no list has, fail.
"""

import functools
from pathlib import Path

import pytest
import torch
import yaml

from atomsweep.build import build_learner
from atomsweep.launch.compose import cell_of
from atomsweep.report.read import published
from atomsweep.report.read.values import normal
from atomsweep.sweep.file import read_sweep
from atomsweep.sweep.grid import grid
from tests.contracts.compose import CONF, compose_with_choices
from tests.data.formats.published_layout import write_published_layout
from tests.papers.facts import facts

PAPERS = ("forcenet", "dens", "matsci")
WHENCE = ("states", "released", "inferred", "ours")
MANY = (  # a cell takes a sixth of a second to compose
    "dens.table1a",
    "dens.table1b",
    "dens.table1c",
    "dens.table1e",
    "dens.table4",
    "dens.table5",
    "dens.table6",
    "forcenet.table5",
)
FIXTURES = {
    f"{paper}.{name}": content
    for paper in PAPERS
    for name, content in yaml.safe_load(
        (Path(__file__).parent / f"{paper}.yaml").read_text(encoding="utf-8")
    )["tables"].items()
}
TRAINED = [name for name, content in FIXTURES.items() if "sweep" in content]


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """The papers' data sets in the folders of their archives, three records each."""
    patch = pytest.MonkeyPatch()
    root = write_published_layout(tmp_path_factory.mktemp("data"))
    patch.setenv("ATOMSWEEP_DATA", str(root))
    yield
    patch.undo()


@functools.cache
def composed(overrides):
    """A cell, shared by the tables that have it."""
    return cell_of(*compose_with_choices(list(overrides)), overrides)


def cells(sweeps, **typed):
    """Label and cell of every row of one or several sweep files at `scale=paper`, of one seed."""
    found = []
    typed = {"seed": [0], **{key.replace("__", "."): values for key, values in typed.items()}}
    typed = {key: [f"{key}={value}" for value in values] for key, values in typed.items()}
    for sweep in [sweeps] if isinstance(sweeps, str) else sweeps:
        statement = read_sweep(CONF.parent / "sweeps" / f"{sweep}.yaml")
        wanted = grid(typed, statement, sweep, "paper")
        found += [(label, composed(tuple(overrides))) for overrides, label in wanted.cells]
    return found


def row_of(table, label, cell):
    """Which row of a published table a cell is."""
    found = []
    for axis in table.axes:
        kind, _, key = axis.column.partition(".")
        value = {"label": label, "choice": cell.choices.get(key)}.get(kind)
        if kind == "config":
            value = cell.config
            for part in key.split("."):
                value = value[part]
        found.append(published.key_of(axis, value))
    return tuple(found)


def same(value, other):
    """Whether two values are one; numbers may be rounded in their sixth digit."""
    if isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(other, bool) or not isinstance(other, int | float):
        return value == other
    return not isinstance(value, str | bool | None) and value == pytest.approx(other, rel=1e-5)


def stated(content, row):
    """Fact → value of one row and where it comes from: the table's, then the row's own."""
    found = {}
    for part in (content, row):
        for whence in WHENCE:
            for name, value in (part.get(whence) or {}).items():
                found[name] = (value, whence)
    return found


def test_every_published_table_is_here():
    assert set(FIXTURES) == set(published.references())


@pytest.mark.parametrize("reference", FIXTURES)
def test_every_row_of_a_table_is_trained_or_says_why_not(reference):
    content, table = FIXTURES[reference], published.table(reference)
    keys = {tuple(map(normal, row.key)) for row in table.rows}
    if "same_as" in content:
        assert content["same_as"] in TRAINED
        return
    told = [
        tuple(map(normal, row["key"])) for row in [*content["rows"], *content.get("others", [])]
    ]
    assert len(set(told)) == len(told)
    assert set(told) >= keys
    assert all(row["why"] for row in content.get("others", []))


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference",
    [pytest.param(n, marks=[pytest.mark.long] if n in MANY else []) for n in TRAINED],
)
def test_every_row_is_trained_as_the_paper_says(reference):
    content = FIXTURES[reference]
    seen = compared(reference, cells(content["sweep"]))
    assert seen == {tuple(map(normal, row["key"])) for row in content["rows"]}


def test_molecules_with_settings_of_their_own_are_trained_with_them():
    """Two of the eight; all of them are among the slow tests."""
    some = cells("dens/table4", data__molecule=["benzene2017", "naphthalene"])
    assert len(compared("dens.table4", some)) == len(some) == 8


def compared(reference, trained):
    """Hold cells against what their rows state; returns the rows that there were."""
    content, table = FIXTURES[reference], published.table(reference)
    rows = {tuple(map(normal, row["key"])): row for row in content["rows"]}
    seen = set()
    for label, cell in trained:
        key = row_of(table, label, cell)
        assert key in rows, f"{reference} trains {key}, and no row of the fixture is that"
        seen.add(key)
        found = facts(cell)
        wanted = stated(content, rows[key])
        unsaid = sorted(set(found) - set(wanted))
        assert not unsaid, f"{reference} {key}: nobody says where {unsaid} come from"
        for name, (value, whence) in wanted.items():
            if name in found:
                values = value["any"] if isinstance(value, dict) else [value]
                assert any(same(found[name], v) for v in values), (
                    f"{reference} {key}: {name} is {found[name]}, {whence} {value}"
                )
            else:
                assert value is None, f"{reference} {key} has no {name}, {whence} {value}"
    return seen


@pytest.mark.long
def test_both_readings_of_the_rows_that_keep_one_part_are_trained():
    kept = {}
    for label, cell in cells("dens/table5"):
        model = cell.config["model"]
        kept.setdefault((model["attention"], model["layer_norm"]), set()).add(label)
    assert {len(labels) for labels in kept.values()} == {2}  # with and without DeNS
    assert len(kept) == 4


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in build_learner(config)[0].parameters())


def sizes():
    """Table, row and size of every published number of parameters."""
    for reference in TRAINED:
        table = published.table(reference)
        place = next((i for i, c in enumerate(table.columns) if c.name == "parameters"), None)
        if place is not None:
            for row in table.rows:
                if row.values[place] is not None:
                    yield reference, row, table.columns[place], row.values[place]


@pytest.mark.long
def test_models_have_the_size_that_their_row_prints():
    """Within one unit of the last place: the papers round or cut off, and do not say which.

    What nothing reads counts too: public networks have it, and so do ours, untrained.
    """
    counted = 0
    for reference, row, column, printed in sizes():
        key = tuple(map(normal, row.key))
        for label, cell in cells(FIXTURES[reference]["sweep"]):
            if row_of(published.table(reference), label, cell) == key:
                size = parameters(cell.config) / column.to_ours
                decimals = len(f"{printed:g}".partition(".")[2])
                assert abs(size - printed) < 10**-decimals, (reference, key, size)
                counted += 1
    assert counted >= 16
