"""Pages in Chromium: three widths, both themes. Nothing cut, nothing wider than the page.

Skipped where Chromium is not installed. Where npm has put `axe-core` into `node_modules/` of the
checkout its rules are checked too; nothing of ours depends on it.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from atomsweep.cli.report import main
from atomsweep.report.pages.run import write_runs
from atomsweep.report.read.one import read_one
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from benchmarks.synthetic_store import make_store
from tests.places import REPOSITORY
from tests.report.figures.test_structures import arrays

WIDTHS = (390, 768, 1440)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = REPOSITORY / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name → HTML: a table with gaps and structures, the index, a paper's table, two runs."""
    folder = tmp_path_factory.mktemp("pages")
    root, out = folder / "runs", folder / "reports"
    make_store(root, "forcenet/table5", range(3))
    runs = [run for run in find_runs(root) if run.run["choices"]["model"] != "median"]
    shutil.rmtree(runs[0].path)
    for run in runs[1:]:
        (run.path / schema.PREDICTIONS).mkdir()
        np.savez(run.path / schema.PREDICTIONS / "val_id.npz", **arrays())
        (run.path / schema.LOG).write_text("a line of the log " * 20)
    assert main(["report", "all", "--root", str(root), "--out", str(out)]) == 0
    told = [read_one(run, "atomsweep run basis=sph") for run in runs[1:3]]
    paths = {
        "report": out / "forcenet" / "table5" / "report.html",
        "index": out / "index.html",
        "unlaunched": out / "dens" / "table1a" / "report.html",
        "two runs": write_runs(told, out / "runs" / "two.html"),
    }
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def measured(pages, folder, dark):
    """`page width` → what `measure.js` found."""
    script = (Path(__file__).parent / "measure.js").read_text(encoding="utf-8")
    given = {"PAGES": pages, "WIDTHS": WIDTHS}
    if AXE.is_file():
        given["AXE"] = AXE.read_text(encoding="utf-8")
    texts = {name: json.dumps(value).replace("</", r"<\/") for name, value in given.items()}
    set_ = "".join(f"window.{name} = {text};" for name, text in texts.items())
    harness = folder / "harness.html"
    harness.write_text(
        f'<!doctype html><meta charset="utf-8"><body><script>{set_}{script}</script>',
        encoding="utf-8",
    )
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--window-size=1500,1000",
        f"--user-data-dir={folder / 'profile'}", "--timeout=240000",
        "--virtual-time-budget=200000", "--dump-dom", harness.as_uri(),
    ]  # fmt: skip
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
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
    wrong = {name: one["wrong"][:8] for name, one in found.items() if one["wrong"]}
    axe = {name: one["axe"] for name, one in found.items() if one["axe"]}
    assert (wrong, axe) == ({}, {})


def test_a_page_that_is_too_wide_or_too_pale_is_found(tmp_path):
    page = (
        '<!doctype html><html lang="en"><title>x</title><body><p style="width: 500px">wide</p>'
        '<p style="color: #bbb; background: #fff">pale</p><button></button>'
        '<div class="scroll" style="overflow-x: auto"><table><tr><th class="lead">a'
        '<td><div style="width: 2000px">b</div></table></div>'
    )
    wrong = " ".join(measured({"bad": page}, tmp_path, False)["bad 390"]["wrong"])
    for told in ("wider than the page", "contrast 1.9", "has no name", "has no caption",
                 "scrolls without a hint", "its first column leaves"):  # fmt: skip
        assert told in wrong
