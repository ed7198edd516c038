import math

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, loads
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.run import RunDirectory

IDENTITY = "0123456789ab"


def line(step, time=0.0, **metrics):
    return {
        "step": step,
        "device_seconds": float(step),
        "eval_seconds": 0.0,
        "time": time,
    } | metrics


def test_lines_of_one_step_become_one_point():
    points = views.points([line(1, 1.0, a=1.0), line(1, 2.0, b=2.0, eval_seconds=0.5), line(2)])
    assert [(p.step, p.lines) for p in points] == [(1, 2), (2, 3)]
    assert points[0].values == {"device_seconds": 1.0, "eval_seconds": 0.5, "a": 1.0, "b": 2.0}
    assert points[0].time == 2000


def test_digests_tell_which_lines_came_before():
    journal = [line(1), line(2), line(3)]
    grown = views.digests([*journal, line(4)])
    assert grown[:3] == views.digests(journal)
    assert views.digests([line(1), line(2, 9.0), line(3)])[1:] != grown[1:3]


def test_params_are_flat_and_read_back_exactly():
    config = {
        "optim": {"lr": 1e-5, "betas": [0.9, 0.999], "clip_norm": None},
        "name": "x",
        "on": True,
        "empty": {},
        "odd key!": math.inf,
    }
    params = views.params(config)
    assert params["name"] == "x"
    assert {k: loads(v) for k, v in params.items() if k != "name"} == {
        "optim.lr": 1e-5,
        "optim.betas": [0.9, 0.999],
        "optim.clip_norm": None,
        "on": True,
        "empty": {},
        "odd key_": math.inf,
    }


def test_long_param_is_cut_visibly_within_the_limit():
    value = views.params({"a": "x" * 10_000})["a"]
    assert len(value) == views.MAX_PARAM
    assert value.endswith(views.CUT)


@pytest.mark.parametrize(
    ("name", "allowed"), [("a//b", "a/_/b"), ("å@b", "__b"), ("val_id/x", "val_id/x"), ("", "_")]
)
def test_names_become_allowed_ones(name, allowed):
    assert views.name_for(name) == allowed


@pytest.fixture
def run(tmp_path):
    about = {
        "identity": IDENTITY,
        "science": {"x": "y" * 9000},
        "choices": {"basis": "sph"},
        "sweep": "one",
        "seed": 3,
        "data": {"name": "mini_oc", "fingerprint": "ff"},
    }
    return RunDirectory.create(tmp_path / f"sph-{IDENTITY}", "seed: 3\n", about)


def test_tags_hold_what_a_table_needs(run):
    run.write_environment(device="a GPU")
    run.start_segment("a GPU", 2)
    run.fail("out of memory", "Traceback")
    tags = views.tags(run, run.state(), ["one", "two"])
    assert tags[schema.TAG_IDENTITY] == IDENTITY
    assert tags[schema.TAG_NAME] == run.name
    assert tags[schema.TAG_STATE] == schema.FAILED
    assert tags[schema.TAG_MESSAGE] == "out of memory"
    assert tags[schema.TAG_SWEEP] == "one"
    assert tags["sweep.two"] == "true"
    assert tags["choice.basis"] == "sph"
    assert tags[schema.TAG_SEED] == "3"
    assert tags[schema.TAG_DATA] == "mini_oc"
    assert tags[schema.TAG_FINGERPRINT] == "ff"
    assert tags[schema.TAG_DEVICE] == "a GPU"
    assert tags[schema.TAG_HOSTS] == run.segments()[0]["host"]
    assert float(tags[schema.TAG_ALLOCATED]) == run.allocated_seconds()
    assert all(len(value) <= views.MAX_TAG for value in tags.values())


def test_document_tags_are_the_files_themselves(run):
    result = {"step": 7, "parameters": 11, "device_seconds": 1 / 3, "metrics": {"a/b": math.nan}}
    run.finish(result)
    tags = views.tags(run, run.state(), [])
    assert max(map(len, tags.values())) <= views.MAX_TAG
    assert dumps(views.document("result", tags)) == dumps(result)
    assert views.document("run", tags) == run.run  # longer than a tag
    assert views.document("status", tags) == run.status
    assert views.document("environment", tags) is None


@pytest.mark.parametrize("length", [10, 7_980, 8_000, 8_001, 30_000])
def test_document_comes_back_over_what_a_longer_one_left(length):
    left = views.document_tags("run", {"x": "old" * 20_000})
    content = {"x": "}" * length, "traceback": "not kept"}
    tags = left | views.document_tags("run", content)
    assert views.document("run", tags) == {"x": "}" * length}


def test_document_that_is_too_long_for_tags_is_not_there():
    assert views.document_tags("plan", {"x": "y" * (views.MAX_TAG * views.MAX_PARTS)}) == {}
    assert views.document("plan", {}) is None


def test_final_metrics_are_those_of_the_result(run):
    assert views.final_metrics(run) == {}
    run.finish({"metrics": {"val_id/forces_mae": 0.25}})
    assert views.final_metrics(run) == {"final/val_id/forces_mae": 0.25}
