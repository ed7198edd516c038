"""Tables that stay in the repository: every number with its runs, every claim with its verdict."""

import csv
import re

from atomsweep.cli.report import main
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
    timed = {row["metric"] for row in with_times if "hours" in row["metric"]}
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
