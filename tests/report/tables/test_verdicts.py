"""Verdicts on claims: against scipy, by simulation, and from a store to the page."""

import json
import math
import random
import shutil

import pytest
from scipy import stats

from atomsweep.report.pages import report, writing
from atomsweep.report.pages.markdown import report_markdown
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.statistics import paired_interval, seeds_to_decide
from atomsweep.report.tables.verdicts import FAILS, HOLDS, UNDECIDED, compare, satisfied
from atomsweep.sweep.file import read_sweep
from atomsweep.tracking import schema
from benchmarks.synthetic_runs import error_of, make_runs
from tests.places import REPOSITORY

LEFT = dict(enumerate([0.0512, 0.0498, 0.0531, 0.0507, 0.0520]))
RIGHT = dict(enumerate([0.0540, 0.0511, 0.0552, 0.0549, 0.0533]))


def test_the_paired_interval_is_scipys():
    effect, half, n = paired_interval(LEFT, RIGHT)
    test = stats.ttest_rel(list(LEFT.values()), list(RIGHT.values()))
    low, high = test.confidence_interval(0.95)
    assert (effect - half, effect + half, n) == pytest.approx((low, high, 5))


def test_only_seeds_that_both_have_are_paired():
    assert paired_interval({0: 1.0, 1: 5.0}, {0: 0.5, 2: 9.0}) == (
        0.5,
        pytest.approx(math.nan, nan_ok=True),
        1,
    )


@pytest.mark.parametrize(
    ("order", "verdict"), [("<", HOLDS), ("<=", HOLDS), (">", FAILS), (">=", FAILS)]
)
def test_a_clear_difference_decides_every_order(order, verdict):
    assert compare(LEFT, RIGHT, order)[3] == verdict


def test_equality_within_the_tolerance_is_what_not_worse_means():
    near = {seed: value + 0.0003 for seed, value in LEFT.items()}
    near[0] += 1e-5
    assert compare(near, LEFT, "<=", tolerance=0.0005)[3] == HOLDS
    assert compare(near, LEFT, "<=")[3] == FAILS
    assert compare(near, LEFT, "<", tolerance=0.0005)[3] == FAILS  # a strict claim forgives nothing
    assert compare(LEFT, near, ">=", tolerance=0.0005)[3] == HOLDS


def test_one_seed_decides_nothing_and_says_the_effect():
    found = compare({0: 0.05}, {0: 0.06}, "<")
    assert math.isnan(found.half_width)
    found = found._replace(half_width=0.0)
    assert found == (pytest.approx(-0.01), 0.0, 1, UNDECIDED, False, None, None, False)
    assert compare({}, {0: 0.06}, "<")[2:4] == (0, UNDECIDED)


def test_equal_numbers_are_not_smaller():
    same = {0: 0.05, 1: 0.06}
    assert compare(same, dict(same), "<")[3] == FAILS
    assert compare(same, dict(same), "<=")[3] == HOLDS


def test_a_claim_of_many_fails_only_beyond_what_chance_would_bring():
    left, right = {0: 1.05, 1: 1.2, 2: 1.15}, {0: 0.9, 1: 1.0, 2: 1.0}
    alone = compare(left, right, "<", tries=1)
    among = compare(left, right, "<", tries=20)
    assert (alone[3], alone[4]) == (FAILS, True)
    assert (among[3], among[4]) == (FAILS, False)


@pytest.mark.parametrize(("distance", "spread"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (0.2, 1.0)])
def test_seeds_to_decide_have_the_power_that_scipy_computes(distance, spread):
    n = seeds_to_decide(distance, spread)

    def power(n):
        reach = stats.t.ppf(0.975, n - 1)
        return 1 - stats.nct.cdf(reach, n - 1, distance / spread * math.sqrt(n))

    assert power(n) >= 0.78
    assert power(max(2, n - 2)) < 0.8
    assert seeds_to_decide(0.0, 1.0) is None
    assert seeds_to_decide(1.0, 0.0) == 2


def test_verdicts_err_as_often_as_they_say():
    """1000 made-up experiments: intervals cover, and equal things are called different in 5 %."""
    dice = random.Random(7)
    covered, wrong = 0, 0
    for _ in range(1000):
        shared = [dice.gauss(0, 5) for _ in range(4)]  # what a seed does to both sides
        left = {i: s + dice.gauss(0.3, 1) for i, s in enumerate(shared)}
        right = {i: s + dice.gauss(0, 1) for i, s in enumerate(shared)}
        effect, half, _ = paired_interval(left, right)
        covered += abs(effect - 0.3) <= half
        equal = {i: v - 0.3 for i, v in left.items()}
        wrong += compare(equal, right, "<")[3] != UNDECIDED
    assert 0.93 <= covered / 1000 <= 0.97
    assert 0.03 <= wrong / 1000 <= 0.07


def test_printed_numbers_satisfy_a_claim_or_not():
    assert satisfied(0.0360, 0.0367, "<", 0.0005)
    assert not satisfied(0.0373, 0.0373, "<", 0.0005)
    assert satisfied(0.0372, 0.0367, "<=", 0.0005)
    assert not satisfied(0.0373, 0.0367, "<=", 0.0005)
    assert satisfied(0.0699, 0.0427, ">", 0.0005)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    make_runs(root, "forcenet/table5", range(3))
    runs = read_directories(root)
    return report.build(runs, runs.sweep("forcenet/table5"))


