import csv
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from atomsweep import console
from atomsweep.report.pages import report, writing
from atomsweep.report.pages.html import page as html_page
from atomsweep.report.pages.jinja import _whole
from atomsweep.report.pages.markdown import report_markdown
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables import grids
from atomsweep.report.tables.choosing import metric_problems
from atomsweep.report.tables.curves import why_none
from atomsweep.report.tables.provenance import provenance_grid
from atomsweep.tracking import schema

GOLDEN = Path(__file__).parent / "golden"
VOID = {"meta", "link", "br", "hr", "img", "input"}


def built(root, sweep="latest"):
    runs = read_directories(root.path)
    return report.build(runs, runs.sweep(sweep))


def filtered(root, **filters):
    runs = read_directories(root.path)
    return report.build(runs, runs.where({k.replace("__", "."): v for k, v in filters.items()}))


@pytest.fixture(scope="module")
def table5_report(shared_table5):
    """Made once; what changes runs makes its own."""
    return built(shared_table5[0])


@pytest.fixture(scope="module")
def papers_report(shared_table5):
    return built(shared_table5[1])


@pytest.fixture(scope="module")
def table5_files(table5_report, tmp_path_factory):
    """The page, beside all files of the report."""
    return writing.write(table5_report, tmp_path_factory.mktemp("report") / "a" / "b")


@pytest.fixture(scope="module")
def files_with_a_gap(shared_table5, tmp_path_factory):
    """All files of the paper's table, of which one cell has no run."""
    folder = tmp_path_factory.mktemp("gap")
    shutil.copytree(shared_table5[1].path, folder / "runs")
    shutil.rmtree(next((folder / "runs").glob("*-000000000003")))
    runs = read_directories(folder / "runs")
    return writing.write(report.build(runs, runs.sweep("latest")), folder / "out").parent


def same_as_golden(name, text):
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags that are not closed in order, ids, references, header cells without a scope."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.ids, self.references = [], [], [], []
        self.tables, self.captions, self.unscoped, self.text = 0, 0, 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [attrs[k] for k in ("src", "href", "xlink:href") if k in attrs]
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.unscoped += tag == "th" and attrs.get("scope") not in ("col", "row", "rowgroup")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def page_of(made):
    text = html_page(made)
    return text, Page(text)


def test_the_markdown_of_table5_is_golden(table5_report):
    same_as_golden("table5.md", report_markdown(table5_report))


def test_the_latex_of_table5_is_golden(table5_files):
    same_as_golden("table5.tex", (table5_files.parent / "table.tex").read_text(encoding="utf-8"))


def test_a_terminal_shows_the_table_as_the_paper_has_it(papers_report):
    lines = papers_report.text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == [
        "Basis", "Act", "Seeds", "ID", "OOD Ads", "OOD Cat", "OOD Both", "Avg",
        "ID ÷ Median", "Paper Avg", "Difference",
    ]  # fmt: skip
    assert [row[:2] for row in cells[2:]] == [
        ["Median", ""], ["Spherical", "ReLU"], ["Spherical", "Swish"],
        ["Sine", "ReLU"], ["Sine", "Swish"],
    ]  # fmt: skip
    assert cells[2][3:] == ["0.1000", "0.1040", "0.1020", "0.1100", "0.1040", "1.00 ×", "–", "–"]
    assert cells[4][3] == "**0.0502 ± 0.0025**"
    assert cells[4][8:] == ["0.50 ×", "**0.0360**", "+0.0182"]
    assert max(len(line) for line in lines if not line.startswith("|")) <= report.TERMINAL


