"""Study files: what is wrong with one in a sentence, and that ours compose and build."""

from pathlib import Path

import pytest
import yaml

from atomsweep.build import UserError
from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from atomsweep.launch.study.request import Request, default_point
from atomsweep.launch.study.storage import grid_point, grid_size
from atomsweep.sweep.file import SweepFile
from atomsweep.sweep.study import Constraint, StudyFile, read_statement, with_search
from tests.contracts.compose import CONF, compose_with_choices

SWEEPS = CONF.parent / "sweeps"
FILES = sorted(
    path.relative_to(SWEEPS).with_suffix("").as_posix()
    for path in SWEEPS.rglob("*.yaml")
    if "\nspace:" in path.read_text()
)

GOOD = """\
title: A study
objectives: {val_id/forces_mae: minimize}
constraints: [parameters <= 1e6]
space:
  basis: [sph, sine]
  optim.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
  model.num_layers: {low: 2, high: 4}
sampler: {name: tpe, seed: 0}
pruner: {name: asha, first: 500}
trials: 40
seeds: [0, 1]
timeout: 9
enqueue: default
"""


def written(tmp_path: Path, text: str):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read_statement(path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("trials: 40", "trails: 40", r":10: trails: unknown; known are title, .*trials"),
        ("objectives: {val_id/forces_mae: minimize}\n", "", r":1: objectives: it is missing"),
        ("minimize", "lowest", r":2: objectives.val_id/forces_mae: input should be 'minimize'"),
        ("val_id/forces_mae:", "forces:", r":2: objectives.*got 'forces'"),
        ("<= 1e6", "< 1e6", r":3: constraints: expected a constraint such as parameters <= 1e6"),
        ("[sph, sine]", "[sph]", r":5: space.basis: list should have at least 2 items"),
        ("[sph, sine]", "sph", r":5: space.basis: input should be a valid dict.*got 'sph'"),
        ("[sph, sine]", "[sph, sph]", r":5: space.basis: every value must be named once"),
        ("high: 1e-2, ", "", r":6: space.optim.optimizer.lr: expected a list of choices, or a"),
        ("log: true", "logarithmic: true", r":6: space.*unknown; known are choices, low, high"),
        ("low: 1e-4", "low: 0", r":6: space.optim.optimizer.lr: a logarithmic range must begin"),
        ("low: 2, high: 4", "low: 4, high: 4", r":7: space.model.num_layers: low must be less"),
        ("  basis:", "  seed:", r":4: space: seed is no parameter; name seeds"),
        ("  basis:", "  plan:", r":4: space: 'plan' is no config key"),
        ("name: tpe", "name: tree", r":8: sampler.name: input should be 'tpe', 'random' or 'grid'"),
        ("seed: 0", "seeds: 0", r":8: sampler.seeds: unknown; known are name, seed, startup"),
        ("first: 500", "first: 0", r":9: pruner.first: input should be greater than or equal to 1"),
        ("trials: 40\n", "", r":1: trials is missing; only a grid knows its own number"),
        ("{name: tpe, seed: 0}", "{name: grid}", r":1: a grid needs a step for optim.optimizer.lr"),
        ("[0, 1]", "[0, 0]", r":11: seeds: every value must be named once"),
        (
            "minimize}",
            "minimize, device_seconds: minimize}",
            r":1: a study of several objectives cannot prune",
        ),
        ("val_id/forces_mae:", "device_seconds:", r":1: device_seconds is known at the end only"),
        ("default", "[{basis: gauss}]", r":1: enqueue: basis=gauss is not in the space"),
        ("timeout: 9", "timeout: soon", r":12: timeout: input should be a valid number"),
    ],
)
def test_a_wrong_file_is_a_sentence_with_line_and_key(tmp_path, old, new, sentence):
    assert old in GOOD
    with pytest.raises(UserError, match=r"study\.yaml" + sentence) as error:
        written(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_a_space_makes_a_study_and_rows_a_table(tmp_path):
    assert isinstance(written(tmp_path, GOOD), StudyFile)
    assert isinstance(written(tmp_path, "title: T\nrows: {basis: [sph]}\n"), SweepFile)


def test_whole_ends_make_whole_numbers(tmp_path):
    space = written(tmp_path, GOOD).space
    assert space["model.num_layers"].points() == [2, 3, 4]
    assert space["optim.optimizer.lr"].points() is None
    assert not space["optim.optimizer.lr"].whole
    assert space["basis"].has("sine")
    assert not space["basis"].has(None)


def test_a_grid_runs_its_last_key_fastest():
    space = {"a": [1, 2], "b": {"low": 0.5, "high": 1.5, "step": 0.5}}
    study = StudyFile.model_validate(
        {"title": "T", "objectives": {"parameters": "minimize"}, "space": space}
        | {"sampler": {"name": "grid"}}
    )
    points = [grid_point(study, i) for i in range(grid_size(study))]
    assert [tuple(point.values()) for point in points] == [
        (a, b) for a in (1, 2) for b in (0.5, 1.0, 1.5)
    ]


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [("parameters <= 1e6", 1.5e6, 5e5), ("val_id/forces_cos >= 0.5", 0.75, -0.25)],
)
def test_a_constraint_says_how_far_off_a_value_is(text, value, violation):
    assert Constraint.of(text).violation(value) == violation