def test_claims_of_a_sweep_are_judged_beside_the_papers_numbers(made):
    first, second, third = made.claims
    assert len(first.comparisons) == 6
    assert len(second.comparisons) == 11
    assert len(third.comparisons) == 10
    one = second.comparisons[2]
    assert (one.left, one.right, one.paper) == ("Spherical, Swish", "Sine, Swish", (0.0360, 0.0367))
    assert second.comparisons[1].right == "Sine, ReLU"
    assert first.metric == "val_avg/forces_mae"
    assert [claim.paper_holds for claim in made.claims] == [True, True, True]
    statement = read_sweep(REPOSITORY / "sweeps" / "forcenet" / "table5.yaml")
    base = dict(override.split("=") for override in statement.overrides_at(None))
    side = [
        {seed: error_of(base | {"basis": "sph", "act": act}, seed) + 0.004 for seed in range(3)}
        for act in ("swish", "relu")
    ]
    ours = first.comparisons[0]
    assert ours.left == "Spherical, Swish"
    assert (ours.effect, ours.half_width, ours.n) == pytest.approx(paired_interval(*side, first=3))


def test_missing_runs_leave_a_claim_undecided_and_say_so(tmp_path):
    make_runs(tmp_path / "runs", "forcenet/table7", [0])
    runs = read_directories(tmp_path / "runs")
    made = report.build(runs, runs.sweep("forcenet/table7"))
    assert {claim.verdict for claim in made.claims} == {UNDECIDED}
    assert {c.note for claim in made.claims for c in claim.comparisons} == {
        "1 of the first 3 seeds"
    }
    for path in (tmp_path / "runs").glob("run-*"):
        if path.name != "run-ffffffffffff":
            shutil.rmtree(path)
    runs = read_directories(tmp_path / "runs")
    made = report.build(runs, runs.sweep("forcenet/table7"))
    notes = {c.note for claim in made.claims for c in claim.comparisons}
    assert notes == {"no seed that both have finished"}


def test_claims_are_in_every_form_of_the_report(made, tmp_path):
    page = writing.write(made, tmp_path / "out").read_text(encoding="utf-8")
    text = report_markdown(made)
    for claim in made.claims:
        assert claim.text in text
        assert f"{claim.verdict:>9}  {claim.text}" in made.text
    assert "every basis" in page
    assert (tmp_path / "out" / "claims.csv").read_text().count("\n") == 28


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def verdicts_of(root, sweep):
    runs = read_directories(root)
    return {claim.text: claim for claim in report.build(runs, runs.sweep(sweep)).claims}


def test_a_gap_between_splits_is_compared_seed_by_seed(tmp_path):
    root = tmp_path / "runs"
    make_runs(root, "forcenet/table7", range(3))
    text = next(t for t in verdicts_of(root, "forcenet/table7") if "val_ood_both minus" in t)
    gaps = {"rotate_z": [0.010, 0.011, 0.009], "none": [0.015, 0.017, 0.0145]}
    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        gap = gaps[run["choices"]["augmentation"]][run["seed"]]
        rewrite(
            path / schema.RESULT,
            lambda r, gap=gap: r["metrics"].update(
                {"val_ood_both/forces_mae": r["metrics"]["val_id/forces_mae"] + gap}
            ),
        )
    claim = verdicts_of(root, "forcenet/table7")[text]
    (one,) = claim.comparisons
    test = stats.ttest_rel(gaps["rotate_z"], gaps["none"])
    low, high = test.confidence_interval(1 - 0.05 / 3)  # what the first of many looks may spend
    assert (one.effect - one.half_width, one.effect + one.half_width) == pytest.approx((low, high))
    assert (claim.verdict, claim.note) == (HOLDS, "minus val_id/forces_mae")
    assert one.paper == pytest.approx((0.0126, 0.0134))
    assert claim.paper_holds


def test_times_on_unlike_devices_decide_nothing_and_say_why(tmp_path):
    root = tmp_path / "runs"
    make_runs(root, "forcenet/table1", range(3))
    by_device = "model=dimenet_pp > 18 * model=forcenet on device_seconds"
    by_cost = "model=dimenet_pp > 6 * model=forcenet on cost/device_hours_per_million"
    for path in root.glob("run-*"):
        model = json.loads((path / schema.RUN).read_text())["choices"]["model"]
        hours = {"dimenet_pp": 9.0, "forcenet": 1.0}.get(model, 2.0)
        content = {"metrics": {"cost/device_hours_per_million": hours}, "device": "cpu (Other)"}
        (path / schema.EVALUATIONS).mkdir()
        (path / schema.EVALUATIONS / "cost.json").write_text(json.dumps(content))
    assert verdicts_of(root, "forcenet/table1")[by_cost].verdict == HOLDS
    for path in root.glob("run-*"):
        if json.loads((path / schema.RUN).read_text())["choices"]["model"] == "dimenet_pp":
            rewrite(path / schema.ENVIRONMENT, lambda e: e.update(device="NVIDIA H200"))
            rewrite(path / schema.EVALUATIONS / "cost.json", lambda e: e.update(device="NVIDIA A"))
    claims = verdicts_of(root, "forcenet/table1")
    for text, other in ((by_device, "NVIDIA H200, cpu (made up)"), (by_cost, "NVIDIA A, cpu (O")):
        assert claims[text].verdict == UNDECIDED
        assert f"times on unlike devices: {other}" in claims[text].comparisons[0].note
        assert math.isnan(claims[text].comparisons[0].effect)
