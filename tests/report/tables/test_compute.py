"""Curves at a budget, savings, Pareto fronts, power laws, what was spent."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from atomsweep.report.figures.spent import device_hours
from atomsweep.report.pages import report
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.compute import Curve, saving
from atomsweep.report.tables.pareto import pareto, published_points
from atomsweep.report.tables.scaling import power_law
from atomsweep.tracking import schema


def test_a_curve_is_linear_in_log_time_and_nothing_outside_of_it():
    curve = Curve.of([100, 1, 10], [0.1, 0.5, 0.3])
    assert curve.at(10) == 0.3
    assert curve.at(math.sqrt(10)) == pytest.approx(0.4)
    assert curve.at(100) == pytest.approx(0.1)
    assert math.isnan(curve.at(0.99))
    assert math.isnan(curve.at(101))
    assert curve.time_to(0.2) == pytest.approx(10 * math.sqrt(10))
    assert math.isnan(curve.time_to(0.05))
    assert math.isnan(curve.time_to(0.6))


def test_a_curve_keeps_the_best_so_far_and_leaves_out_what_is_no_number():
    curve = Curve.of([0, 1, 2, 3, 4], [9, 0.5, 0.7, math.nan, 0.2])
    assert (curve.times, curve.values) == ((1, 2, 4), (0.5, 0.5, 0.2))
    assert Curve.of([1, 2], [0.5, 0.4], "high").values == (0.5, 0.5)
    assert Curve.of([1, 2, 4], [0.1, 0.3, 0.2], "high").time_to(0.2, "high") == pytest.approx(
        math.sqrt(2)
    )


def test_what_is_saved_is_a_ratio_of_times_with_an_interval_over_seeds():
    slow = {s: Curve.of([1, 100], [1.0, 0.2]) for s in range(3)}
    fast = {s: Curve.of([1, t], [1.0, 0.2]) for s, t in enumerate((10, 20, 25))}
    found = saving("fast", "slow", fast, slow)
    ratios = [100 / 10, 100 / 20, 100 / 25]
    low, high = stats.t.interval(
        0.95, 2, loc=np.mean(np.log(ratios)), scale=stats.sem(np.log(ratios))
    )
    assert found.factor == pytest.approx(stats.gmean(ratios))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert saving("slow", "fast", slow, fast) is None
    never = {s: Curve.of([1, 100], [1.0, 0.3]) for s in range(3)}
    assert saving("never", "slow", never, slow) is None


def test_times_of_unlike_devices_are_never_compared():
    one = {0: Curve.of([1, 10], [1.0, 0.2], device="A")}
    two = {0: Curve.of([1, 100], [1.0, 0.2], device="B")}
    assert saving("a", "b", one, two) is None


def test_the_pareto_front_is_what_nothing_beats():
    points = {"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (3.0, 2.0), "d": (4.0, 1.0), "e": (4.0, 4.0)}
    assert pareto(points) == ["a", "b", "d"]


def test_the_papers_points_are_those_of_its_table():
    train, unit = published_points("forcenet.table1", "train")
    assert (train["ForceNet"], unit) == ((31, 0.0360), "GPU-days")
    assert "Median" not in train  # it has no cost
    assert published_points("forcenet.table1", "inference")[0]["SchNet"] == (0.8, 0.0510)
    assert published_points("forcenet.table5", "train") is None
    dens, unit = published_points("dens.table1d", "train")
    assert (dens["eSCN, 20, with"], unit) == ((1829, pytest.approx(0.01907)), "GPU-hours")


def test_power_laws_agree_with_scipy():
    sizes, errors = [64, 128, 256, 512, 512], [0.09, 0.071, 0.062, 0.05, 0.052]
    fit = power_law(sizes, errors)
    line = stats.linregress(np.log(sizes), np.log(errors))
    assert fit.exponent == pytest.approx(line.slope)
    assert fit.half_width == pytest.approx(line.stderr * stats.t.ppf(0.975, 3))
    assert power_law([1, 2], [1, 2]) is None
    assert power_law([1, 1, 2, 2], [1, 2, 3, 4]) is None


def test_what_was_spent_counts_what_was_lost_and_each_device_by_itself(table5):
    def segments(identity, *lengths):
        path = next(table5.path.glob(f"*-{identity}"))
        lines = [
            {"start": 0.0, "end": t, "heartbeat": t, "world_size": 2, "segment": i}
            for i, t in enumerate(lengths)
        ]
        (path / schema.SEGMENTS).write_text("".join(json.dumps(s) + "\n" for s in lines))
        return path

    segments("000000000000", 3600.0, 1800.0)  # 3 device-hours, of which 89 s count
    table5.run("000000000009", state="failed", act="tanh", device="NVIDIA H200")
    segments("000000000009", 900.0)
    runs = read_directories(table5.path)
    made = report.build(runs, runs.where({"choice.basis": "sph,sine"}))
    (spent,) = [s for s in made.sections if s.slug == "spent"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in spent.grids[0][1].rows}
    assert rows["cpu (Example 9000)"][-2:] == [device_hours(3 * 3600 - 89), device_hours(3 * 3600)]
    assert rows["NVIDIA H200"][4] == "0.5"
    assert "1 runs took more than one process" in " ".join(spent.text)


def test_the_rest_of_a_sweep_is_guessed_from_what_is_finished(table5):
    import shutil

    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    runs = read_directories(table5.path)
    made = report.build(runs, runs.sweep("latest"))
    (spent,) = [s for s in made.sections if s.slug == "spent"]
    assert f"1 runs are not finished: about {device_hours(89)}" in spent.text[0]


def test_equal_compute_is_told_and_drawn(table5):
    runs = read_directories(table5.path)
    made = report.build(runs, runs.sweep("latest"))
    section = next(s for s in made.sections if s.slug == "compute-1")
    assert "Spherical, Swish reaches the final value of Spherical, ReLU" in section.text[0]
    assert section.grids[0][1].header[-1] == "80 s"
    assert section.grids[0][1].rows[0][-1].text == "0.0500"


EVALUATION = {"metrics": {"cost/structures_per_second": 200.0}, "device": "cpu", "seconds": 3.0}


def evaluated(root, identity, name="cost", content=EVALUATION):
    path = next(root.path.glob(f"*-{identity}")) / schema.EVALUATIONS
    path.mkdir(exist_ok=True)
    (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_evaluations_after_training_are_metrics_and_give_the_pareto_front(table5):
    for number, rate in enumerate((100.0, 200.0, 400.0, 50.0)):
        content = {"metrics": {"cost/structures_per_second": rate}}
        evaluated(table5, f"{number:012x}", content=content)
    runs = read_directories(table5.path)
    df = runs.sweep("latest")
    assert df["metric.cost/structures_per_second"].tolist() == [100.0, 200.0, 400.0, 50.0]
    made = report.build(runs, df)
    section = next(s for s in made.sections if s.slug == "inference-1")
    lines = {row[0].text: row for row in section.grids[0][1].rows}
    assert lines["Sine, Swish"][2].text == render_hours(400.0)
    assert {label for label, row in lines.items() if row[3].bold} == {
        "Sine, Swish",
        "Spherical, Swish",
    }


def render_hours(rate):
    return f"{1e6 / rate / 3600:.2f}"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "mystery",
            EVALUATION,
            "mystery.json is of no known kind; known are rotation, cost, relax",
        ),
        ("cost", "{", "cost.json cannot be read"),
        ("cost", {"seconds": 3}, "cost.json cannot be read: it has no 'metrics'"),
        ("cost", {"metrics": {"speed": 1.0}}, "speed must be cost/<name> and a number"),
        ("cost", {"metrics": {"cost/x": "fast"}}, "cost/x must be cost/<name> and a number"),
    ],
)
def test_what_is_wrong_with_an_evaluation_is_a_problem(table5, name, content, told):
    evaluated(table5, "000000000001", name, content)
    runs = read_directories(table5.path)
    assert len(runs.df) == 5
    assert any(told in problem for problem in runs.problems)
