"""What was typed wrongly is answered by a sentence that says what to type."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from atomsweep.build import UserError
from atomsweep.cli import run
from atomsweep.launch.compose import cell_of
from atomsweep.launch.typed import checked, keys_of, num_cells, told, unknown, vocabulary
from tests.contracts.compose import compose_with_choices
from tests.contracts.params import first
from tests.places import CONF


@pytest.fixture(scope="module")
def known():
    return vocabulary()


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("bassis=sine", "there is no bassis; did you mean basis?"),
        ("+bassis=sine", "there is no bassis; did you mean basis?"),
        ("++bassis=sine", "there is no bassis; did you mean basis?"),
        ("steps=10", "there is no steps; did you mean engine.steps?"),
        ("lr=1e-3", "there is no lr; did you mean optim.optimizer.lr?"),
        ("models/size=x", "there is no models/size; did you mean size?"),
        ("basis=sinus", "basis has no option sinus; did you mean sine?"),
        ("basis='sinus'", "basis has no option sinus; did you mean sine?"),
        ("basis@model.basis=sinus", "basis has no option sinus; did you mean sine?"),
        ("sweeps=forcenet/tabel5", "did you mean forcenet/table5?"),
        ("cluster=1e-3", "cluster has no option 0.001; known are local, slurm_cpu"),
        ("optim=0", "optim has no option 0; known are"),
        ("size=null", "size has no option null; known are published, small"),
        ("tracking=true", "tracking has no option true; known are mlflow, none"),
        ("task=[s2f,s2ef]", "several to sweep: -m task=s2f,s2ef"),
        ("basis=sph,sine", "a sweep over them begins with -m"),
        ("~basis", "~basis takes out what every run needs; type basis=none"),
        ("~seed", "~seed takes out what every run needs"),
        ("basis", "'basis' is no choice; type group=option or key=value"),
        ("model=schnet,", "model=schnet, has an empty value beside a comma"),
        ("model=schnet,,gns", "has an empty value beside a comma"),
        ("data.path=", "data.path= has no value; type data.path=<value>"),
        ("data.path=''", "data.path='' has no value"),
        ("hydra.run.dir=x", "hydra.run.dir=x does nothing here"),
        ("hydra/launcher=submitit", "hydra/launcher=submitit does nothing here"),
        ("+hydra.job.chdir=true", "+hydra.job.chdir=true does nothing here"),
        ("data.path=/a/${x}", "refers to the key x, which does not exist"),
    ],
)
def test_a_wrong_word_is_answered(known, word, answer):
    with pytest.raises(UserError) as refused:
        checked(["seed=1", word], known, multirun=False)
    assert answer in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["basis=sph,sinus", "basis=choice(sinus,sph)"])
def test_every_value_of_a_sweep_is_looked_at(known, word):
    with pytest.raises(UserError, match="no option sinus; did you mean sine"):
        checked([word], known, multirun=True)


def test_a_range_to_search_is_no_list_to_try(known):
    with pytest.raises(UserError, match="is a range to search, and a sweep takes a list"):
        checked(["optim.optimizer.lr=interval(1e-4,1e-3)"], known, multirun=True)


@pytest.mark.parametrize(
    "words",
    [
        ["basis=sine", "engine.steps=10", "+model.extra=1", "seed=range(0,3)"],
        ["basis=glob(s*)", "act=swish,relu", "optim.batch_size=${seed}"],
        ["hydra.searchpath=[file:///mine]", "mine=new", "model=other"],
        ["data.path='/a b'", "optim.ema_decay=null", "~optim.clip_norm"],
    ],
)
def test_right_words_are_let_be(known, words):
    assert checked(words, known, multirun=True) == words


@pytest.mark.parametrize(
    "word", ["sweeps=forcenet/table5,forcenet/table6", "root=a,b", "scale=a,b"]
)
def test_what_a_launch_has_one_of_is_not_swept(known, word):
    with pytest.raises(UserError, match="names several values, and a launch has one"):
        checked([word], known, True)


def test_a_sweep_file_needs_no_dash_m(known):
    words = ["sweeps=forcenet/table5", "basis=sph,sine"]
    assert checked(words, known, multirun=False) == words


@pytest.mark.parametrize(
    "path",
    first(
        5,
        [
            "/a=b",
            "/a(1)",
            "/a[x",
            "/a{b",
            "/#a",
            "/a;b",
            "/a&b",
            "/a!b",
            "/a^b",
            "/it's",
            '/a"b',
            "/ü",
            "/a ${x} b",
            "/a,b",
            "/a b=c",
        ],
    ),
)
def test_a_path_with_any_character_can_be_typed_as_the_error_shows(known, path):
    """The advice is followed: a shell splits it, Hydra reads it, and the path is the same."""
    with pytest.raises(UserError) as refused:
        checked([f"data.path={path}"], known, multirun=False)
    advice = str(refused.value).rpartition(": 'data.path")[2]
    (word,) = shlex.split(f"'data.path{advice}")
    checked([word], known, multirun=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["data=extxyz", word])
    assert cfg.data.path == path


def test_the_home_directory_is_meant_by_a_tilde(known, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = checked(["root=~/runs", "data.path='~/x y'", "sweep='a~b'"], known, multirun=True)
    assert words == ["root=/home/me/runs", "data.path='/home/me/x y'", "sweep='a~b'"]


@pytest.mark.parametrize(
    ("word", "multirun", "told"),
    [
        ("scale=paper", True, "scale=paper is for a sweep file, and there is none; add sweeps="),
        ("search.trials=3", True, "search.trials=3 is for a sweep file, and there is none"),
        ("sweep=mine", False, "sweep=mine names a sweep, and this is one run; add -m or sweeps="),
    ],
)
def test_words_of_a_sweep_are_refused_where_there_is_none(known, word, multirun, told):
    with pytest.raises(UserError, match=told):
        checked([word], known, multirun)


def test_a_task_of_energies_gives_forcenet_its_head():
    def head(*words):
        cfg, choices = compose_with_choices(["data=mini_oc_tiny", *words])
        return cell_of(cfg, choices, words).config["model"].get("energy_head")

    assert head() is False
    assert head("task=s2ef") is True
    assert head("task=s2ef", "model=schnet") is None


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("optim.clip_nrom=1", "there is no optim.clip_nrom; did you mean optim.clip_norm?"),
        ("optim.lr=1", "there is no optim.lr; did you mean optim.optimizer.lr?"),
        ("+optim.clip_norm=1", "optim.clip_norm"),
        (
            "data.path=x",
            "there is no data.path with the data that is chosen; it is of data=ase_db|",
        ),
        ("~optim.clip_nrom", "there is no optim.clip_nrom; did you mean optim.clip_norm?"),
    ],
)
def test_what_hydra_refuses_is_told_shortly(known, override, answer):
    try:
        compose_with_choices([override])
    except HydraException as error:
        sentence = told(error, [override], known)
        assert answer in sentence
        assert "\n" not in sentence
        assert "append" not in sentence.lower()
    else:
        assert override.startswith("+")  # Hydra lets a plus set what is there


def test_a_missing_option_in_an_options_own_list_is_told(known, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /basis: sinus}]\n"
    )
    override = f"hydra.searchpath=[file://{tmp_path}]"
    with pytest.raises(HydraException) as refused:
        compose_with_choices([override, "experiment=mine"])
    assert told(refused.value, [], known) == "basis has no option sinus; did you mean sine?"


def test_what_no_run_reads_makes_no_run():
    """An option file may set it too, where no word shows it."""
    cfg, choices = compose_with_choices(["+bassis=sine", "data=mini_oc_tiny"])
    with pytest.raises(UserError, match="no run reads bassis: .*did you mean basis"):
        cell_of(cfg, choices, [])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["tracking.uri=runs/mlflow"], "tracking.uri must be sqlite:///<file>"),
        (["tracking.every_s=x"], "tracking.every_s must be a number of seconds above 0, got 'x'"),
        (["tracking.every_s=-1"], "tracking.every_s must be a number of seconds above 0, got -1"),
        (["tracking.experiment=null"], "tracking.experiment must be a text, got None"),
        (["+tracking.evry_s=1"], "tracking has no evry_s; did you mean tracking.every_s?"),
        (["+cluster.gpu=1"], "cluster has no gpu here"),
        (["seed=-1"], "seed must be a whole number of at least 0, got -1"),
        (["seed=x"], "seed must be a whole number of at least 0, got 'x'"),
        (["cluster.ranks=two"], "cluster.ranks must be a whole number of at least 1, got 'two'"),
        (["cluster.parallel=0"], "cluster.parallel must be a whole number of at least 1 or null"),
        (["data=extxyz"], "data.path must be given; type data.path=<value>"),
        (["sweep=../../x"], "a sweep's name is like mine or mine/first"),
        (["sweep=/x"], "a sweep's name is like mine or mine/first"),
    ],
)
def test_what_would_fail_late_is_refused_before_data_are_made(words, answer):
    cfg, choices = compose_with_choices(["data=mini_oc_tiny", *words])
    with pytest.raises(UserError) as refused:
        cell_of(cfg, choices, words)
    assert answer in str(refused.value)


def test_options_and_overrides_may_stand_in_any_order():
    flags, words, options = run._read(["seed=1,2", "-m", "basis=sph", "-cd", "mine"])
    assert (flags, words) == (["-m", "-cd", "mine"], ["seed=1,2", "basis=sph"])
    assert (options.multirun, options.config_dir) == (True, "mine")
    with pytest.raises(UserError, match="-x; --help shows"):
        run._read(["-x", "seed=1"])


def test_keys_are_those_that_can_be_typed():
    assert keys_of({"optim": {"_target_": "x", "lr": 1}, "seed": 0}) == [
        "optim",
        "optim.lr",
        "seed",
    ]
    assert unknown("engine.a.b", ["engine", "engine.steps"]) == (
        "there is no engine.a; known are steps"
    )
    assert Path(CONF / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        ([], 1),
        (["seed=3"], 1),
        (["seed=range(0,1000)"], 1000),
        (["seed=1,2,3", "basis=sph,sine", "act=swish"], 6),
    ],
)
def test_cells_are_counted_before_anything_is_composed(words, cells):
    assert num_cells(words) == cells


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=0", "seed=1"], "seed is typed twice, seed=0 and seed=1; leave one out"),
        (["model=schnet", "basis=sine", "model=gns"], "model is typed twice"),
        (["+seed=0", "seed=0"], "seed is typed twice"),
        (["optim.optimizer.lr=1e-3", "optim.optimizer.lr=1e-4"], "for a sweep over both: -m optim"),
    ],
)
def test_a_key_that_is_typed_twice_is_refused(words, told):
    with pytest.raises(UserError, match=re.escape(told)):
        checked(words, vocabulary([]), multirun=False)


def test_several_values_of_one_key_are_typed_once():
    words = ["seed=0,1", "basis=sine,sph", "optim.batch_size=4"]
    assert checked(words, vocabulary([]), multirun=True) == words
