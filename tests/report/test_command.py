import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomsweep.cli.report import main
from atomsweep.report.read.directories import read_directories
from tests.places import REPOSITORY


def run(root, *words, out=None):
    return main(
        ["report", *words, "--root", str(root.path), "--out", str(out or root.path / "out")]
    )


def test_a_report_prints_its_table_and_where_the_page_is(table5, tmp_path, capsys):
    assert run(table5, "latest", out=tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "| Spherical | Swish | 0.0500 |" in printed
    assert printed.rstrip().endswith(f"Report: {tmp_path / 'out' / 'report.html'}")
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.usefixtures("undrawn")
def test_the_directory_is_named_after_the_sweep(table5, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "basis_act-1a2b3c", "--root", str(table5.path)]) == 0
    assert Path("reports/basis_act-1a2b3c/report.html").is_file()


@pytest.mark.usefixtures("undrawn")
def test_gaps_are_printed_with_what_fills_them(table5, capsys):
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    assert run(table5, "latest") == 0
    assert "Sine, ReLU: missing" in (printed := capsys.readouterr().out)
    assert "fill it: atomsweep run basis=sine act=relu" in printed


@pytest.mark.usefixtures("undrawn")
def test_strict_fails_where_something_is_missing(table5, capsys):
    assert run(table5, "latest", "--strict") == 0
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    assert run(table5, "latest", "--strict") == 1


@pytest.mark.usefixtures("undrawn")
def test_strict_fails_where_something_is_damaged(table5, capsys):
    (table5.path / "odd").mkdir()
    (table5.path / "odd" / "config.yaml").write_text("")
    assert run(table5, "latest", "--strict") == 1
    assert "problem: odd is half-written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["table9"], "error: there is no sweep table9 in "),
        (["choice.basis=gauss"], "error: no run of the 5"),
        (["latest", "choice.basis=sph"], "error: expected one sweep, or filters"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(table5, capsys, words, told):
    assert run(table5, *words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(told)
    assert printed.err.count("\n") == 1


def test_nothing_finished_is_one_sentence_and_no_report(root, tmp_path, capsys):
    root.run("a" * 12, state="failed", message="no data")
    assert run(root, "basis_act-1a2b3c", out=tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("error: nothing of basis_act-1a2b3c has finished")
    assert not (tmp_path / "out").exists()


def test_a_root_that_is_not_there_is_one_sentence(tmp_path, capsys):
    assert main(["report", "latest", "--root", str(tmp_path / "nowhere")]) == 1
    assert "there is no directory" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_filters_are_joined(table5, capsys):
    assert run(table5, "choice.basis=sph", "choice.act=swish") == 0
    assert "1 of 1 runs finished" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from atomsweep.cli.report import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "bad = {'pandas', 'matplotlib', 'torch', 'mlflow', 'numpy', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=ENV, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_report_needs_no_torch_and_no_mlflow(table5, tmp_path):
    code = (
        "import sys; from atomsweep.cli.report import main\n"
        f"assert main(['report', 'latest', '--root', {str(table5.path)!r}, "
        f"'--out', {str(tmp_path)!r}]) == 0\n"
        "bad = {'torch', 'mlflow', 'torch_geometric', 'scipy.stats'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=ENV, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr


ENV = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}


@pytest.mark.long
def test_a_thousand_runs_are_reported_in_ten_seconds(root, capsys):
    cells = {}
    for number in range(1000):
        identity = f"{number:012x}"
        basis, act = ("sph", "sine")[number % 2], ("swish", "relu")[number // 2 % 2]
        root.run(identity, basis=basis, act=act, seed=number // 4, val_id=0.05 + number * 1e-6)
        cells[identity] = {"basis": basis, "act": act, "seed": str(number // 4)}
    groups = {"basis": ["sph", "sine"], "act": ["swish", "relu"]}
    root.plan(cells, groups | {"seed": [str(i) for i in range(250)]})
    start = time.perf_counter()
    assert run(root, "latest") == 0
    assert time.perf_counter() - start < 10


def test_commands_fill_the_place_that_is_reported_and_not_where_it_was_launched(table5):
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    runs = read_directories(table5.path)
    runs.typed = "root=here"
    launched = "atomsweep run basis=sph root=/elsewhere seed=1"
    assert runs.placed(launched) == "atomsweep run basis=sph seed=1 root=here"
    commands = runs.sweep("latest")["command"]
    assert commands.str.endswith(" root=here").all()
    assert (commands.str.count("root=") == 1).all()
