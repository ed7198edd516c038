"""Somebody after ForceNet's Table 5: a part of it, the report, files for a paper, two runs."""

import csv
import re
import shutil
import subprocess

import pytest

from tests.contracts.commands import Place, environment
from tests.contracts.trained_run import TINY

pytestmark = pytest.mark.slow

FILE = """
title: Basis, small
published: forcenet.table5
rows: {basis: [sph, sine]}
columns: {act: [swish]}
seeds: [0, 1, 2]
metrics: [forces_mae]
claims:
  - basis=sph < basis=sine for every act
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory, mini_oc_tiny):
    path = tmp_path_factory.mktemp("table5")
    (path / "sweeps" / "mine").mkdir(parents=True)
    overrides = ", ".join(TINY)
    (path / "sweeps" / "mine" / "table5.yaml").write_text(f"{FILE}overrides: [{overrides}]\n")
    return Place(path, environment(ATOMSWEEP_DATA=str(mini_oc_tiny.directory.parent)))


@pytest.fixture(scope="module")
def launched(desk):
    """What the launch of the first seed said."""
    code, told = desk.run("sweeps=mine/table5", "seed=0")
    assert code == 0, told
    return told


@pytest.fixture(scope="module")
def reported(desk, launched):
    """What the report of the table said."""
    code, told = desk.type("report", "mine/table5")
    assert code == 0, told
    return told


def cells(desk):
    """Runs of the table; the launch has made the Median beside them."""
    return [run for run in desk.runs() if run.run["choices"]["model"] != "median"]


def results(desk):
    """Basis → force error of its run."""
    return {
        run.run["choices"]["basis"]: run.result["metrics"]["val_id/forces_mae"]
        for run in cells(desk)
    }


def test_a_part_is_launched_and_the_table_of_all_seeds_counts_it(desk, launched, reported):
    assert "atomsweep report mine/table5" in launched
    code, told = desk.run("sweeps=mine/table5", "plan=true")
    assert code == 0
    assert "6 cells: 2 finished, 4 missing; a launch runs 4" in told

    told = reported
    shown = {
        row[0]: row[1:]
        for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines())
        if row
    }
    for basis, name in (("sph", "Spherical"), ("sine", "Sine")):
        cell = f"{results(desk)[basis]:.4f} (1 of 3)"
        assert {cell, f"{cell} ‡"} & {*shown[name]}  # so few steps may leave it at the Median
    assert "**" not in told
    assert "Table 5 of the paper" in told
    assert "stands apart" in told
    assert "undecided  basis=sph < basis=sine for every act" in told
    page = (desk.path / "reports" / "mine" / "table5" / "report.html").read_text()
    assert "The paper’s table in full" in page
    assert "not DFT" in page


def test_files_for_a_paper_have_the_numbers_of_the_runs(desk, reported):
    out = desk.path / "reports" / "mine" / "table5"
    with (out / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val_id"]
    told = {row["choice.basis"]: float(row["so_far"]) for row in rows}
    assert told == pytest.approx(results(desk), rel=1e-6)
    tex = (out / "table.tex").read_text()
    assert all(f"{value:.4f}" in tex for value in results(desk).values())
    if shutil.which("pdflatex"):
        whole = "\n".join([r"\documentclass{article}", r"\usepackage{booktabs}",
                           r"\begin{document}", tex, r"\end{document}"])  # fmt: skip
        (out / "all.tex").write_text(whole)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]


def test_runs_are_reported_by_their_names_and_two_are_compared(desk, launched):
    code, told = desk.type("report", "choice.basis=sine")
    assert code == 0, told
    assert f"{results(desk)['sine']:.4f}" in told
    one, other = (run.identity for run in cells(desk))
    code, told = desk.type("info", one, other)
    assert code == 0, told
    assert re.search(r"^basis\b.*(sph.*sine|sine.*sph)|^basis\._target_", told, re.MULTILINE | re.I)
    page = (desk.path / "reports" / "runs" / f"{one}-and-{other}.html").read_text()
    assert "What they differ in" in page
    code, told = desk.type("report", "choice.basis=gauss")
    assert code == 1
    assert told.count("\n") == 1
    assert "error: " in told


@pytest.mark.long
def test_the_published_table_and_a_study_as_the_readme_types_them(desk):
    code, told = desk.run("sweeps=forcenet/table5", "seed=0", "data=mini_oc_tiny",
                          "engine.steps=20", "engine.eval_every=10", root="whole")  # fmt: skip
    assert code == 0, told
    (name,) = set(re.findall(r"its table: atomsweep report (\S+)", told))
    code, told = desk.type("report", name, "--root", "whole")
    assert code == 0, told
    assert "12 of 12 runs finished" in told
    code, told = desk.run("sweeps=hpo/forcenet", "search.trials=3", "data=mini_oc_tiny",
                          "engine.steps=20", "engine.eval_every=10", root="study")  # fmt: skip
    assert code == 0, told
    code, told = desk.type("report", "latest", "--root", "study")
    assert code == 0, told
    assert re.search(r"3 of 3 trials: \d complete", told)
