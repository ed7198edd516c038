"""Tables that stay in the repository: every number with its runs, every claim with its verdict."""

import csv
import json
import math
import re

from atomsweep.cli.report import main
from atomsweep.report.pages.results import _tally_sentence
from atomsweep.report.tables.verdicts import HOLDS, UNDECIDED, Comparison, Judged
from atomsweep.tracking import schema
from benchmarks.synthetic_runs import make_runs


def test_results_of_several_sweeps_name_the_runs_of_every_number(tmp_path, capsys):
    root = tmp_path / "runs"
    names = ("forcenet/table5", "forcenet/table7")
    for name in names:
        make_runs(root, name, range(3))
    out = tmp_path / "docs" / "forcenet.md"
    words = ["results", *names, "--root", str(root), "--out", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".csv"))]
    page = out.read_text()
    assert "## Basis and activation (forcenet/table5)" in page
    assert "`act=swish < act=relu for every basis`" in page
    assert "**fails**" in page
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["sweep"] for row in rows} == set(names)
    assert len(rows) == (12 + 4) * 5
    for row in rows:
        identities = row["identities"].split()
        assert len(identities) == int(row["n"]) == 3
        assert all(f"`{identity}`" in page for identity in identities)
    assert str(tmp_path) not in page.replace(str(out), "")
    assert all(told in page for told in ("### What it cost", "### Equal compute", "on average"))
    assert main([*words, "--without-times", "--note", "Made under load."]) == 0
    left = out.read_text()
    assert "**Note.** Made under load.\n\n" in left
    assert "Made under load" not in page
    assert not any(told in left for told in ("What it cost", "Equal compute", "on average"))
    assert left.count("Budget: ") == page.count("Budget: ") > 0
    assert left.count("| ") > 0.8 * page.count("| ")


def test_without_times_no_table_and_no_claim_of_time_is_left(tmp_path):
    root, out = tmp_path / "runs", tmp_path / "page.md"
    make_runs(root, "forcenet/table1", range(3))
    words = ["results", "forcenet/table1", "--root", str(root), "--out", str(out)]
    assert main(words) == 0
    with_times = list(csv.DictReader(out.with_suffix(".csv").open()))
    timed = {row["metric"] for row in with_times if re.search("hours|seconds", row["metric"])}
    assert timed
    assert "device_" in out.read_text()
    assert main([*words, "--without-times"]) == 0
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert rows == [row for row in with_times if row["metric"] not in timed]
    claims = [line for line in out.read_text().splitlines() if line.startswith("| forcenet/table1")]
    assert claims
    assert not any("device" in line or "hours" in line for line in claims)
    page = out.read_text()
    assert "Device times, tables of them" in page
    told = page[page.index("runs finished.") :].splitlines()[0]
    assert sum(map(int, re.findall(r"(\d+) of \d+ claims? ", told))) == len(claims)
    assert set(re.findall(r"\d+ of (\d+) claims? ", told)) == {str(len(claims))}
    assert "hours" not in told


