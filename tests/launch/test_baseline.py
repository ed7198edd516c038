"""The Median of one's own data is made beside the first run on them."""

from types import SimpleNamespace

import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomsweep.launch.baseline import baselines_of
from atomsweep.launch.compose import cell_of
from tests.contracts.compose import compose_with_choices


@pytest.fixture
def frames(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMSWEEP_DATA", str(tmp_path / "datasets"))
    images = []
    for number in range(4):
        atoms = Atoms("N2", positions=[(0, 0, 0), (0, 0, 1.1 + 0.01 * number)])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * number, forces=[[0.0] * 3] * 2)
        images.append(atoms)
    write(tmp_path / "my.extxyz", images)
    return ["data=extxyz", f"data.path={tmp_path / 'my.extxyz'}"]


def cell(*overrides):
    cfg, choices = compose_with_choices(list(overrides))
    return cell_of(cfg, choices, overrides)


def test_it_is_of_the_same_data_and_task_and_one_for_all_runs(frames, tmp_path):
    runs = [
        cell(*frames, "task=s2ef", f"seed={seed}", f"root={tmp_path}", "optim.batch_size=2")
        for seed in range(3)
    ]
    (made,) = baselines_of(runs)
    assert made.data["fingerprint"] == runs[0].data["fingerprint"]
    assert (made.choices["model"], made.choices["task"]) == ("median", "s2ef")
    assert made.config["root"] == str(tmp_path)
    assert made.overrides == ("model=median", "task=s2ef", *frames, f"root={tmp_path}")


def test_data_that_an_experiment_chose_have_theirs(frames, tmp_path, monkeypatch):
    for group in ("data", "experiment"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf/data/ours.yaml").write_text(
        f"defaults: [extxyz, _self_]\npath: {tmp_path / 'my.extxyz'}\n"
    )
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /data: ours}, {override /task: s2ef}]\n"
    )
    monkeypatch.chdir(tmp_path)
    run = cell("experiment=mine", "optim.batch_size=2")
    (made,) = baselines_of([run])
    assert made.data["fingerprint"] == run.data["fingerprint"]
    assert made.choices["model"] == "median"


@pytest.mark.parametrize("more", [["model=median"], ["cluster=slurm_cpu"]])
def test_none_is_made_beside_itself_or_on_a_cluster(frames, more):
    assert baselines_of([cell(*frames, *more)]) == []


@pytest.mark.parametrize("data", ["mini_oc_tiny", "mini_md_tiny"])
def test_small_data_have_theirs_where_claims_are_judged(data, tmp_path):
    task = "s2f" if data.startswith("mini_oc") else "s2ef_md17"
    runs = [cell(f"data={data}", f"task={task}", f"root={tmp_path}", f"seed={n}") for n in (0, 1)]
    assert baselines_of(runs) == []
    (made,) = baselines_of(runs, judged=True)
    assert made.data["fingerprint"] == runs[0].data["fingerprint"]
    assert made.choices["model"] == "median"
    assert baselines_of([*runs, made], judged=True) == []


def test_a_pass_over_all_of_oc20_is_not_made_unasked():
    reader = {"_target_": "atomsweep.data.formats.ocp_lmdb.S2EF"}
    data = {"_target_": "atomsweep.data.formats.files.FileSource", "reader": reader}
    run = SimpleNamespace(
        choices={"model": "forcenet"}, config={"data": data}, data={"fingerprint": "f0"}
    )
    assert baselines_of([run], judged=True) == []


def test_another_division_of_the_data_has_another_median(frames):
    cells = [cell(*frames, f"data.val_fraction={share}") for share in (0.25, 0.5)]
    made = baselines_of(cells)
    assert [one.data["fingerprint"] for one in made] == [one.data["fingerprint"] for one in cells]
