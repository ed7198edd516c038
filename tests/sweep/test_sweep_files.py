"""Sweep files: what they mean, what is wrong with one in a sentence, and that ours are right."""

import re
from pathlib import Path

import pytest
import yaml

from atomsweep.build import UserError
from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from atomsweep.report.read import published
from atomsweep.sweep.file import SweepFile, axes_of, place_of, read_sweep
from atomsweep.sweep.grid import grid
from atomsweep.sweep.names import UnknownNameError, check_published
from atomsweep.sweep.study import read_statement
from atomsweep.tracking import schema
from tests.contracts.compose import CONF, compose_with_choices
from tests.data.formats.published_layout import write_published_layout

SWEEPS = CONF.parent / "sweeps"
FILES = sorted(
    path.relative_to(SWEEPS).with_suffix("").as_posix()
    for path in SWEEPS.rglob("*.yaml")
    if isinstance(read_statement(path), SweepFile)  # studies: test_study_file.py
)
SAME = {  # the same cells under another name
    "forcenet/table3": "forcenet/table6",
    "forcenet/figure1": "forcenet/table1",
    "forcenet/figure4": "forcenet/table5",
    "forcenet/figure6": "forcenet/table8",
}
MANY_CELLS = ("dens/table1a", "dens/table1b", "dens/table1c")


def marks(name, scale):
    many = name in MANY_CELLS or (name.startswith("dens/") and scale == "paper")
    return [pytest.mark.long] if many else []


SCALES = [
    pytest.param(name, scale, marks=marks(name, scale))
    for name in FILES
    if name not in SAME
    for scale in read_sweep(SWEEPS / f"{name}.yaml").scale
]

GOOD = """\
title: A table
published: forcenet.table5
experiment: forcenet
overrides: [optim.batch_size=8]
rows: {basis: [sph, sine]}
columns: {act: [relu, swish]}
exclude: [{basis: sine, act: relu}]
seeds: [0, 1]
scale:
  laptop: [model=forcenet_small]
  paper: [data=mini_oc_large]
claims: [act=swish < act=relu]
"""


def written(tmp_path: Path, text: str):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return read_sweep(path)


def test_cells_are_rows_times_columns_times_seeds_without_what_is_excluded(tmp_path):
    wanted = grid({}, written(tmp_path, GOOD), "paper/table")
    assert [cell for cell, _ in wanted.cells] == [
        [*own, f"seed={seed}", "experiment=forcenet", "optim.batch_size=8", "model=forcenet_small"]
        for own in (
            ["basis=sph", "act=relu"],
            ["basis=sph", "act=swish"],
            ["basis=sine", "act=swish"],
        )
        for seed in (0, 1)
    ]
    assert wanted.groups == {"basis": ["sph", "sine"], "act": ["relu", "swish"], "seed": ["0", "1"]}
    assert (wanted.name, wanted.scale) == ("paper/table", "laptop")


def test_a_scale_brings_its_overrides_and_another_name(tmp_path):
    wanted = grid({}, written(tmp_path, GOOD), "table", "paper")
    assert all(cell[-1] == "data=mini_oc_large" for cell, _ in wanted.cells)
    assert wanted.name == "table-paper"
    with pytest.raises(UserError, match="no scale node; it has laptop, paper"):
        grid({}, written(tmp_path, GOOD), "table", "node")


def test_what_is_typed_replaces_the_files_and_multiplies_where_it_is_swept(tmp_path):
    statement = written(tmp_path, GOOD)
    typed = {
        "seed": ["seed=7"],
        "basis": ["basis=gauss"],
        "model": ["model=gns"],
        "optim.batch_size": ["optim.batch_size=4", "optim.batch_size=2"],
    }
    wanted = grid(typed, statement, "table")
    assert [cell for cell, _ in wanted.cells] == [
        [f"act={act}", f"optim.batch_size={size}", "seed=7", "basis=gauss", "model=gns", last]
        for act in ("relu", "swish")
        for size in (4, 2)
        for last in ["experiment=forcenet"]
    ]
    assert wanted.groups == {"act": ["relu", "swish"], "optim.batch_size": ["4", "2"]}


