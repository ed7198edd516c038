"""The wheel, installed where nothing else of this repository can be seen, trains and reports.

Its dependencies are those of this environment: they are put on the path without what pip has noted
of our checkout, so a file that the wheel lacks is lacking here too.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(folder), str(REPOSITORY)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the programs of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    paths = {name: str(folder) for name in ("base", "platbase")}
    site = sysconfig.get_path("purelib", vars=paths)
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def command(program, *arguments, cwd):
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(program), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def test_it_holds_what_is_chosen_compared_and_published_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "atomsweep/conf/config.yaml",
        "atomsweep/sweeps/forcenet/table5.yaml",
        "atomsweep/published/forcenet.yaml",
        "atomsweep/nn/elements.csv",
        "atomsweep/tracking/code_v1.json",
        "atomsweep/py.typed",
        "hydra_plugins/atomsweep/sweeper.py",
    ):
        assert name in names, name
    for folder in ("conf", "sweeps"):
        kept = {p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / folder).rglob("*.yaml")}
        assert {f"atomsweep/{name}" for name in kept} <= set(names)
    assert [n for n in names if n.startswith(("tests/", "analysis/", "conf/"))] == []


def test_it_trains_in_an_empty_folder_and_reports(installed, tmp_path):
    code, said = command(installed / "atomsweep", "--version", cwd=tmp_path)
    assert (code, said.split()[0]) == (0, "atomsweep"), said
    code, said = command(
        installed / "atomsweep", "run", "data=mini_oc_tiny", "engine.steps=20", cwd=tmp_path
    )
    assert code == 0, said
    code, said = command(installed / "atomsweep", "report", "latest", cwd=tmp_path)
    assert code == 0, said
    small = ["data=mini_oc_tiny", "engine.steps=20", "engine.eval_every=10", "size=small"]
    train = ["run", "-m", "act=swish,relu", *small, "tracking=none"]
    code, said = command(installed / "atomsweep", *train, cwd=tmp_path)
    assert code == 0, said
    # again, as a module: what is finished is not run again
    code, said = command(installed / "python", "-m", "atomsweep", *train, cwd=tmp_path)
    assert code == 0, said
    assert "2 finished; a launch runs 0" in said
    code, said = command(installed / "atomsweep", "report", "latest", cwd=tmp_path)
    assert code == 0, said
    assert "Swish" in said
    assert list((tmp_path / "reports").rglob("*.html"))
    code, said = command(installed / "atomsweep", "retry", sweep_of(tmp_path), cwd=tmp_path)
    assert code == 0, said
    assert "a launch runs 0" in said


def test_a_folder_of_ones_own_comes_before_what_is_shipped(installed, tmp_path):
    (tmp_path / "conf" / "act").mkdir(parents=True)
    (tmp_path / "conf" / "act" / "mine.yaml").write_text(
        "_target_: torch.nn.Tanh\n_partial_: true\n"
    )
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(
        "title: Own\nrows: {act: [mine, relu]}\nseeds: [0]\n"
        "overrides: [data=mini_oc_tiny, engine.steps=5, engine.eval_every=5]\n"
    )
    code, said = command(installed / "atomsweep", "run", "sweeps=own", "plan=true", cwd=tmp_path)
    assert code == 0, said
    assert "act=mine" in said
    shipped = ["run", "sweeps=forcenet/table5", "data=mini_oc_tiny", "seed=0", "plan=true"]
    code, said = command(installed / "atomsweep", *shipped, cwd=tmp_path)
    assert code == 0, said
    assert "12 cells: 12 missing" in said


def sweep_of(folder):
    (plan,) = (folder / "runs" / "_sweeps").glob("*.json")
    return plan.stem