def test_kinds_of_frames_stand_apart_on_the_page_and_in_the_numbers(tmp_path):
    root, out = tmp_path / "runs", tmp_path / "page.md"
    make_runs(root, "forcenet/table5", range(3))
    for path in root.glob("run-*"):
        seed = json.loads((path / schema.RUN).read_text())["seed"]
        result = json.loads((path / schema.RESULT).read_text())
        for kind, error in zip(schema.FRAME_KINDS, (0.05, 0.8), strict=True):
            result["metrics"][f"val_id_{kind}/forces_mae"] = error + 0.01 * seed
        (path / schema.RESULT).write_text(json.dumps(result))
    assert main(["results", "forcenet/table5", "--root", str(root), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("### Kinds of frames") == 1
    (told,) = re.findall(r"^\| Spherical +\| Swish +\|[^|]+\|", page.split("### Kinds")[1], re.M)
    assert "0.0600 ± 0.0248" in told  # 4.303 times 0.01 over the root of 3
    found = [
        row
        for row in csv.DictReader(out.with_suffix(".csv").open())
        if (row["split"], row["metric"]) == ("val_id_rattled", "forces_mae")
    ]
    assert len(found) == 12
    assert {(row["mean"], row["n"], row["seeds"]) for row in found} == {("0.81", "3", "0 1 2")}
    assert {row["values"] for row in found} == {"0.8 0.81 0.82"}


def test_claims_are_judged_on_each_kind_of_frames(tmp_path):
    root, out = tmp_path / "runs", tmp_path / "page.md"
    make_runs(root, "forcenet/table5", range(3))
    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        result = json.loads((path / schema.RESULT).read_text())
        swish = run["choices"]["act"] == "swish"
        noise = 1e-3 * run["seed"] * (1 + swish)
        for kind, better in zip(schema.FRAME_KINDS, (swish, not swish), strict=True):
            for split in ("val_id", "val_avg"):
                result["metrics"][f"{split}_{kind}/forces_mae"] = 0.2 - 0.1 * better + noise
        (path / schema.RESULT).write_text(json.dumps(result))
    assert main(["results", "forcenet/table5", "--root", str(root), "--out", str(out)]) == 0
    claim = re.escape("`act=swish < act=relu for every basis`")
    section = out.read_text().split("### Kinds of frames")[1].split("###")[0]
    (line,) = re.findall(rf"^\| {claim} +\|.*$", section, re.M)
    whole, relaxation, rattled = (cell.strip() for cell in line.split("|")[2:5])
    assert relaxation == "holds (6 hold)"
    assert rattled == "fails (6 fail)"
    assert whole == "fails (1 holds, 5 fail)"
    (header,) = re.findall(r"^\| Claim +\|.*$", section, re.M)
    assert [c.strip() for c in header.split("|")[3:5]] == ["Relaxation", "Rattled"]
    judged_by = {"val_avg_relaxation", "val_avg_rattled"}
    with out.with_suffix(".csv").open() as file:
        assert judged_by <= {row["split"] for row in csv.DictReader(file)}


def test_sections_of_the_runs_need_no_table_of_forces_first(tmp_path):
    """Table 2 begins with how much forces change under rotation, which is of no split."""
    root, out = tmp_path / "runs", tmp_path / "page.md"
    make_runs(root, "forcenet/table2_mini", range(3))
    for path in root.glob("run-*"):
        result = json.loads((path / schema.RESULT).read_text())
        for kind, error in zip(schema.FRAME_KINDS, (0.05, 0.8), strict=True):
            result["metrics"][f"val_id_{kind}/forces_mae"] = error
        result["metrics"] |= {f"val_id/forces_{axis}_mae": 0.4 for axis in "xyz"}
        (path / schema.RESULT).write_text(json.dumps(result))
        lines = [
            {"step": step, "device_seconds": step} | {f"val_id/forces_{a}_mae": 0.1 for a in "xyz"}
            for step in (1.0, 2.0)
        ]
        with (path / schema.JOURNAL).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    assert main(["results", "forcenet/table2_mini", "--root", str(root), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("### Kinds of frames") == page.count("### Leaving the Median") == 1
    with out.with_suffix(".csv").open() as file:
        assert "left_median_at" in {row["metric"] for row in csv.DictReader(file)}


def test_results_of_nothing_are_one_sentence(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    words = [
        "results",
        "forcenet",
        "--root",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "x.md"),
    ]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("error: nothing of forcenet has finished")


def claim(verdict, *pairs):
    """A claim of some comparisons, each its effect and pairs."""
    found = [
        Comparison("a", "b", effect, 0.1, n, verdict, False, None, None, False, None, None)
        for effect, n in pairs
    ]
    return Judged("a < b", "val_id/forces_mae", verdict, tuple(found), None)


def test_a_claim_that_another_sweep_asks_of_the_same_runs_is_counted_once_too():
    same, other = claim(HOLDS, (0.01, 3)), claim(HOLDS, (0.02, 3))
    told = "3 claims: 3 hold. 1 of them repeats what another sweep asks of the same runs; without: "
    assert _tally_sentence([same, other, same]) == f"{told}2 hold."
    assert _tally_sentence([same, other]) == "2 claims: 2 hold."
    open_ = [claim(UNDECIDED, (math.nan, 0)), claim(UNDECIDED, (math.nan, 0)), claim(UNDECIDED)]
    assert _tally_sentence(open_) == "3 claims: 3 undecided."  # nobody knows that of which runs
    unlike = claim(UNDECIDED, (0.01, 3))  # another number of looks
    assert _tally_sentence([same, unlike]) == "2 claims: 1 holds, 1 undecided."