LABELLED = """
title: Widths
rows:
  - {label: plain, dens: none}
  - {label: narrow, dens: v3, model.channels: 16, optim.optimizer.lr: 1.0e-3}
  - {label: wide, dens: v3, model.channels: 32, optim.optimizer.lr: 0.002}
seeds: [0]
metrics: [forces_mae]
"""


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("dens=v3", ["narrow", "wide"]),
        ("dens=none", ["plain"]),
        ("model.channels=32", ["wide"]),  # plain would be another model than its label says
        ("model.channels=32.0", ["wide"]),
        ("optim.optimizer.lr=1e-3", ["narrow"]),
        ("act=relu", ["plain", "narrow", "wide"]),
    ],
)
def test_a_typed_value_keeps_the_rows_that_say_it(tmp_path, word, labels):
    statement = written(tmp_path, LABELLED)
    wanted = grid({word.partition("=")[0]: [word]}, statement, "widths")
    assert [label for _, label in wanted.cells] == labels
    settings = dict(statement.settings())
    for overrides, label in wanted.cells:  # a label stands for what its row says
        assert {f"{k}={v}" for k, v in settings[label].items()} <= set(overrides)


def test_a_value_that_no_labelled_row_says_is_refused_and_others_are_put_in_place(tmp_path):
    statement = written(tmp_path, LABELLED)
    typed = {"model.channels": ["model.channels=64"]}
    with pytest.raises(UserError, match="no row says model.channels=64: model.channels is 16, 32;"):
        grid(typed, statement, "widths")
    both = {"dens": ["dens=none"], "model.channels": ["model.channels=16"]}
    for words in (both, dict(reversed(both.items()))):
        with pytest.raises(UserError, match="no row says "):
            grid(words, statement, "widths")
    bare = written(tmp_path, re.sub("label: [a-z]+, ", "", LABELLED))
    wanted = grid(typed | {"optim.optimizer.lr": ["optim.optimizer.lr=1e-4"]}, bare, "widths")
    said = ["model.channels=64" in overrides for overrides, _ in wanted.cells]
    assert said == [True, True]  # narrow and wide are one now
    kept = grid({"dens": ["dens=v3", "dens=none"]}, bare, "widths")
    assert len(kept.cells) == 3  # those of the file, not its rows times two


DENS = {"dens": ["dens=none"]}
APART = """
title: Molecules
rows: {dens: [none, md17]}
columns:
  - {data.molecule: ethanol, task.forces_coefficient: 80, optim.batch_size: 8}
  - {data.molecule: malonaldehyde, task.forces_coefficient: 100, optim.batch_size: 8}
seeds: [0]
metrics: [forces_mae]
"""


def test_a_new_value_of_what_tells_points_apart_asks_for_what_goes_with_it(tmp_path):
    statement = written(tmp_path, APART)
    molecule = {"data.molecule": ["data.molecule=aspirin"]}
    told = (
        "the file says task.forces_coefficient for data.molecule ethanol, malonaldehyde, and not "
        "for aspirin; type task.forces_coefficient, too (task.forces_coefficient=80,100 keeps the "
        "file's)"
    )
    with pytest.raises(UserError, match=re.escape(told)):
        grid(molecule, statement, "molecules")
    both = molecule | {"task.forces_coefficient": ["task.forces_coefficient=90"]}
    for cells in (grid(typed, statement, "molecules").cells for typed in (both, both | DENS)):
        said = {"data.molecule=aspirin", "task.forces_coefficient=90"}
        assert all(said <= {*cell} for cell, _ in cells)
    alone = {"task.forces_coefficient": ["task.forces_coefficient=90"]}
    with pytest.raises(UserError, match="data.molecule=ethanol,malonaldehyde keeps the file's"):
        grid(alone, statement, "molecules")
    every = {"data.molecule": ["data.molecule=ethanol", "data.molecule=malonaldehyde"]}
    assert len(grid(alone | every, statement, "molecules").cells) == 4
    pair = {"data.molecule": ["data.molecule=ethanol", "data.molecule=aspirin"]}
    with pytest.raises(UserError, match="the file has data.molecule=ethanol and not aspirin; "):
        grid(pair, statement, "molecules")
    known = grid({"data.molecule": ["data.molecule=ethanol"]}, statement, "molecules").cells
    assert all("task.forces_coefficient=80" in cell for cell, _ in known)
    batches = grid({"optim.batch_size": ["optim.batch_size=4"]}, statement, "molecules").cells
    assert len(batches) == 4
    assert all("optim.batch_size=4" in cell for cell, _ in batches)


