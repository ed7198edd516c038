"""Every option in conf/ composes, and what it describes can be built."""

import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomsweep.build import UserError
from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from tests.contracts.compose import CONF, compose_with_choices
from tests.data.formats.published_layout import write_published_layout
from tests.data.formats.pyg_records import as_pyg_2, is2re_fields, s2ef_fields, write_lmdb
from tests.data.formats.test_ase_db import sqlite
from tests.data.formats.test_flat_npz import written as relaxations
from tests.data.formats.test_md17 import revised
from tests.data.store.test_dataset import random_structure
from tests.data.store.test_dataset import write as write_store

GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name != "hydra")
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))]
DENOISES = ["model.energy_head=true", "model.force_encoding=edge_projection"]
GPU = {("engine", "gpu"), *(pair for pair in OPTIONS if pair[0] == "experiment")}
IS2RE = ["task=is2re", "model=egnn_72k"]
PUBLISHED = (  # options that name the folders of the published archives
    "oc20_200k",
    "oc20_2m",
    "oc20_20m",
    "oc20_all",
    "oc20_all_md",
    "oc20_is2re_all",
    "oc22_all",
)


def extxyz(folder):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=[[0.0] * 3] * 3)
    write(folder / "water.extxyz", atoms)
    return folder / "water.extxyz"


def pyg_lmdb(fields):
    def make(folder):
        return write_lmdb(folder / "data.lmdb", [as_pyg_2(fields(seed)) for seed in range(3)])

    return make


def store(folder):
    write_store(folder / "a.lmdb", [random_structure(seed) for seed in range(3)])
    return folder / "a.lmdb"


def flat_npz(folder):
    return relaxations(folder / "relaxations.npz")


DATA_FILES = {  # options that need files
    "flat_npz": flat_npz,
    "extxyz": extxyz,
    "oc20_s2ef": pyg_lmdb(s2ef_fields),
    "oc20_is2re": pyg_lmdb(is2re_fields),
    "oc22": pyg_lmdb(s2ef_fields),
    "ase_db": lambda folder: sqlite(folder / "a.db", 3),
    "store": store,
    "md17": lambda folder: revised(folder / "rmd17_aspirin.npz"),
    "rmd17": lambda folder: revised(folder / "rmd17_aspirin.npz"),
}


def config(*overrides):
    return cell_of(*compose_with_choices(list(overrides)), overrides).config


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_every_option_composes_and_builds(group, option, tmp_path, monkeypatch):
    overrides = [f"{group}={option}"]
    if group in ("experiment", "model"):
        overrides.append("size=small")  # published sizes are built in test_sizes.py
    if (group, option) == ("act", "none"):
        overrides.append("model=median")  # for models without an activation
    if (group, option) == ("task", "is2re"):
        overrides += ["data=mini_oc_is2re", "model=egnn_72k"]
    if group == "data" and "is2re" in option:
        overrides += IS2RE
    if group == "optim" and option.startswith("matsci"):
        overrides += ["engine.steps=null", "engine.epochs=1"]
    if group == "optim" and option.startswith(("dens_oc", "dens_escn")):
        overrides.append("model=schnet")  # an average of weights, so no batch norm
    if group == "task" and option.startswith("s2ef"):
        overrides.append("model.energy_head=true")
    if group == "dens" and option != "none":
        overrides += ["task=s2ef", *DENOISES]
    if group == "data" and option in DATA_FILES:
        overrides.append(f"data.path={DATA_FILES[option](tmp_path)}")
    if group == "data" and option in PUBLISHED:
        monkeypatch.setenv("ATOMSWEEP_DATA", str(write_published_layout(tmp_path)))
    if (group, option) == ("data", "oc22_all"):
        overrides.append("engine.eval_splits=[val_id,val_ood]")
    if (group, option) in GPU:
        overrides.append("engine.device=cpu")
    assert preflight(config(*overrides)) >= 0


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=gns", "basis=sph"], "model=gns has no basis, so basis=sph would change nothing"),
        (["model=median", "act=relu"], "model=median has no act"),
        (["basis=linact", "act=none"], "act"),
        (["ablation=only_dist", "basis=sph"], "needs the direction"),
        (["model=gns", "ablation=only_filter"], "unknown to atomsweep.models.gns.GNS"),
        (["model.hidden_channels=wide"], "model.hidden_channels must be int, got 'wide'"),
        (["model.cutoff=six"], "model.cutoff must be float, got 'six'"),
        (["model.self_message=7"], "model.self_message must be bool, got 7"),
        (["engine.steps=null"], "a run has one budget"),
        (["engine.steps=10", "engine.epochs=1"], "a run has one budget"),
        (["engine.precision=float16"], "engine.precision must be"),
        (["engine.metric=val_id"], "engine.metric must be"),
        (["engine.eval_splits=[val]", "engine.metric=val/forces_mae"], "has no split val"),
        (["task.fixed_weight=2"], r"must lie in \[0, 1\]"),
        (["optim.batch_size=0"], "optim.batch_size"),
        (["cluster.ranks=9"], "optim.batch_size=8 is that of all ranks"),
        (["cluster=slurm_cpu", "cluster.nodes=3", "cluster.ranks=3"], "each of 9 ranks"),
        (["cluster=slurm_gpu", "cluster.ranks=2", "engine=gpu"], "a GPU of its own"),
        (["engine.device=mps"], "engine.device is mps, but torch sees no such device"),
        (["engine.device=tpu"], "engine.device must be cpu, cuda, mps or xpu, got 'tpu'"),
        (["engine.workers=-1"], "engine.workers must not be negative"),
        (["task=s2ef", "model=gns"], "needs a model that predicts the energy, and GNS"),
        (["dens=v3", *DENOISES], "choose task=s2ef or dens=none"),
        (["dens=v3", "task=s2ef", DENOISES[0]], "ForceNet cannot encode forces"),
        (["dens=v3", "task=s2ef", *DENOISES, "dens.prob=2"], "dens.prob must lie in"),
        (["dens=v3", "task=s2ef", *DENOISES, "dens.coin=rank"], "dens.coin must be"),
        (["task=s2ef", "task.normalizer.references=yes"], "task.normalizer.references must be"),
        (["task=is2re", "model=egnn_72k"], "IS2RE"),
        (
            ["task=is2re", "data=mini_oc_is2re", "model=gns"],
            "task=is2re needs a model that predicts",
        ),
        (["data=mini_oc_is2re"], "S2F learns forces, and structures of mini_oc_is2re carry no"),
        (["task=s2ef", "model=schnet", "data=mini_oc_is2re"], "carry no forces; choose another"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_in_one_sentence(overrides, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        preflight(config(*overrides))
    assert "\n" not in str(error.value)


def test_each_model_runs_alone_with_the_parts_that_suit_it():
    _, choices = compose_with_choices(["model=gns"])
    assert choices["basis"] == "none"
    assert choices["act"] == "relu"
    _, choices = compose_with_choices(["model=forcenet"])
    assert (choices["basis"], choices["act"]) == ("sph", "swish")
    _, choices = compose_with_choices(["model=forcenet", "basis=sine", "act=relu"])
    assert (choices["basis"], choices["act"]) == ("sine", "relu")


def test_the_config_fits_one_screen():
    assert len((CONF / "config.yaml").read_text().splitlines()) <= 40