def test_all_files_are_written(table5_files):
    page = table5_files
    assert "step" in pd.read_csv(page.parent / "curves.csv")
    assert page.parts[-3:] == ("a", "b", "report.html")
    assert {path.name for path in page.parent.iterdir()} == {
        "report.html", "report.md", "table.csv", "runs.csv", "curves.csv", "table.tex",
        "table-siunitx.tex", "table-narrow.tex",
        "curves-val_id.svg", "curves-val_id.pdf", "curves-val_id.png",
        "curves-val_id-time.svg", "curves-val_id-time.pdf", "curves-val_id-time.png",
        "compute-1.svg", "compute-1.pdf", "compute-1.png",
    }  # fmt: skip
    with (page.parent / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5
    assert {(row["published"], row["difference"]) for row in rows} == {("", "")}
    assert len(pd.read_csv(page.parent / "runs.csv")) == 5


@pytest.mark.usefixtures("undrawn")
def test_a_missing_and_a_failed_cell_are_dashes_with_reason_and_command(table5):
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    shutil.rmtree(next(table5.path.glob("*-000000000002")))
    table5.run("000000000002", basis="sine", state="failed", message="loss is NaN at step 400")
    made = built(table5)
    table = grids.markdown(made.tables[0].grid).splitlines()
    for line in table[-2:]:
        ours = [cell.strip() for cell in line.strip("|").split("|")]
        assert ours[2:] == ["–"] * 6
    gaps = {gap.cell: gap for gap in made.gaps}
    assert gaps["Sine, Swish"].state == "failed"
    assert gaps["Sine, Swish"].reason == "loss is NaN at step 400"
    assert gaps["Sine, ReLU"].state == "missing"
    assert gaps["Sine, ReLU"].command == "atomsweep run basis=sine act=relu"
    assert not made.complete
    text, _ = page_of(made)
    for told in ("loss is NaN at step 400", "atomsweep run basis=sine act=relu"):
        assert told in report_markdown(made)
        assert told in text


def test_an_interrupted_run_tells_how_far_it_came(root):
    root.run("a" * 12)
    root.run("b" * 12, act="relu", state="interrupted", message="signal 15")
    (gap,) = [gap for gap in built(root, "basis_act-1a2b3c").gaps if gap.state == "interrupted"]
    assert gap.reason == "signal 15; step 400 of 800"


def test_without_a_median_run_the_first_row_is_dashes_and_says_what_fills_it(table5):
    shutil.rmtree(next(table5.path.glob("*-ffffffffffff")))
    made = built(table5)
    first = made.tables[0].grid.rows[0]
    assert [cell.text for cell in first] == ["Median", ""] + ["–"] * 6
    assert [gap.command for gap in made.gaps] == ["atomsweep run model=median data=mini_oc"]
    assert "`atomsweep run model=median data=mini_oc`" in made.text


@pytest.mark.usefixtures("undrawn")
def test_the_sweeps_own_command_is_offered_only_where_it_would_run_something(table5):
    shutil.rmtree(next(table5.path.glob("*-ffffffffffff")))
    own = "The sweep’s own command"
    assert own not in page_of(built(table5))[0]  # it does not make a Median
    cell = next(table5.path.glob("*-000000000003"))
    (cell / schema.RESULT).unlink()
    status = json.loads((cell / schema.STATUS).read_text())
    for state, offered in ((schema.QUEUED, False), (schema.FAILED, True)):
        (cell / schema.STATUS).write_text(json.dumps(status | {"state": state}))
        made = built(table5)
        assert (own in page_of(made)[0]) == offered
        assert ("What is missing of the sweep's cells" in report_markdown(made)) == offered


def test_a_table_without_curves_says_why(table5):
    for journal in table5.path.glob(f"*/{schema.JOURNAL}"):
        journal.unlink()
    made = built(table5)
    told = "No run logged Force MAE twice, so there are no curves"
    assert told in page_of(made)[0]
    assert told in report_markdown(made)
    assert why_none("Instability", "rotation").startswith("Instability is measured once, after")
    assert why_none("Parameters", "run") == ""


def test_words_of_a_head_do_not_break_at_hyphens_slashes_or_dots():
    whole = '<span class="whole">device-h</span>'
    assert str(_whole("Training device-h")) == f"Training {whole}"
    assert str(_whole("a<b ID")) == '<span class="whole">a&lt;b</span> ID'


def test_the_median_run_that_is_asked_for_is_on_the_same_data(root):
    root.run("a" * 12, overrides=["basis=sph", "data=mini_oc_tiny", "data.seed=3", "optim.lr=1"])
    made = filtered(root, identity="a" * 12)
    assert made.gaps[0].command == "atomsweep run model=median data=mini_oc_tiny data.seed=3"


def test_the_caption_names_data_size_budget_device_and_the_papers_data(table5_report):
    caption = " ".join(table5_report.tables[0].caption)
    for told in (
        "mini_oc",
        "EMT, not DFT",
        "1\u202f200 training structures and 600 for validation",
        "800 steps per run",
        "80 s of training on cpu (Example 9000)",
        "n = 1 seed, so no interval",
        "its numbers and ours do not compare, as ours are on mini_oc",
        "model forcenet_small (paper: forcenet); optim laptop (paper: forcenet)",
        "within 0.0005",
    ):
        assert told in caption


def test_the_paper_is_beside_every_split_and_never_in_place_of_ours(papers_report):
    lines = report_markdown(papers_report).splitlines()
    rows = [[c.strip(" *") for c in line.strip("|").split("|")] for line in lines if "|" in line]
    assert [
        "Sine", "ReLU", "OOD Both", "0.0622 ± 0.0025", "0.57 ×", "0.0456", "+0.0166"
    ] in rows  # fmt: skip


def test_on_other_data_no_cell_has_the_papers_number_and_its_table_stands_apart(table5_report):
    made = table5_report
    assert made.tables[0].cells[["published", "difference"]].isna().all(axis=None)
    assert not any("Paper" in title for title in made.tables[0].grid.header)
    text, _ = page_of(made)
    cells = re.findall(r'<td class="num" title=.*?</td>', text, re.DOTALL)
    assert len(cells) == 4 * 5
    assert not any("0.0360" in cell or "beside" in cell for cell in cells)
    assert "0.0360" in text[text.index("The paper’s table in full") :]
    assert "## Table 5 of Hu" in report_markdown(made)


def test_labels_that_are_not_dfts_are_named_in_heading_and_first_tile(table5_report):
    made = table5_report
    assert made.level == "mini_oc: EMT, not DFT"
    text, _ = page_of(made)
    assert '<span class="level">mini_oc: EMT, not DFT</span></h1>' in text
    first = text[text.index('<dl class="tiles">') :].partition("</div>")[0]
    assert "mini_oc: EMT, not DFT" in first


def test_every_markdown_table_has_as_many_cells_in_each_line(table5_report):
    made = table5_report
    grid = grids.plain(["|F|, eV/Å", "n"], [["a|b", "1"]], "lr")
    for text in (grids.markdown(grid), report_markdown(made)):
        blocks = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
        assert blocks
        for block in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_runs_that_wait_or_train_are_told_and_not_an_error(root):
    for number, state in enumerate(("queued", "queued", "interrupted")):
        root.run(str(number) * 12, seed=number, state=state, journal=False)
    root.plan({str(n) * 12: {"seed": str(n)} for n in range(3)}, {"seed": ["0", "1", "2"]})
    made = built(root)
    assert made.summary.startswith("0 of 3 runs finished. 2 waiting for their turn.")
    waiting = [gap for gap in made.gaps if gap.state == "queued"]
    assert [gap.command for gap in waiting] == [None, None]
    assert "step 400 of 800" in next(g.reason for g in made.gaps if g.state == "interrupted")


def test_energies_have_a_table_where_they_were_trained_beside_forces(root):
    path = root.run("a" * 12, task="s2ef")
    result = json.loads((path / schema.RESULT).read_text())
    result["metrics"] = {"val_id/forces_mae": 0.05, "val_id/energy_mae": 0.3}
    (path / schema.RESULT).write_text(json.dumps(result))
    made = filtered(root, identity="a" * 12)
    assert [table.metric for table in made.tables] == ["forces_mae", "energy_mae"]
    assert [table.grid.header[1] for table in made.tables] == ["Validation", "Validation"]
    assert made.tables[1].grid.rows[0][1].text == "0.3000"
    assert made.heading == "forcenet_small on mini_oc"


def test_a_file_of_ones_own_is_called_by_its_name(root):
    root.run("a" * 12, overrides=["data=extxyz", "data.path=/x/my.extxyz", "data.split_by=df"])
    run = next(root.path.glob("*/run.json"))
    about = json.loads(run.read_text())
    about["data"]["provenance"] = {"source": "my.extxyz", "note": "converted from the user's files"}
    run.write_text(json.dumps(about))
    made = filtered(root, identity="a" * 12)
    assert made.heading == "forcenet_small on my.extxyz"
    assert "Data: my.extxyz, 1 200 training" in made.text.replace("\n", " ")
    assert "Split by df." in made.text.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("name", ["table", "table-narrow", "table-siunitx"])
def test_the_latex_compiles(files_with_a_gap, tmp_path, name):
    aligned = name.endswith("siunitx")
    found = subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False)
    if aligned and found.returncode:
        pytest.skip("siunitx is not installed")
    packages = "booktabs,siunitx" if aligned else "booktabs"
    document = rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}"
    table = (files_with_a_gap / f"{name}.tex").read_text(encoding="utf-8")
    (tmp_path / "all.tex").write_text(document + "\n" + table + r"\end{document}", "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 1000


def test_seeds_show_interval_and_number(root):
    for seed, val_id in enumerate((0.050, 0.052, 0.057)):
        root.run(str(seed) * 12, seed=seed, val_id=val_id)
        root.run(str(seed + 5) * 12, seed=seed, val_id=val_id, act="relu",
                 state="finished" if seed else "failed")  # fmt: skip
    made = built(root, "basis_act-1a2b3c")
    rows = {row[0].text: [cell.text for cell in row] for row in made.tables[0].grid.rows}
    assert made.tables[0].grid.header[:3] == ["Act", "Seeds", "ID"]
    assert rows["Swish"][1:3] == ["3", "0.0530 ± 0.0090"]
    assert rows["ReLU"][1:3] == ["2", "0.0545 (2 of 3)"]
    first = made.tables[0].grid.rows
    assert not any(cell.bold for row in first for cell in row if "(2 of 3)" in cell.text)
    assert "95 % interval" in made.text
    assert any(gap.cell == "ReLU, seed 0" for gap in made.gaps)


def test_axes_without_a_published_table_get_a_table_of_their_own(root):
    for number, rate in enumerate((1e-3, 2e-3)):
        root.run(str(number) * 12, config={"optim": {"lr": rate}}, name=f"lr_{rate}")
    cells = {str(n) * 12: {"optim.lr": str(rate)} for n, rate in enumerate((1e-3, 2e-3))}
    root.plan(cells, {"optim.lr": ["0.001", "0.002"]})
    made = built(root)
    assert made.tables[0].reference is None
    assert made.tables[0].grid.header[:2] == ["Lr", "ID"]
    assert [row[0].text for row in made.tables[0].grid.rows] == ["Median", "0.001", "0.002"]
    assert "Paper" not in made.text
    page_of(made)


def test_a_filter_makes_a_report(table5):
    made = filtered(table5, choice__basis="sph")
    assert made.tables[0].grid.header[0] == "Act"
    assert made.tables[0].reference == "forcenet.table5"
    assert [row[0].text for row in made.tables[0].grid.rows] == ["Median", "ReLU", "Swish"]
    assert writing.slug(made.name) == "choice.basis-sph"


def test_one_run_makes_a_report_too(table5):
    made = filtered(table5, identity="000000000000")
    assert [row[0].text for row in made.tables[0].grid.rows] == [
        "Median", "forcenet_small-sph-swish"
    ]  # fmt: skip
    page_of(made)


def test_the_baseline_alone_makes_a_report(table5):
    page_of(filtered(table5, choice__model="median"))


def test_unlike_runs_get_tables_of_their_own(root):
    root.run("a" * 12)
    root.run("b" * 12, act="relu")
    root.run("c" * 12, steps=1600, name="longer")
    made = built(root, "basis_act-1a2b3c")
    assert [len(table.df) for table in made.tables] == [2, 1]
    assert "800 steps" in made.tables[0].caption[2]
    assert "1600 steps" in made.tables[1].caption[2]
    _, page = page_of(made)
    assert page.wrong == []


def test_two_runs_in_one_row_are_told_and_shown_apart(root):
    root.run("a" * 12)
    root.run("b" * 12, config={"optim": {"lr": 1.0}}, name="other")
    root.plan({"a" * 12: {"act": "swish"}, "b" * 12: {"act": "swish"}}, {"act": ["swish"]})
    made = built(root)
    assert [row[0].text for row in made.tables[0].grid.rows[1:]] == [
        "forcenet_small-sph-swish", "other"
    ]  # fmt: skip
    assert any("config.optim.lr" in problem for problem in made.problems)


def test_a_finished_run_without_a_split_is_a_problem(table5):
    runs = read_directories(table5.path)
    runs.df.loc[runs.df["identity"] == "0" * 12, "metric.val_ood_cat/forces_mae"] = None
    made = report.build(runs, runs.sweep("latest"))
    assert any("without a number for val_ood_cat/forces_mae" in p for p in made.problems)


@pytest.mark.usefixtures("undrawn")
def test_damage_is_told_in_the_page(table5):
    (next(table5.path.glob("*-000000000001")) / schema.RUN).write_text("{")
    made = built(table5)
    _, page = page_of(made)
    assert "Problems" in page.text
    assert any("forcenet_small-sph-relu-000000000001 cannot be read" in t for t in page.text)


def test_nothing_finished_is_one_sentence(root):
    root.run("a" * 12, state="failed", message="no structure has edges")
    root.plan({"a" * 12: {"act": "swish"}, "b" * 12: {"act": "relu"}}, {"act": ["swish", "relu"]})
    with pytest.raises(report.NothingFinished) as caught:
        built(root)
    assert str(caught.value) == (
        "nothing of basis_act-1a2b3c has finished (1 failed, 1 missing); "
        "first failure: no structure has edges; run `atomsweep run -m act=swish,relu`"
    )


def test_the_page_is_well_formed_and_needs_nothing_else(table5):
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    text, page = page_of(built(table5))
    assert page.wrong == []
    assert page.open == []
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert not re.search(r"https?://|url\((?!#)|@import|<script\s|<script.*<script", text)
    assert all(reference.startswith("#") for reference in page.references)
    assert len(set(page.ids)) == len(page.ids)
    assert len(text.encode()) < 1_000_000


def test_the_pages_tables_have_captions_and_scopes(table5_report):
    _, page = page_of(table5_report)
    assert page.tables == page.captions >= 3
    assert page.unscoped == 0


def test_words_from_runs_are_escaped(root):
    root.run("a" * 12)
    words = "<script>alert(1)</script> &\nmore | of it"
    root.run("b" * 12, act="<b>x</b>", name="odd", state="failed", message=words)
    made = built(root, "basis_act-1a2b3c")
    text, page = page_of(made)
    assert "<script>alert" not in text
    assert "<b>x" not in text
    assert "&lt;script&gt;" in text
    assert page.wrong == []
    line = next(line for line in report_markdown(made).splitlines() if "alert(1)" in line)
    assert "& more \\| of it" in line


def test_the_page_follows_the_readers_theme_and_prints(table5_report):
    text, _ = page_of(table5_report)
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert query in text


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("forcenet/table5", "forcenet/table5"),
        ("choice.basis=sph,sine", "choice.basis-sph-sine"),
        ("../../etc", "etc"),
        ("/", "report"),
    ],
)
def test_a_report_lies_below_its_directory(name, path):
    assert writing.slug(name) == path


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (48, "48 s"), (150, "2.5 min"), (7300, "2.0 h"), (4e5, "4.6 d"),
     (float("nan"), "–")],
)  # fmt: skip
def test_durations_are_read_at_a_glance(seconds, text):
    assert console.duration(seconds) == text