def points(*rows):
    listed = "".join(f"  - {{{row}}}\n" for row in rows)
    return f"title: A\nrows:\n{listed}seeds: [0]\nmetrics: [forces_mae]\n"


E80, U100 = (
    f"data.molecule: {molecule}, task.forces_coefficient: {number}"
    for molecule, number in (("ethanol", 80), ("uracil", 100))
)


@pytest.mark.parametrize(
    ("rows", "beside", "tied"),
    [
        ([f"{one}, dens: {d}" for one in (E80, U100) for d in ("none", "md17")], [], ["task"]),
        ([E80], [], ["task"]),  # of one row nobody knows what depends on what
        ([", ".join(reversed(one.split(", "))) for one in (E80, U100)], [], ["task"]),
        ([E80, U100, f"model: gns, {E80}"], [], ["task", "model"]),
        ([E80, E80.replace("80", "90"), U100], [], ["task"]),
        ([f"{E80}, optim.batch_size: 8", f"{U100}, optim.batch_size: 16"], [], ["task", "optim"]),
        (
            [f"{E80}, optim.batch_size: 8", f"{U100}, optim.batch_size: 16"],
            ["optim.batch_size=8"],  # leaves one row, and is no reason to take its coefficient
            ["task"],
        ),
        (  # each alone is free, both together are not
            [
                f"data.molecule: {m}, model: {x}, dens: {d}"
                for m, x, d in ("euv", "exw", "uuw", "uxv")
            ],
            [],
            ["model", "dens"],
        ),
    ],
)
def test_what_varies_with_a_key_is_asked_for_wherever_it_stands(tmp_path, rows, beside, tied):
    names = {"task": "task.forces_coefficient", "optim": "optim.batch_size"}
    typed = {word.partition("=")[0]: [word] for word in ("data.molecule=aspirin", *beside)}
    told = ", ".join(names.get(key, key) for key in tied)
    with pytest.raises(UserError, match=f"; type {told}, too "):
        grid(typed, written(tmp_path, points(*rows)), "rows")


def test_a_key_that_varies_by_itself_may_have_a_new_value(tmp_path):
    rows = [f"{one}, dens: {dens}" for one in (E80, U100) for dens in ("none", "md17")]
    cells = grid({"dens": ["dens=v3"]}, written(tmp_path, points(*rows)), "rows").cells
    assert [{*cell} - {"seed=0"} for cell, _ in cells] == [
        {*one.replace(": ", "=").split(", "), "dens=v3"} for one in (E80, U100)
    ]


LISTED = [
    (name, scale, part, axis)
    for name in FILES
    for scale in read_sweep(SWEEPS / f"{name}.yaml").scale or [None]
    for part in ("rows", "columns")
    for listed in [getattr(read_sweep(SWEEPS / f"{name}.yaml").at(scale), part)]
    if isinstance(listed, list)
    for axis in axes_of(listed)
]


