"""`atomsweep info`, `--version`, and what the shell completes."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from atomsweep.cli.info import spark
from atomsweep.cli.main import main
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from tests.places import REPOSITORY

KEPT = REPOSITORY / "tests" / "kept" / "version_1" / "runs"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pages are written below the present folder
    return shutil.copytree(KEPT, tmp_path / "runs")


def told(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_info_says_what_a_run_is_where_how_it_ended_and_its_last_lines(root, capsys, tmp_path):
    run = next(run for run in find_runs(root) if "swish" in run.name)
    (run.path / schema.LOG).write_text("".join(f"line {i}\n" for i in range(40)))
    said = told(capsys, "info", run.identity, "--root", str(root), "--lines", "2")
    rows = dict(line.split(None, 1) for line in said.partition("\n\n")[0].splitlines())
    assert rows["run"] == run.name
    assert rows["directory"] == str(run.path)
    assert rows["state"] in (schema.FINISHED, schema.STALE)
    assert rows["command"] == run.run["command"]
    assert rows["step"] == "20 of 20"
    assert rows["val_id/forces_mae"] == "0.34725"
    assert "make it " in said
    assert re.search(r"^data hash +[0-9a-f]+$", said, re.MULTILINE)
    page = (tmp_path / rows["page"]).read_text()
    assert run.run["command"] in page
    assert f"<dd>{run.path}</dd>" in page
    assert "model.hidden_channels" in page
    assert "line 38\nline 39" in page
    assert said.endswith("  line 38\n  line 39\n")
    assert "line 37" not in said


def test_info_of_two_runs_says_what_they_differ_in(root, capsys, tmp_path):
    one, other = (next(r for r in find_runs(root) if act in r.name) for act in ("swish", "tanh"))
    said = told(capsys, "info", one.identity, other.identity, "--root", str(root))
    differ = said[said.index(f"{one.identity} and {other.identity} differ in") :]
    rows = [line.split() for line in differ.splitlines()[1:]]
    assert [one.identity, other.identity] in rows
    assert ["act._target_", "torch.nn.SiLU", "torch.nn.Tanh"] in rows
    assert not any(row[:1] == ["model._target_"] for row in rows)  # the same in both
    page = (tmp_path / "reports" / "runs" / f"{one.identity}-and-{other.identity}.html").read_text()
    apart = page[page.index('id="differences"') : page.index('id="config"')]
    assert re.search(r"act\._target_</th><td>torch\.nn\.SiLU</td><td>torch\.nn\.Tanh", apart)


def test_a_curve_in_a_terminal_is_a_word():
    assert spark([3.0, 2.0, 1.0]) == "█▅▁"
    assert spark([1.0]) == "▁"
    assert len(spark([float(i) for i in range(500)])) == 32


def test_info_of_a_run_that_was_stopped_says_why(root, capsys):
    run = next(run for run in find_runs(root) if "tanh" in run.name)
    said = told(capsys, "info", str(run.path))
    assert "interrupted" in said
    assert "stopped by SIGTERM at step 21; the same command continues" in said


def test_info_of_no_run_is_a_sentence(root, capsys):
    assert main(["info", "nothing", "--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("atomsweep info: there is no run nothing")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("atomsweep ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("atomsweep sta", {"status"}),
        ("atomsweep run basis=s", {"sine", "sph"}),
        ("atomsweep run -m act=relu engine.st", {"engine.steps="}),
    ],
)
def test_the_shell_completes_commands_groups_options_and_keys(typed, wanted, tmp_path):
    answer = tmp_path / "answer"
    env = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "src"),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'@><=;|&(:",
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "COMP_TYPE": "9",
    }
    code = "from atomsweep.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert {word.strip() for word in answer.read_text().split("\n") if word.strip()} == wanted
