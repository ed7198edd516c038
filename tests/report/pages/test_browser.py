"""Pages in Chromium: four widths, both themes, print. Nothing cut, nothing wider than the page.

Skipped where Chromium is not installed. `AXE_CORE` names the file `axe.min.js` of the npm package
axe-core, whose rules are checked too where it is given; nothing of ours depends on it.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from atomsweep.cli.live import Site
from atomsweep.cli.report import main
from atomsweep.report.pages.run import write_runs
from atomsweep.report.read.one import read_one
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from benchmarks.synthetic_runs import make_runs
from tests.report.conftest import Root, write
from tests.report.figures.test_structures import arrays
from tests.report.study.test_study import make_study

WIDTHS = (390, 768, 1280, 1440)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = os.environ.get("AXE_CORE")
PAPERS = {"595 842", "612 792"}  # A4 and letter, points

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def told_by(root, words, out):
    """The path of the page that `report` writes."""
    assert main(["report", *words, "--root", str(root), "--out", str(out)]) == 0
    return out / "report.html"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Every kind of page, by name."""
    folder = tmp_path_factory.mktemp("pages")
    root, out = folder / "runs", folder / "reports"
    make_runs(root, "forcenet/table5", range(3))
    runs = [run for run in find_runs(root) if run.run["choices"]["model"] != "median"]
    shutil.rmtree(runs[0].path)
    for run in runs[1:]:
        (run.path / schema.PREDICTIONS).mkdir()
        np.savez(run.path / schema.PREDICTIONS / "val_id.npz", **arrays())
        (run.path / schema.LOG).write_text("a line of the log " * 20)
    told_by(root, ["all"], out)
    told = [read_one(run, "atomsweep run basis=sph") for run in runs[1:3]]
    return {
        "report": out / "forcenet" / "table5" / "report.html",
        "index": out / "index.html",
        "unlaunched": out / "dens" / "table1a" / "report.html",
        "one run": write_runs(told[:1], out / "runs" / "one.html"),
        "two runs": write_runs(told, out / "runs" / "two.html"),
        "study": told_by(make_study(folder / "study"), ["hpo/toy"], folder / "of-study"),
        "unfinished": told_by(unfinished(folder), ["forcenet/table7"], folder / "of-unfinished"),
        "long names": told_by(long_names(folder), ["latest"], folder / "of-long"),
        "thirty columns": told_by(thirty_columns(folder), ["wide"], folder / "of-wide"),
        "live index": followed(root, "/", folder),
        "live sweep": followed(root, "/sweep/forcenet/table5", folder),
    }


def followed(root, address, folder):
    """A page of `watch`, as a file."""
    path = folder / f"live{address.replace('/', '-')}.html"
    path.write_text(Site(root).page(address), encoding="utf-8")
    return path


def unfinished(folder):
    """Cells in every state, and no Median."""
    root = folder / "unfinished"
    make_runs(root, "forcenet/table7", range(2))
    runs = {run.run["choices"]["model"] == "median": run for run in find_runs(root)}
    shutil.rmtree(runs[True].path)
    cells = [run for run in find_runs(root) if run.path != runs[True].path]
    states = (schema.FAILED, schema.RUNNING, schema.QUEUED, schema.INTERRUPTED)
    for state, run in zip(states, cells, strict=False):
        (run.path / schema.RESULT).unlink()
        message = "the loss is not a number at step 300" if state == schema.FAILED else None
        write(
            run.path / schema.STATUS,
            {"state": state, "step": 300, "total_steps": 800, "message": message},
        )
    return root


def long_names(folder):
    """Runs of a file of one's own with the longest names that there may be."""
    root = Root(folder / "long")
    rates = [f"{rate:g}" for rate in (0.0001, 0.0002, 0.0005, 0.001)]
    for number, rate in enumerate(rates):
        name = f"equiformer_v2_153m-path_of_a_folder_that_nobody_wants_to_read-lr_{rate}"
        path = "/home/anna/projects/copper_oxide/" + "very_long_" * 12 + ".extxyz"
        root.run(
            f"{number:012x}", val_id=0.05 + 0.001 * number, name=name, data="extxyz",
            device="cuda (NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition)",
            config={"data": {"path": path, "split_by": "frame"}},
            overrides=[f"optim.optimizer.lr={rate}", "model.text=" + "abcdef_" * 20],
        )  # fmt: skip
    cells = {
        f"{n:012x}": {"optim.optimizer.lr": rate, "model": "forcenet_small"}
        for n, rate in enumerate(rates)
    }
    root.plan(cells, {"optim.optimizer.lr": rates}, sweep="a_sweep_with_a_long_name_" + "x" * 80)
    return root.path