@pytest.mark.parametrize(("name", "scale", "part", "axis"), LISTED)
def test_a_new_value_changes_cells_that_agree_on_all_else_or_is_refused(name, scale, part, axis):
    whole = read_sweep(SWEEPS / f"{name}.yaml")
    statement = whole.model_copy(update={"exclude": []})  # of which a new value may be free
    own = {
        value: {
            frozenset(word for word in cell if word != f"{axis}={value}")
            for cell, _ in grid({}, statement, name, scale).cells
            if f"{axis}={value}" in cell
        }
        for value in axes_of(getattr(statement.at(scale), part))[axis]
    }
    typed = {axis: [f"{axis}=new"]}
    try:
        cells = grid(typed, statement, name, scale).cells
    except UserError as error:
        if "no row says" in str(error):  # they have labels
            return
        words = re.search(r", too \((.*) keeps the file's\)", str(error))[1].split()
        for word in words:  # what the sentence says to type
            key, _, values = word.partition("=")
            typed[key] = [f"{key}={value}" for value in values.split(",")]
        cells = grid(typed, statement, name, scale).cells
        assert {f for one in own.values() for f in one} == {
            frozenset({*cell} - {f"{axis}=new"}) for cell, _ in cells
        }
        return
    assert all(one == {frozenset({*c} - {f"{axis}=new"}) for c, _ in cells} for one in own.values())


def test_keys_with_a_plus_are_meant_too_and_rows_that_become_one_are_refused(tmp_path):
    plus = written(tmp_path, LABELLED.replace("model.channels", "++model.channels"))
    ((cell, label),) = grid({"model.channels": ["model.channels=16"]}, plus, "widths").cells
    assert label == "narrow"
    assert "++model.channels=16" in cell
    same = LABELLED.replace("1.0e-3", "0.002").replace("16", "32")
    with pytest.raises(UserError, match="the rows narrow and wide are the same cell"):
        grid({"act": ["act=relu"]}, written(tmp_path, same), "widths")


def test_what_is_excluded_stays_out_whatever_is_typed(tmp_path):
    statement = written(tmp_path, GOOD)
    pairs = [("basis=sph", "act=swish"), ("basis=sph", "act=relu"), ("basis=sine", "act=swish")]
    typed = {"act": ["act=swish", "act=relu"], "seed": ["seed=0"]}
    cells = grid(typed, statement, "table").cells
    assert {tuple(o)[:2] for o, _ in cells} == set(pairs)
    other = GOOD.replace("basis: [sph, sine]", "model.cutoff: [1.0, 2.0]").partition("claims")[0]
    other = other.replace("{basis: sine, act: relu}", "{model.cutoff: 1.0, act: relu}")
    words = {"model.cutoff": ["model.cutoff=1"], "seed": ["seed=0"]}  # which is 1.0
    text = other.replace("published", "# published")
    (swish,) = grid(words, written(tmp_path, text), "table").cells
    assert {"model.cutoff=1.0", "act=swish"} <= set(swish[0])
    alone = grid({"act": ["act=relu"], "seed": ["seed=0"]}, statement, "table").cells
    assert all("basis=sph" in overrides for overrides, _ in alone)
    assert len(alone) == 1


def test_of_words_without_a_file_those_that_are_swept_come_first():
    typed = {
        "engine.steps": ["engine.steps=5"],
        "act": ["act=relu", "act=tanh"],
        "seed": ["seed=0", "seed=1"],
    }
    wanted = grid(typed)
    assert [cell for cell, _ in wanted.cells] == [
        [f"act={act}", f"seed={seed}", "engine.steps=5"]
        for act in ("relu", "tanh")
        for seed in (0, 1)
    ]


def test_only_what_changes_the_science_changes_the_name_of_the_sweep(tmp_path):
    statement = written(tmp_path, GOOD)
    for neutral in (
        "cluster.parallel=2",
        "tracking=none",
        "root=/x",
        "engine.threads=4",
        "plan=true",
    ):
        assert grid({neutral.partition("=")[0]: [neutral]}, statement, "table").name == "table"
    names = {
        grid({o.partition("=")[0]: [o]}, statement, "table").name
        for o in ("engine.steps=7", "data=mini_oc_tiny", "experiment=x", "seed=3")
    }
    assert len(names) == 4
    assert "table" not in names


