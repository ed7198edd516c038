"""Runs of the papers' own models on the papers' data: numbers beside, and no false difference."""

import pytest

from atomsweep.report.read import published
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables import words
from atomsweep.report.tables.cells import cells_of

ROWS = ["choice.dens"]
CHOICES = {"task": "s2ef_oc20", "augmentation": "none", "basis": "none", "act": "none"}


@pytest.fixture
def made(root):
    """With and without DeNS, 20 epochs, of a model on a data set."""

    def make(model, data):
        engine = {"steps": None, "epochs": 20, "device": "cuda"}
        for number, dens in enumerate(("none", "v1_multiscale")):
            root.run(
                f"{number:012x}",
                model=model,
                data=data,
                dens=dens,
                device="Tesla V100",
                config={"engine": engine},
                name=dens,
                **CHOICES,
            )
        return read_directories(root.path).df

    return make


def table(df, metric, splits):
    return cells_of(df, ROWS, metric, splits, reference="dens.table1d", better="low")


@pytest.mark.parametrize(
    ("model", "forces"), [("escn", (20.61, 19.07)), ("equiformer_v2_83m", (19.78, 18.49))]
)
def test_the_papers_numbers_stand_beside_and_nothing_differs(made, model, forces):
    df = made(model, "oc20_2m")
    common = {"choice.model": model, "config.engine.epochs": 20, "choice.ablation": "none"}
    assert published.matching(ROWS, common | {"choice.task": "s2ef_oc20"}) == "dens.table1d"
    cells = table(df, "forces_mae", ["val_avg"])
    assert cells["published"].tolist() == [pytest.approx(value / 1000) for value in forces]
    told = words.caption(df, cells, "dens.table1d", "forces_mae", "Tesla V100")
    assert not [line for line in told if "differ" in line or "judges neither" in line]


def test_a_stand_in_on_other_data_says_both(made):
    df = made("escn_small", "mini_oc")
    told = words.unlike_paper("dens.table1d", df, None)
    assert "ours are on mini_oc" in told
    assert "model escn_small (paper: eSCN)" in told


def test_device_hours_stand_beside_the_papers_and_name_the_device(made):
    df = made("escn", "oc20_2m")
    cells = table(df, "device_hours", ["run"])
    assert cells["mean"].tolist() == [pytest.approx(80 / 3600)] * 2  # of what the fixture spent
    assert cells["published"].tolist() == [1802, 1829]
    told = words.caption(df, cells, "dens.table1d", "device_hours", "Tesla V100")
    assert "Times are on Tesla V100." in told