def test_a_sweep_over_seeds_alone_is_one_row_with_their_mean(root):
    cells = {f"{seed:012x}": {"seed": str(seed)} for seed in range(3)}
    for seed, identity in enumerate(cells):
        root.run(identity, seed=seed, val_id=0.05 + 0.001 * seed, sweep="seed-1a2b3c")
    root.plan(cells, {"seed": ["0", "1", "2"]}, sweep="seed-1a2b3c")
    made = built(root)
    (table,) = made.tables
    own = table.cells[table.cells["split"] == "val_id"]
    assert own["n"].tolist() == [3]
    assert own["mean"].tolist() == [pytest.approx(0.051)]
    assert own["half_width"].tolist() == [pytest.approx(0.001 * 4.3027 / 3**0.5, rel=1e-4)]
    assert "no interval" not in made.text


def test_a_task_that_does_not_measure_a_metric_lacks_none(root):
    cells = {}
    for number, (task, seed) in enumerate(itertools.product(("s2f", "s2ef"), (0, 1))):
        identity = f"{number:012x}"
        cells[identity] = {"task": task, "seed": str(seed)}
        path = root.run(identity, task=task, seed=seed, sweep="task-1a2b3c")
        result = json.loads((path / schema.RESULT).read_text())
        if task == "s2ef" and seed == 0:
            result["metrics"]["val_id/energy_mae"] = 0.1
        (path / schema.RESULT).write_text(json.dumps(result))
    root.plan(cells, {"task": ["s2f", "s2ef"], "seed": ["0", "1"]}, sweep="task-1a2b3c")
    finished = read_directories(root.path).sweep("latest")
    (problem,) = metric_problems(finished, "energy_mae", ["val_id"])
    assert problem.endswith("000000000003 is finished without a number for val_id/energy_mae")
    assert len(metric_problems(finished, "ewt", ["val_id"])) == 4  # nobody has it


@pytest.mark.usefixtures("undrawn")
def test_runs_of_other_code_are_called_stale_and_keep_their_numbers(table5, tmp_path):
    before = built(table5)
    path = next(table5.path.glob("*000000000001")) / schema.ENVIRONMENT
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"code": [{"engine/loop.py": "0" * 12}]})
    )
    after = built(table5)
    assert "1 of them with other code than the present (stale)" in after.summary
    assert "stale" not in before.summary
    states = provenance_grid(after.provenance).rows
    assert [row[2].text for row in states].count("stale") == 1
    ours, theirs = after.tables[0].cells, before.tables[0].cells
    assert ours.drop(columns="stale").equals(theirs.drop(columns="stale"))
    assert (ours["stale"].sum(), theirs["stale"].sum()) == (5, 0)
    assert '<td class="state stale">stale</td>' in writing.write(after, tmp_path).read_text()