def test_a_launch_of_some_cells_is_a_part_of_its_table(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(GOOD)
    read = read_sweep(path)
    part = grid({"seed": ["seed=0"], "root": ["root=elsewhere"]}, read, "mine/t")
    assert part.name != "mine/t"
    assert part.whole == grid({}, read, "mine/t").whole == "mine/t"
    assert grid({"seed": ["seed=0"]}, read, "mine/t", "paper").whole == "mine/t-paper"
    assert grid({"seed": ["seed=7"]}, read, "mine/t").whole is None
    assert grid({"optim.clip_norm": ["optim.clip_norm=1"]}, read, "mine/t").whole is None
    assert grid({"seed": ["seed=0", "seed=1"]}).whole is None


def test_explicit_rows_have_labels_and_need_be_no_product(tmp_path):
    statement = written(
        tmp_path,
        "title: T\nrows:\n"
        "- {label: wide, model.hidden_channels: 768, model.self_message: false}\n"
        "- {model.hidden_channels: 512, model.cutoff: null}\n",
    )
    wanted = grid({}, statement, "t")
    assert wanted.cells == [
        (["model.hidden_channels=768", "model.self_message=false", "seed=0"], "wide"),
        (["model.hidden_channels=512", "model.cutoff=null", "seed=0"], None),
    ]
    assert wanted.groups == {
        "model.hidden_channels": ["768", "512"],
        "model.self_message": ["false"],
        "model.cutoff": ["null"],
    }


def test_without_a_file_the_last_key_runs_fastest():
    wanted = grid({"basis": ["basis=sph", "basis=sine"], "seed": ["seed=1"], "act": ["act=relu"]})
    assert wanted.cells == [
        (["basis=sph", "seed=1", "act=relu"], None),
        (["basis=sine", "seed=1", "act=relu"], None),
    ]
    assert wanted.groups == {"basis": ["sph", "sine"]}
    assert wanted.name is None


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title:", "titel:", r":1: titel: unknown; known are title, experiment"),
        ("title: A table\n", "", r":1: title: it is missing"),
        ("rows: {basis: [sph, sine]}\n", "", r":1: rows: it is missing"),
        ("[sph, sine]", "sph", r":5: rows.basis: input should be a valid list, got 'sph'"),
        ("[sph, sine]", "[]", r":5: rows.basis: list should have at least 1 item"),
        ("[sph, sine]", "[[sph]]", r":5: rows.basis.0: .*got \['sph'\]"),
        ("{basis: [sph, sine]}", "{plan: [true]}", r":5: rows: 'plan' is no config key"),
        ("{act:", "{basis:", r":1: basis is an axis of the rows and of the columns"),
        ("{act: [relu, swish]}", "{seed: [1]}", r":1: seed is no axis of a table"),
        ("sine, act", "sine, wings", r":1: exclude names wings, which is not an axis"),
        (
            "sine, act: relu",
            "gauss, act: relu",
            r":1: exclude names basis=gauss, act=relu, which no",
        ),
        ("[{basis: sine, act: relu}]", "[{basis: sph}, {basis: sine}]", r":1: exclude leaves no"),
        ("[0, 1]", "[0, 0]", r":8: seeds: every value must be named once"),
        ("[0, 1]", "[0, half]", r":8: seeds.1: .*valid integer.*got 'half'"),
        ("[optim.batch_size=8]", "[batch 8]", r":4: overrides: expected overrides such as"),
        ("laptop: [model", "laptop: [root model", r":9: scale: expected overrides"),
        ("forcenet.table5", "table 5", r":2: published: .*got 'table 5'"),
        ("seeds: [0, 1]", "rows: {}", r":8: rows is named twice"),
        ("{basis: [sph", "{basis: [sph}", r":5: this is not YAML"),
        (GOOD, "- a\n- b\n", r":1: a sweep file must be a mapping"),
    ],
)
def test_a_wrong_file_is_a_sentence_with_line_and_key(tmp_path, old, new, sentence):
    assert old in GOOD
    with pytest.raises(UserError, match=r"table\.yaml" + sentence) as error:
        written(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(error.value)


EVALUATED = GOOD.replace("claims:", "evaluations: {EVALUATIONS}\nclaims:")


def evaluated(tmp_path, text):
    return written(tmp_path, EVALUATED.replace("{EVALUATIONS}", text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: &a [*a]\nrows: {basis: [sph]}\n", "no YAML"),
        ("title: x\nrows: {basis: " + "[" * 1200 + "]" * 1200 + "}\n", "nested"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)
            )
            + "title: x\nrows: {basis: *b8}\n",
            "more than 100000 values",
        ),
        ("title: x\nrows: {basis: [sph]}\nevaluations: cost\n", ":3: evaluations: "),
    ],
    ids=["itself", "deep", "billion laughs", "text"],
)
def test_yaml_that_would_not_end_is_a_sentence(tmp_path, text, told):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as refused:
        read_sweep(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 400


def test_evaluations_have_settings_that_may_differ_by_scale(tmp_path):
    assert written(tmp_path, GOOD).evaluations_at(None) == {}
    plain = evaluated(tmp_path, "[rotation, cost]").evaluations_at("paper")
    assert list(plain) == ["rotation", "cost"]
    assert plain["rotation"]["rotations"] == 100
    text = "{relax: {fmax: 0.02, scale: {laptop: {steps: 9, fmax: 0.1}}}, cost: }"
    statement = evaluated(tmp_path, text)
    first = grid({}, statement, "table")
    assert first.evaluations() == statement.evaluations_at("laptop")
    assert [first.evaluations()["relax"][key] for key in ("fmax", "steps")] == [0.1, 9]
    paper = statement.evaluations_at("paper")["relax"]
    assert [paper[key] for key in ("fmax", "steps")] == [0.02, 200]
    assert "scale" not in paper


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[spin]", "there is no evaluation spin; there are rotation, cost, relax"),
        ("{relax: {fmx: 1}}", "relax has no setting fmx; it has splits, systems, fmax"),
        ("{relax: {steps: half}}", "relax.steps: input should be a valid integer.*got 'half'"),
        ("{cost: {scale: {node: {repeats: 1}}}}", "cost: the file has no scale node"),
        ("{cost: {scale: {paper: {repeats: 0}}}}", "cost.repeats: .* greater than or equal to 1"),
        ("relax", "input should be a valid"),
    ],
)
def test_a_wrong_evaluation_is_a_sentence_with_its_line(tmp_path, text, sentence):
    with pytest.raises(UserError, match=r"table\.yaml:12: evaluations.*: " + sentence) as error:
        evaluated(tmp_path, text)
    assert "\n" not in str(error.value)


