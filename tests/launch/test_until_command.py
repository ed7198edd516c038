"""`until=decided` as it is typed: trained, looked at, told by plan, status and page."""

import itertools
import json

import pytest

from atomsweep.cli.main import main
from atomsweep.tracking import schema
from tests.test_commands import SMALL

FILE = """\
title: Widths
rows: {model.hidden_channels: [8, 12]}
seeds: {first: 2, most: 3}
metrics: [val_id/forces_mae]
claims: [model.hidden_channels=8 < 1.0001 * model.hidden_channels=12]
"""


def words(place):
    (place.path / "sweeps").mkdir(exist_ok=True)
    (place.path / "sweeps" / "mine.yaml").write_text(FILE)
    own = [word for word in SMALL if not word.startswith("model.hidden_channels")]
    return ["sweeps=mine", *own]


@pytest.mark.long
def test_undecided_claims_get_seeds_to_the_last_and_the_same_command_adds_nothing(
    place,
    capsys,
):
    typed = words(place)
    code, output = place.run(*typed, "until=decided")
    assert code == 0, output
    (path,) = (place.path / "runs" / schema.PLANS).glob("mine*.json")
    plan = json.loads(path.read_text())
    settled, open_ = plan[schema.CLAIMS]["settled"], plan[schema.CLAIMS]["open"]
    seeds = {(cell["overrides"][0], cell["seed"]) for cell in plan["cells"]}
    assert len(settled) + len(open_) == 1
    assert len(seeds) == len(plan["cells"]) == len(place.runs()) - 1  # the other is the Median
    if open_:
        why = open_[0]["why"]
        assert "not trained" in why or why.startswith(("all 3 seeds", "unlikely to be decided"))
        assert "claims: 0 settled, 1 open" in output
    again = len(place.runs())
    code, output = place.run(*typed, "until=decided", "plan=true")
    assert code == 0, output
    assert "claims: " in output
    code, output = place.run(*typed, "until=decided")
    assert (code, len(place.runs())) == (0, again), output
    capsys.readouterr()
    assert main(["status", plan["sweep"], "--root", str(place.path / "runs")]) == 0
    assert "claims: " in capsys.readouterr().out


@pytest.mark.slow
def test_further_seeds_run_as_the_cells_do_and_not_as_the_median_beside_them(place):
    """One at a time where that was typed; a claim of time needs no network that has learnt."""
    typed = words(place)
    claim = "model.hidden_channels=8 < model.hidden_channels=12 on device_seconds"
    text = FILE.replace("most: 3", "most: 5").partition("claims:")[0] + f"claims: [{claim}]\n"
    (place.path / "sweeps" / "mine.yaml").write_text(text)
    code, output = place.run(*typed, "until=decided", "cluster.parallel=1")
    assert code == 0, output
    runs = [run for run in place.runs() if run.run["choices"]["model"] != "median"]
    assert len(runs) == len(place.runs()) - 1
    assert max(run.run["seed"] for run in runs) >= 2, output
    spans = sorted((s["start"], s["end"]) for run in runs for s in run.segments())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["until=decided"], "until=decided needs a sweep file with claims; name it: sweeps=…"),
        (["-m", "seed=0,1", "until=decided"], "until=decided needs claims, which a sweep file has"),
        (["sweeps=forcenet/table5", "until=soon"], "until"),
    ],
)
def test_what_cannot_be_decided_is_one_sentence(place, typed, message):
    code, output = place.run(*typed)
    assert code == 1
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert message in error
    assert not (place.path / "runs").exists()


def test_a_plan_of_what_was_never_launched_says_that_all_is_open(place):
    code, output = place.run(*words(place), "until=decided", "plan=true")
    assert code == 0, output
    assert "4 missing" in output, output
    assert "claims: all open; the first 2 seeds of every cell are trained first" in output


def test_a_study_cannot_be_decided(place):
    code, output = place.run("sweeps=hpo/forcenet", "until=decided", "plan=true")
    assert code == 1
    assert "until=decided needs claims, and hpo/forcenet is a study" in output
