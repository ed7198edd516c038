"""Tables of the Open MatSci ML Toolkit: what a run is, and splits of which there is no average."""

import json

import pytest

from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables import titles, words
from atomsweep.report.tables.cells import cells_of
from atomsweep.report.tables.forms import paper_grid
from atomsweep.sweep.names import UnknownNameError, check_metric
from atomsweep.tracking import schema

ROWS = ["choice.task", "choice.model"]
RUNS = {("is2re", "egnn_72k"): 66_145, ("is2re", "gala"): 1_400_000}
SPLITS = [*schema.VAL_SPLITS, schema.VAL_AVERAGE]


@pytest.fixture
def df(root):
    """Two models on 24 ranks, two seeds each, with losses of 0.3 and 0.4 on every split."""
    for number, ((task, model), parameters) in enumerate(RUNS.items()):
        for seed in (0, 1):
            name = f"{number}{seed}" * 6
            path = root.run(name, task=task, model=model, seed=seed, data="mini_oc_is2re")
            result = json.loads((path / schema.RESULT).read_text())
            losses = {f"{split}/normalised_l1": 0.3 + 0.1 * number for split in SPLITS}
            told = result | {"parameters": parameters, "metrics": losses}
            (path / schema.RESULT).write_text(json.dumps(told))
            part = {"start": 0.0, "heartbeat": 9.0, "end": 9.0, "world_size": 24}
            (path / schema.SEGMENTS).write_text(json.dumps(part) + "\n")
    return read_directories(root.path).df


def table(df, metric, splits, reference):
    better = titles.better(metric)
    cells = cells_of(
        df, ROWS, metric, splits, better=better, reference=reference, declared=["task"]
    )
    grid = paper_grid(cells, ROWS, reference, None)
    return cells, list(grid.header), [[cell.text for cell in row] for row in grid.rows]


def test_parameters_and_ranks_stand_beside_the_papers(df):
    cells, header, lines = table(df, "parameters", ["run"], "matsci.table1")
    assert header == ["Task", "Model", "Seeds", "Parameters", "Paper Parameters"]
    assert [line[3:] for line in lines] == [
        ["66\u202f145", "72\u202f000"],
        ["1\u202f400\u202f000", "1\u202f500\u202f000"],
    ]
    assert not cells["best"].any()
    assert not cells["published_best"].any()
    _, header, lines = table(df, "ranks", ["run"], "matsci.table1")
    assert header[3:] == ["Ranks", "Paper Ranks"]
    assert [line[3:] for line in lines] == [["24", "24"]] * 2
    assert words.caption(df, cells, None, "parameters", "cpu")[0] == "Parameters."


def test_without_a_papers_average_its_numbers_of_all_splits_are_shown(df):
    _, header, lines = table(df, "normalised_l1", SPLITS, "matsci.table2")
    shown = ["Paper ID", "Paper OOD Ads", "Paper OOD Cat", "Paper OOD Both"]
    assert header[-5:] == ["Avg", *shown]
    assert lines[0][-4:] == ["0.2560", "0.3210", "0.2390", "0.2710"]
    assert lines[1][-4:] == ["0.2400", "0.2760", "0.2170", "0.2350"]
    _, header, lines = table(df, "normalised_l1", ["val_id"], "matsci.table2")
    assert header[-2:] == ["Paper ID", "Difference"]
    assert lines[0][-2:] == ["0.2560", "+0.0440"]


def test_a_sweep_file_may_ask_for_what_a_run_is():
    check_metric("run/parameters", ())
    with pytest.raises(UnknownNameError, match=r"no metric of a run rank; did you mean ranks\?"):
        check_metric("run/rank", ())