def test_the_documented_file_is_right_and_says_all_that_can_be_said(tmp_path):
    page = (CONF.parent / "docs" / "sweep-files.md").read_text()
    lines = page[page.index("    title:") :].partition("\n\n")[0].splitlines()
    text = "\n".join(line.removeprefix("    ") for line in lines)
    assert len(grid({}, written(tmp_path, text), "table").cells) == 9
    assert set(yaml.safe_load(text)) == set(SweepFile.model_fields)


@pytest.mark.parametrize(
    ("override", "told", "line"),
    [
        ("basis=foo", "In 'config': Could not find 'basis/foo'", 3),
        ("experiment=nope", "In 'config': Could not find 'experiment/nope'", 2),
        ("model.depth=3", "Could not override 'model.depth'", 4),
        ("act=relu", "something else", None),
    ],
)
def test_what_hydra_refuses_is_found_in_the_file(tmp_path, override, told, line):
    path = tmp_path / "table.yaml"
    path.write_text(
        "title: x\nexperiment: nope\nrows: {basis: [sph, foo]}\noverrides: [model.depth=3]\n"
    )
    place = place_of(path, ["seed=0", override], told)
    assert place == (f"{path}: " if line is None else f"{path}:{line}: {override}: ")
    typed = place_of(path, ["seed=0", override], told, [override])
    assert typed == (place if line is None else "")


PUBLISHED = [
    name
    for name in FILES
    if name.startswith("forcenet/") and read_sweep(SWEEPS / f"{name}.yaml").published
]