def thirty_columns(folder):
    """A table with as many columns as nobody sees at once."""
    rates = ", ".join(f"{0.0001 * 1.2**n:.5f}" for n in range(30))
    (folder / "wide.yaml").write_text(
        "title: Learning rates\n"
        "rows: {basis: [sph, sine]}\n"
        f"columns: {{optim.optimizer.lr: [{rates}]}}\n"
        "metrics: [forces_mae]\n"
    )
    make_runs(folder / "wide", "wide", [0], folder=folder)
    return folder / "wide"


@pytest.fixture(scope="module")
def pages(paths):
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def chromium(folder, *words):
    """Run it; returns what it wrote."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder / 'profile'}", *words,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def measured(pages, folder, dark):
    """`page width` → what `measure.js` found."""
    script = (Path(__file__).parent / "measure.js").read_text(encoding="utf-8")
    given = {"PAGES": pages, "WIDTHS": WIDTHS}
    if AXE:
        given["AXE"] = Path(AXE).read_text(encoding="utf-8")
    texts = {name: json.dumps(value).replace("</", r"<\/") for name, value in given.items()}
    set_ = "".join(f"window.{name} = {text};" for name, text in texts.items())
    harness = folder / "harness.html"
    harness.write_text(
        f'<!doctype html><meta charset="utf-8"><body><script>{set_}{script}</script>',
        encoding="utf-8",
    )
    words = ["--window-size=1500,1000", "--timeout=400000", "--virtual-time-budget=300000"]
    words += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = chromium(folder, *words, "--dump-dom", harness.as_uri())
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_every_width_in_both_themes(pages, tmp_path, dark):
    found = measured(pages, tmp_path, dark)
    assert set(found) == {f"{name} {width}" for name in pages for width in WIDTHS}
    assert {one["dark"] for one in found.values()} == {dark}
    assert {one["width"] for one in found.values()} == set(WIDTHS)
    assert min(one["elements"] for one in found.values()) > 50
    assert found["report 390"]["scrolled"] > 2  # so that hints and first columns were looked at
    assert found["thirty columns 1440"]["scrolled"] > 0
    wrong = {name: one["wrong"][:8] for name, one in found.items() if one["wrong"]}
    axe = {name: one["axe"] for name, one in found.items() if one["axe"]}
    assert (wrong, axe) == ({}, {})


def test_a_page_that_is_too_wide_or_too_pale_is_found(tmp_path):
    page = (
        '<!doctype html><html lang="en"><title>x</title><body><p style="width: 500px">wide</p>'
        '<p style="color: #bbb; background: #fff">pale</p><button></button>'
        '<table><thead><tr><th style="width: 1px">GPU-hours</table>'
        '<svg width="90" height="20"><text y="10">one</text><text x="3" y="11">two</text></svg>'
        '<div class="scroll" style="overflow-x: auto"><table><tr><th class="lead">a'
        '<td><div style="width: 2000px">b</div></table></div>'
    )
    wrong = " ".join(measured({"bad": page}, tmp_path, False)["bad 390"]["wrong"])
    for told in ("wider than the page", "contrast 1.9", "has no name", "has no caption",
                 "scrolls without a hint", "its first column leaves",
                 "a head is broken within GPU-hours", "labels overlap"):  # fmt: skip
        assert told in wrong


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="poppler-utils are not installed")
@pytest.mark.parametrize("name", ["report", "unfinished", "long names", "study", "two runs"])
def test_printed_pages_have_every_word_on_the_paper(paths, tmp_path, name):
    pdf = tmp_path / "page.pdf"
    done = chromium(
        tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", paths[name].as_uri()
    )
    assert pdf.is_file(), done.stderr[-2000:]
    told = subprocess.run(
        ["pdftotext", "-bbox", str(pdf), "-"], capture_output=True, text=True, check=True
    ).stdout
    sizes = set(re.findall(r'<page width="([\d.]+)" height="([\d.]+)"', told))
    assert {f"{float(w):.0f} {float(h):.0f}" for w, h in sizes} <= PAPERS
    width = float(min(sizes)[0])
    words = re.findall(r'xMin="([-\d.]+)".*?xMax="([-\d.]+)".*?>(.*?)</word>', told)
    assert len(words) > 100
    outside = [word for left, right, word in words if float(left) < 0 or float(right) > width]
    assert outside == []
