"""docs/adding-a-model.md, followed to the letter in a copy of the repository.

Its files are written and a few of its tests run, which build what it adds; `long` runs every
command as it stands and looks for what the page says comes out.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import REPOSITORY

PAGE = (REPOSITORY / "docs" / "adding-a-model.md").read_text()
BLOCKS = re.findall(r"(?:^`(\S+)`:\n\n)?^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
FILES = {path: text for path, _, text in BLOCKS if path}
COMMANDS = [line for _, kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PROMISED = [line for _, kind, text in BLOCKS if kind == "text" for line in text.splitlines()]
TESTS = [path for path in FILES if Path(path).name.startswith("test_")]
TAKEN = ("src", "conf", "sweeps", "analysis", "tests", "run.py", "pyproject.toml")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the repository with the files of the page, where `python` is this interpreter."""
    copy = tmp_path_factory.mktemp("extending") / "atomsweep"
    for name in TAKEN:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    for path, text in FILES.items():
        assert not (copy / path).exists(), f"{path} is there before anybody followed the page"
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text)
    python = copy.parent / "bin" / "python"
    python.parent.mkdir()
    source = f"{copy}/src${{PYTHONPATH:+:$PYTHONPATH}}"  # what the installed package stands for
    python.write_text(f'#!/bin/sh\nPYTHONPATH={source} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return copy


def run(place, command, data, **environment):
    """Output of a command of the page in bash; it must succeed."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ATOMSWEEP_PLUGINS")}
    path = f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=place,
        env={**clean, "PATH": path, "ATOMSWEEP_DATA": str(data), "OMP_NUM_THREADS": "1"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,  # of a block; a loaded machine is several times slower
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def test_the_page_has_files_and_commands_for_a_model_a_data_set_and_a_task():
    folders = {Path(path).parent.as_posix() for path in FILES}
    assert {f"conf/{kind}" for kind in ("model", "data", "task")} <= folders
    assert {f"src/atomsweep/{room}" for room in ("models", "data/formats", "tasks")} <= folders
    assert len(TESTS) == 4
    for path in TESTS:
        assert any(command.endswith(f"pytest {path}") for command in COMMANDS), path
    assert len(BLOCKS) == PAGE.count("\n```") / 2  # none is of another form


@pytest.mark.slow
def test_what_the_page_adds_is_found_and_built_by_its_tests(place, tmp_path):
    """One process; `slow` runs the whole of them."""
    some = "declares or gives_what_single or unknown_split or squared"
    told = run(
        place,
        f"python -m pytest -p no:cacheprovider {' '.join(TESTS)} -k '{some}'",
        tmp_path,
        PYTHONPATH="../mylab:.",
        ATOMSWEEP_PLUGINS="mylab",
    )
    assert re.search(r"6 passed", told), told


@pytest.mark.long
def test_every_command_works_as_it_stands_and_gives_what_the_page_says(place, mini_oc_tiny):
    told = run(place, "\n".join(COMMANDS), mini_oc_tiny.directory.parent)
    words = " ".join(told.split())
    for line in PROMISED:
        assert " ".join(line.rstrip("|").split()) in words, (line, told)
    assert re.search(r"2 cells: 1 missing, 1 finished; a launch runs 1", told), told
    assert "Traceback" not in told
    finished = {path.parent.name for path in (place / "runs").glob("*/result.json")}
    assert len(finished) == 5  # mine, forcenet_small, json_lines, huber, theirs
    (huber,) = (place / "runs").glob("*huber*/result.json")
    assert "val_id/forces_within" in huber.read_text()