@pytest.fixture(scope="module")
def oc20(tmp_path_factory):
    """The papers' data sets in the folders of their archives, three records each."""
    return write_published_layout(tmp_path_factory.mktemp("oc20"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_files_ask_for_the_rows_of_the_tables_that_they_answer(name):
    statement = read_sweep(SWEEPS / f"{name}.yaml")
    table = published.table(statement.published)
    axes = [axis.column.partition(".")[2] for axis in table.axes]
    assert {*axes_of(statement.rows), *axes_of(statement.columns)} >= set(axes)

    wanted = {tuple(setting[axis] for axis in axes) for _, setting in statement.settings()}
    paper = {row.key for row in table.rows}
    assert {tuple(_number(v) for v in key) for key in wanted} == {
        tuple(_number(v) for v in key) for key in paper
    }


@pytest.mark.parametrize(("name", "other"), SAME.items())
def test_tables_of_the_same_runs_ask_for_the_same_cells(name, other):
    one, two = (read_sweep(SWEEPS / f"{n}.yaml") for n in (name, other))
    for scale in one.scale:
        assert grid({}, one, name, scale).cells == grid({}, two, other, scale).cells


@pytest.mark.parametrize("name", FILES)
def test_our_files_make_claims(name):
    assert read_sweep(SWEEPS / f"{name}.yaml").claims


def test_models_of_table_8_are_trained_for_table_1():
    one, eight = (read_sweep(SWEEPS / f"forcenet/table{n}.yaml") for n in (1, 8))
    for scale in eight.scale:
        trained = [cell for cell, _ in grid({}, one, "1", scale).cells]
        assert all(cell in trained for cell, _ in grid({}, eight, "8", scale).cells)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


def cells_compose_and_build(wanted, cells):
    """Each as a launch makes it: what the sweep varies of `cluster` makes another run, too."""
    identities = set()
    for overrides, label in cells:
        cell = cell_of(*compose_with_choices(overrides), overrides, label, wanted.groups)
        assert preflight(cell.config, here=False) > 0 or cell.choices["model"] == "median"
        identities.add(cell.identity)
    assert len(identities) == len(cells)


def wanted_at(name, scale):
    return grid({"seed": ["seed=0"]}, read_sweep(SWEEPS / f"{name}.yaml"), name, scale)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), SCALES, ids=lambda value: str(value))
def test_first_and_last_cell_of_our_files_compose_and_build(name, scale, oc20, monkeypatch):
    monkeypatch.setenv("ATOMSWEEP_DATA", str(oc20))
    wanted = wanted_at(name, scale)
    first, *_, last = wanted.cells
    cells_compose_and_build(wanted, [first, last])


@pytest.mark.long
@pytest.mark.parametrize(("name", "scale"), SCALES, ids=lambda value: str(value))
def test_every_cell_of_our_files_composes_and_builds(name, scale, oc20, monkeypatch):
    monkeypatch.setenv("ATOMSWEEP_DATA", str(oc20))
    wanted = wanted_at(name, scale)
    cells_compose_and_build(wanted, wanted.cells)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "metrics: [forces_mea]",
            "metrics.0: there is no metric forces_mea; did you mean forces_mae?",
        ),
        ("metrics: [valid/forces_mae]", "begins with neither a split nor an evaluation"),
        (
            "metrics: [cost/speed]",
            "there is no metric of cost speed; known are structures_per_second",
        ),
        ("metrics: [cost/batch_size]", "measured by nothing here; add evaluations: [cost]"),
        (
            "metrics: [relax/vall_id/adwt]\nevaluations: [relax]",
            "names no split; splits are val_id",
        ),
        ("claims: [act=swish < act=relu on forces_mea]", "claims.0: there is no metric forces_mea"),
        ("claims: [act=swish < act=relu on rotation/forces_std]", "add evaluations: [rotation]"),
        (
            "published: forcenet.table55",
            "published: there is no table of forcenet table55; did you",
        ),
        (
            "published: forcent.table5",
            "published: there is no paper forcent; did you mean forcenet?",
        ),
    ],
)
def test_a_name_that_nothing_has_is_told_when_the_file_is_read(tmp_path, line, told):
    sweeps = tmp_path / "sweeps"
    sweeps.mkdir()
    file = sweeps / "mine.yaml"
    file.write_text(f"title: T\nrows: {{act: [relu, swish]}}\n{line}\n")
    with pytest.raises(UserError) as error:
        read_sweep(file)
    message = str(error.value)
    assert message.startswith(f"{file}:3: ")
    assert told in message


