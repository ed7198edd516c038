"""Help that fits a screen, and readers that stop reading."""

import subprocess
import sys

import pytest

from atomsweep.cli import run
from atomsweep.cli.usage import usage
from atomsweep.launch.typed import vocabulary
from tests.contracts.commands import environment
from tests.places import REPOSITORY


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_help_fits_a_screen_and_names_every_group(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    groups = vocabulary().groups
    lines = usage(groups).splitlines()
    assert len(lines) <= 40
    listed = lines[lines.index("groups and their options:") + 1 :]
    assert max(map(len, listed[: len(groups)])) <= min(columns, 100)
    assert {line.split()[0] for line in listed[: len(groups)]} == set(groups)


def test_a_long_group_counts_what_has_no_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (line,) = (
        line
        for line in usage({"g": [f"option{i}" for i in range(30)]}).splitlines()
        if line.startswith("  g ")
    )
    assert line == "  g  option0 ... and 29 more" or line.endswith("more")
    shown = line.split("...")[0].split()[1:]
    assert int(line.split("and ")[1].split()[0]) == 30 - len(shown)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["basis=sph", "--help"]])
def test_help_is_printed_and_nothing_is_run(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    run.main(words)
    assert "groups and their options:" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("words", [["run.py", "--help", "all"], ["-m", "atomsweep", "--help"]])
def test_a_reader_that_stops_reading_sees_no_traceback(words):
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, told = process.communicate(timeout=120)
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
