"""What a study leaves: the best trial as an experiment that composes to the same run."""

import shutil

import pytest
from hydra import compose, initialize_config_dir

from atomsweep.launch.compose import cell_of
from atomsweep.launch.study import record as study_record
from atomsweep.launch.study.record import experiment, experiment_name, write_best
from tests.contracts.compose import CONF
from tests.contracts.params import first
from tests.launch.study.test_driver import to_the_end
from tests.launch.study.toys import driver, statement

GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}
ABLATION = "ablation=edge_linear_bn"  # composed after an experiment, so typed beside it
OVERRIDES = [
    "basis=sine",
    "optim.optimizer.lr=0.00321",
    "model.num_layers=2",
    "seed=3",
    "cluster.parallel=2",
    "root=elsewhere",
    "tracking=none",
    ABLATION,
    "model=forcenet_small",
    "optim=laptop",
    "+optim.optimizer.eps=1e-7",
    "optim.clip_norm=null",
    "engine.eval_splits=[val_id,val_ood_ads]",
]


def identity_of(overrides, conf=CONF):
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("config", overrides, return_hydra_config=True)
    return cell_of(cfg, dict(cfg.hydra.runtime.choices), overrides).identity


@pytest.mark.parametrize("extra", first(1, [["experiment=forcenet", "data=mini_oc_tiny"], []]))
def test_an_experiment_file_is_the_run_of_its_overrides(tmp_path, extra):
    import yaml

    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    overrides = [*OVERRIDES, *extra]
    content = experiment(overrides, GROUPS)
    text = "# @package _global_\n" + yaml.safe_dump(content, sort_keys=False)
    (conf / "experiment" / "best.yaml").write_text(text)
    assert identity_of(["experiment=best", ABLATION], conf) == identity_of(overrides)
    assert "root" not in content
    assert "cluster" not in content
    assert identity_of(["experiment=best", ABLATION, "seed=4"], conf) != identity_of(overrides)


def test_what_a_file_cannot_say_is_a_sentence():
    with pytest.raises(ValueError, match="cannot say ~model.cutoff"):
        experiment(["~model.cutoff"], GROUPS)


def test_the_best_is_written_once_and_replaced_by_a_better(tmp_path):
    wanted = statement(trials=4)
    made = to_the_end(driver(tmp_path / "runs", wanted))
    path = write_best(made.study, wanted, "hpo/toy", tmp_path / "conf", {"kind"})
    assert path == tmp_path / "conf" / "experiment" / "hpo_toy_best.yaml"
    (best,) = study_record.best_trials(made.study)
    head = path.read_text()
    assert head.startswith("# @package _global_\n")
    assert (
        f"Best of study hpo/toy: trial {best.number}, val_id/forces_mae = {best.value:.6g}" in head
    )
    assert best.user_attrs["cells"][0]["identity"] in head
    stamp = path.stat().st_mtime_ns
    write_best(made.study, wanted, "hpo/toy", tmp_path / "conf", {"kind"})
    assert path.stat().st_mtime_ns == stamp


def test_names_of_studies_become_names_of_options():
    assert experiment_name("hpo/force-net") == "hpo_force_net_best"