def test_papers_of_the_present_folder_may_be_named_besides_those_shipped(tmp_path, monkeypatch):
    (tmp_path / "analysis" / "published").mkdir(parents=True)
    (tmp_path / "analysis" / "published" / "mine.yaml").write_text("key: mine\ntables:\n  one:\n")
    check_published("forcenet.table5")
    with pytest.raises(UnknownNameError, match="there is no paper mine"):
        check_published("mine.one")
    monkeypatch.chdir(tmp_path)
    check_published("forcenet.table5")
    check_published("mine.one")
    with pytest.raises(UnknownNameError, match="there is no table of mine two"):
        check_published("mine.two")


def test_a_split_that_runs_do_not_evaluate_is_named():
    from atomsweep.sweep.names import split_lacking

    names = ["forces_mae", "val_id/forces_mae", "cost/batch_size", "val_avg/forces_mae"]
    assert split_lacking(names, ["train", "val_id", "test"]) == "val_avg/forces_mae"
    assert split_lacking(names, ["train", *schema.VAL_SPLITS]) is None


def test_every_metric_of_the_tasks_and_relaxations_can_be_named():
    from atomsweep.worker.evaluate.relaxation import split_metrics

    of_energies = {schema.ENERGY_MAE, schema.EWT}  # of models that predict them
    found = {*split_metrics([], [], None), "seconds", *of_energies}
    assert found == set(schema.EVALUATED_BY_SPLIT["relax"])


def test_a_table_without_a_laptops_size_names_the_file_that_has_it():
    statement = read_sweep(SWEEPS / "forcenet/table2.yaml")
    with pytest.raises(
        UserError, match="it has paper; `sweeps=forcenet/table2_mini` asks the same"
    ):
        statement.overrides_at("laptop")
    for name in FILES:
        mini = read_sweep(SWEEPS / f"{name}.yaml").mini
        assert mini is None or mini in FILES


AT_SCALE = (
    GOOD
    + """\
at_scale:
  paper:
    columns: [{act: relu, optim: forcenet}, {act: swish, optim: laptop}]
    exclude: []
    claims: [basis=sph < basis=sine for every act]
"""
)


def test_a_scale_may_have_rows_columns_and_claims_of_its_own(tmp_path):
    statement = written(tmp_path, AT_SCALE)
    assert len(grid({}, statement, "t").cells) == len(grid({}, written(tmp_path, GOOD), "t").cells)
    wanted = grid({"seed": ["seed=0"]}, statement, "t", "paper")
    assert [cell[:3] for cell, _ in wanted.cells] == [
        [f"basis={basis}", f"act={act}", f"optim={optim}"]
        for basis in ("sph", "sine")
        for act, optim in (("relu", "forcenet"), ("swish", "laptop"))
    ]
    assert wanted.groups["optim"] == ["forcenet", "laptop"]
    assert list(wanted.statement.claims) == ["basis=sph < basis=sine for every act"]
    assert wanted.statement.at("paper") == wanted.statement
    assert statement.at("laptop").claims == ["act=swish < act=relu"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  paper:\n    columns", "  node:\n    columns", "at_scale: the file has no scale node"),
        ("    exclude: []\n", "", r"at_scale.paper: exclude names|exclude"),
        (
            "for every act]\n",
            "for every actor]\n",
            r":17: at_scale.paper.claims.0: actor is no axis",
        ),
        ("    claims", "    clams", r":17: at_scale.paper.clams: unknown; known are rows, columns"),
        (
            "{act: relu, opt",
            "{basis: relu, opt",
            "at_scale.paper: basis is an axis of the rows and",
        ),
    ],
)
def test_a_wrong_scale_is_a_sentence(tmp_path, old, new, sentence):
    assert old in AT_SCALE
    text = AT_SCALE.replace(old, new, 1)
    if "exclude: []" in old:
        text = text.replace("act: relu, optim", "act: tanh, optim")
    with pytest.raises(UserError, match=sentence) as error:
        written(tmp_path, text)
    assert "\n" not in str(error.value)