def test_what_is_typed_as_search_replaces_the_file(tmp_path):
    study = written(tmp_path, GOOD)
    changed = with_search(study, {"trials": 3, "timeout": None, "storage": "mysql://db/optuna"})
    assert (changed.trials, changed.timeout) == (3, 9)
    assert changed.storage == "mysql://db/optuna"
    with pytest.raises(UserError, match=r"search\.trials: .* got 0"):
        with_search(study, {"trials": 0})


def request(study, typed=(), name="hpo/study"):
    by_key = {o.partition("=")[0]: [o] for o in typed}

    def compose(overrides):
        return cell_of(*compose_with_choices(overrides), overrides)

    return Request.of(study, name, by_key, None, {}, compose)


def test_a_key_that_is_typed_is_fixed_and_names_another_study(tmp_path):
    study = written(tmp_path, GOOD)
    asked = request(study, ["basis=gauss", "engine.steps=7", "seed=5"])
    assert list(asked.statement.space) == ["optim.optimizer.lr", "model.num_layers"]
    assert asked.statement.seeds == [5]
    assert asked.name.startswith("hpo/study-")
    cell = asked.cell({"optim.optimizer.lr": 0.003, "model.num_layers": 2}, 5)
    assert (cell.choices["basis"], cell.config["engine"]["steps"]) == ("gauss", 7)
    assert request(study, ["cluster.parallel=2", "search.trials=5"]).name == "hpo/study"


def test_several_values_of_a_key_are_refused(tmp_path):
    study = written(tmp_path, GOOD)
    with pytest.raises(UserError, match="a study chooses values itself, but act was given several"):
        Request.of(study, "s", {"act": ["act=relu", "act=tanh"]}, None, {}, None)


def test_the_default_configuration_is_a_point_of_the_space_or_a_sentence(tmp_path):
    study = written(tmp_path, GOOD)
    asked = request(study)
    point = default_point(study, asked.default())
    assert point == {"basis": "sph", "optim.optimizer.lr": 0.002, "model.num_layers": 3}
    assert asked.cell(point, 0).identity == asked.default().identity
    outside = written(tmp_path, GOOD.replace("low: 2, high: 4", "low: 4, high: 6"))
    with pytest.raises(UserError, match="has model.num_layers=3, which is not in the space"):
        default_point(outside, request(outside).default())


def test_the_documented_file_is_right_and_says_all_that_can_be_said(tmp_path):
    page = (CONF.parent / "docs" / "running.md").read_text()
    section = page[page.index("## A study") :]
    lines = section[section.index("    title:") :].partition("\n\n")[0].splitlines()
    text = "\n".join(line.removeprefix("    ") for line in lines)
    assert isinstance(written(tmp_path, text), StudyFile)
    assert set(yaml.safe_load(text)) == set(StudyFile.model_fields)


@pytest.mark.parametrize("name", FILES)
def test_our_studies_compose_and_build_at_every_end_of_their_space(name):
    study = read_statement(SWEEPS / f"{name}.yaml")
    asked = request(study, name=name)
    point = default_point(study, asked.default())
    for key, parameter in study.space.items():
        for value in parameter.ends():
            assert preflight(asked.cell(point | {key: value}, 0).config, here=False) > 0
    for scale in study.scale:
        assert study.overrides_at(scale)
