"""The driver of a study: refill, pruning, seeds, constraints, failures, kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from atomsweep.build import UserError
from atomsweep.launch.outcome import Outcome
from atomsweep.launch.plan import plan_path
from atomsweep.launch.study import driver as study
from atomsweep.launch.study import record as study_record
from atomsweep.launch.study import storage as study_store
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from tests.launch.study import toys as study_toys
from tests.launch.study.toys import METRIC, driver, error, statement, train
from tests.places import REPOSITORY

DONE = Outcome(schema.FINISHED)


def finish(run):
    train(run, 30)
    return {run.path: DONE}


def states(made):
    return [t.state.name for t in made.study.get_trials(deepcopy=False)]


def to_the_end(made):
    """An executor that trains whatever it is given at once."""
    ended = {}
    while wanted := made(ended):
        ended = {}
        for run in wanted:
            ended |= finish(run)
    return made


def test_as_soon_as_one_trial_ends_the_next_begins(tmp_path):
    made = driver(tmp_path, parallel=3)
    first = made({})
    assert len(first) == 3
    assert made({}) == []
    more = made(finish(first[1]))
    assert len(more) == 1
    assert states(made) == ["RUNNING", "COMPLETE", "RUNNING", "RUNNING"]
    last = made(finish(first[0]) | finish(more[0]))
    assert len(last) == 2  # the sixth trial ends the budget
    made(finish(first[2]) | finish(last[0]) | finish(last[1]))
    assert states(made) == ["COMPLETE"] * 6
    assert made({}) == []


def test_a_value_is_the_mean_over_seeds_and_waits_for_all(tmp_path):
    made = driver(tmp_path, statement(seeds=[0, 1, 4], trials=1))
    runs = made({})
    assert [run.config()["seed"] for run in runs] == [0, 1, 4]
    made(finish(runs[0]) | finish(runs[2]))
    assert states(made) == ["RUNNING"]
    made(finish(runs[1]))
    (trial,) = made.study.trials
    x = trial.params["x"]
    assert trial.value == pytest.approx((x - 0.3) ** 2 + 0.05 / 3 + 1 / 30)


def test_an_identity_that_is_finished_is_a_result_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "ASKING_SECONDS", -1.0)  # as on a slow machine
    to_the_end(driver(tmp_path, statement(trials=3)))
    stamps = {r.path: (r.path / schema.RESULT).stat().st_mtime_ns for r in find_runs(tmp_path)}
    (tmp_path / schema.PLANS / "toy.optuna.jsonl").unlink()
    again = driver(tmp_path, statement(trials=3))
    assert again({}) == []
    assert states(again) == ["COMPLETE"] * 3
    assert stamps == {
        r.path: (r.path / schema.RESULT).stat().st_mtime_ns for r in find_runs(tmp_path)
    }


def asha(**changes):
    pruner = {"name": "asha", "first": 2, "factor": 2}
    points = [{"x": x, "kind": "a"} for x in (0.3, 0.9)]
    return statement(pruner=pruner, enqueue=points, trials=2, **changes)


def asked(made, wanted):
    study_store.enqueue(made.study, wanted, {})
    return made


def test_a_worse_trial_gets_a_flag_and_its_run_is_pruned_not_failed(tmp_path):
    made = asked(driver(tmp_path, asha()), asha())
    good, bad = made({})
    train(good, 30, until=2)
    assert made({}) == []
    train(bad, 30, until=1)
    assert made({}) == []
    assert bad.asked_to_stop is None
    bad.log(2, {METRIC: error(bad.config(), 2)}, 2.0, 0.0)
    bad.interrupt("asked to stop")
    assert made({}) == []
    assert states(made) == ["RUNNING", "PRUNED"]
    assert good.asked_to_stop is None
    assert bad.asked_to_stop["trial"] == 1
    assert bad.state() == schema.PRUNED
    bad.queue()  # a plain sweep wants it whole
    assert bad.state() == schema.QUEUED
    assert bad.asked_to_stop is None


@pytest.mark.parametrize("steps", [2, 3])  # the rung lies at 2, and may be seen together with 3
def test_a_trial_that_has_used_its_budget_is_let_end(tmp_path, steps):
    """Its result comes seconds later, and counts; whether in steps, epochs or device hours."""
    made = asked(driver(tmp_path, asha()), asha())
    good, bad = made({})
    for run in (good, bad):
        run.update_status(state=schema.RUNNING, total_steps=None, fraction=1.0)
        train(run, steps, until=steps)
    assert made({}) == []
    assert bad.asked_to_stop is None
    for run in (good, bad):
        train(run, steps)
    made({})
    assert states(made)[:2] == ["COMPLETE", "COMPLETE"]


def test_a_trial_of_several_seeds_is_judged_by_the_mean_at_steps_that_all_have(tmp_path):
    made = asked(driver(tmp_path, asha(seeds=[0, 1])), asha(seeds=[0, 1]))
    runs = made({})
    train(runs[0], 30, until=3)
    train(runs[1], 30, until=1)
    made({})
    (first, _) = made.study.get_trials()
    means = {1: error(runs[0].config(), 1) + 0.005}
    assert first.intermediate_values == pytest.approx(means)


def test_what_is_not_feasible_is_known_before_training_where_it_can_be(tmp_path):
    wanted = statement(constraints=["parameters <= 500"], trials=8)
    made = to_the_end(driver(tmp_path, wanted))
    for trial in made.study.get_trials():
        large = trial.params["kind"] == "b"
        assert trial.state.name == ("PRUNED" if large else "COMPLETE")
        assert trial.constraints["parameters <= 500"] == (500.0 if large else -400.0)
    assert {run.config()["kind"] for run in find_runs(tmp_path) if run.result} == {"a"}


def test_constraints_on_results_keep_a_better_value_from_being_the_best(tmp_path):
    wanted = statement(constraints=["device_seconds >= 5"], trials=8)
    made = to_the_end(driver(tmp_path, wanted))
    (best,) = study_record.best_trials(made.study)
    feasible = [t for t in made.study.get_trials() if t.params["x"] >= 0.5]
    assert best.number == min(feasible, key=lambda t: t.value).number
    assert best.value > made.study.get_trials()[0].value or best.params["x"] >= 0.5


def test_two_objectives_leave_the_front_that_nothing_dominates(tmp_path):
    wanted = statement(objectives={METRIC: "minimize", "device_seconds": "maximize"}, trials=9)
    made = to_the_end(driver(tmp_path, wanted))
    trials = made.study.get_trials()
    front = {
        t.number
        for t in trials
        if not any(
            o.values[0] <= t.values[0] and o.values[1] >= t.values[1] and o.values != t.values
            for o in trials
        )
    }
    assert {t.number for t in study_record.best_trials(made.study)} == front
    assert study_record.best_trials(made.study)[0].values[0] == min(t.values[0] for t in trials)


def test_a_failed_run_is_started_again_so_often_and_then_the_trial_has_no_value(tmp_path):
    made = driver(tmp_path, statement(retries=1, trials=1), rerun="none")
    (run,) = made({})
    run.fail("ValueError: as asked")
    failed = Outcome(schema.FAILED, "ValueError: as asked")
    assert [r.path for r in made({run.path: failed})] == [run.path]
    run.fail("ValueError: as asked")
    assert made({run.path: failed}) == []
    (trial,) = made.study.get_trials()
    assert (trial.state.name, trial.value) == ("FAIL", None)
    assert "as asked" in trial.user_attrs["message"]
    assert run.state() == schema.FAILED

    later = driver(tmp_path, statement(retries=1, trials=1))  # the same command repeats it
    (again,) = later({})
    assert again.path == run.path
    later(finish(again))
    assert states(later) == ["FAIL", "COMPLETE"]
    assert later.count() == 1
    assert driver(tmp_path, statement(trials=1))({}) == []


def test_trials_that_all_fail_do_not_use_up_the_study(tmp_path):
    def fail_all(made):
        ended = {}
        while wanted := made(ended):
            ended = {}
            for run in wanted:
                run.fail("ImportError: broken")
                ended[run.path] = Outcome(schema.FAILED, "ImportError: broken")

    made = driver(tmp_path, statement(retries=0, trials=40))
    with pytest.raises(UserError, match="[56] trials in a row have failed, .*ImportError: broken"):
        fail_all(made)
    assert states(made).count("FAIL") in (5, 6)  # two at once
    assert set(states(made)) == {"FAIL"}
    later = driver(tmp_path, statement(retries=0, trials=8))  # mended
    to_the_end(later)
    assert states(later).count("COMPLETE") == 8


def test_a_preempted_run_goes_on_and_counts(tmp_path):
    made = driver(tmp_path, statement(trials=1))
    (run,) = made({})
    gone = Outcome(schema.INTERRUPTED, "killed by SIGKILL")
    assert [r.path for r in made({run.path: gone})] == [run.path]
    made(finish(run))
    assert states(made) == ["COMPLETE"]


def test_nan_is_a_failure_and_not_a_value(tmp_path):
    made = driver(tmp_path, statement(trials=1))
    (run,) = made({})
    run.finish({"metrics": {METRIC: float("nan")}})
    made({run.path: DONE})
    assert states(made) == ["FAIL"]
    assert f"{METRIC} is not a number" in made.study.trials[0].user_attrs["message"]


def test_a_point_that_cannot_be_built_fails_alone(tmp_path):
    def check(cell):
        if cell.config["kind"] == "b":
            raise UserError("b is too wide")
        return 100

    made = to_the_end(driver(tmp_path, statement(trials=8), check=check))
    kinds = [(t.params["kind"], t.state.name) for t in made.study.get_trials()]
    assert set(kinds) == {("a", "COMPLETE"), ("b", "FAIL")}


def test_another_process_takes_up_the_same_trials_and_goes_on_as_if_it_were_the_first(tmp_path):
    one = driver(tmp_path / "one")
    ended = {}
    for run in one({}):
        ended |= finish(run)
    running = one(ended)
    two = driver(tmp_path / "one")  # the first is gone, without a word
    assert {run.path for run in two({})} == {run.path for run in running}
    assert states(two) == ["COMPLETE"] * 2 + ["RUNNING"] * 2
    train(running[0], 30)
    train(running[1], 30)
    to_the_end(driver(tmp_path / "one"))  # this one finds results that nobody told
    whole = driver(tmp_path / "whole")
    ended = {}
    while wanted := whole(ended):
        ended = {}
        for run in wanted:
            ended |= finish(run)
    points = [
        [(t.params, t.value, t.state.name) for t in study_store.read_study(s, root, "toy").trials]
        for s, root in ((statement(), tmp_path / "one"), (statement(), tmp_path / "whole"))
    ]
    assert points[0] == points[1]
    assert len({t.user_attrs["cells"][0]["identity"] for t in whole.study.trials}) == 6


def test_more_trials_continue_a_study_and_no_seed_is_replayed(tmp_path):
    to_the_end(driver(tmp_path, statement(trials=4)))
    made = to_the_end(driver(tmp_path, statement(trials=9)))
    assert states(made) == ["COMPLETE"] * 9
    assert len({t.params["x"] for t in made.study.trials}) == 9


def test_a_grid_has_every_point_once(tmp_path):
    space = {"x": {"low": 0.0, "high": 1.0, "step": 0.5}, "kind": ["a", "b"]}
    wanted = statement(space=space, sampler={"name": "grid"}, trials=None)
    made = to_the_end(driver(tmp_path, wanted))
    points = [(t.params["x"], t.params["kind"]) for t in made.study.trials]
    assert points == [(x, k) for x in (0.0, 0.5, 1.0) for k in "ab"]


def test_a_study_that_was_begun_otherwise_is_refused(tmp_path):
    driver(tmp_path)
    space = {"x": {"low": 0.0, "high": 2.0}, "kind": ["a", "b"]}
    with pytest.raises(UserError, match="was begun with other space, .* sweep=toy-2"):
        driver(tmp_path, statement(space=space))
    with pytest.raises(UserError, match="begun with other configuration or data"):
        study_store.open_study(statement(), tmp_path, "toy", ["another base"])


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "none"])
def test_pruners_stop_what_is_far_worse_and_only_they(tmp_path, name):
    pruner = {"name": name, "first": 2, "factor": 2, "startup": 1}
    xs = [0.3, 0.31, 0.32, 0.9, 0.92, 0.94, 0.96, 0.98]
    points = [{"x": x, "kind": "a"} for x in xs]
    wanted = statement(pruner=pruner, enqueue=points, trials=len(points))
    made = asked(driver(tmp_path, wanted, parallel=1), wanted)
    queue = made({})
    while queue:
        run = queue.pop(0)
        for step in range(1, 31):
            run.log(step, {METRIC: error(run.config(), step)}, float(step), 0.0)
            queue += made({})
            if run.asked_to_stop is not None:
                break
        else:
            run.finish({"metrics": {METRIC: error(run.config(), 30)}})
        queue += made({run.path: Outcome(run.state())})
    found = states(made)
    assert found[0] == "COMPLETE"
    assert ("PRUNED" in found[3:]) == (name != "none")


def test_hyperband_needs_to_know_the_steps_of_a_trial():
    wanted = statement(pruner={"name": "hyperband", "first": 5})
    with pytest.raises(UserError, match="hyperband needs engine.steps of at least pruner.first=5"):
        study_store.pruner(wanted, 5, None)


def test_a_server_keeps_a_study_for_one_root(tmp_path):
    wanted = statement(trials=2, storage=f"sqlite:///{tmp_path}/study.db")
    to_the_end(driver(tmp_path / "one", wanted))
    assert states(driver(tmp_path / "one", wanted)) == ["COMPLETE"] * 2
    with pytest.raises(UserError, match="begun with other root of runs"):
        driver(tmp_path / "two", wanted)


def test_half_a_line_of_a_killed_driver_does_no_harm(tmp_path):
    to_the_end(driver(tmp_path, statement(trials=2)))
    journal = study_store.journal_path(tmp_path, "toy")
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    lock = journal.with_name(f"{journal.name}.lock")
    lock.symlink_to(journal)
    assert states(to_the_end(driver(tmp_path, statement(trials=3)))) == ["COMPLETE"] * 3


def test_the_plan_lists_every_trial_and_its_run(tmp_path):
    to_the_end(driver(tmp_path))
    plan = json.loads(plan_path(tmp_path, "toy").read_text())
    assert [cell["trial"] for cell in plan["cells"]] == list(range(6))
    assert {cell["run"] for cell in plan["cells"]} == {run.name for run in find_runs(tmp_path)}
    trials = plan["study"]["trials"]
    best = min(trials, key=lambda t: t["values"][0])
    assert plan["study"]["best"] == [best["number"]]
    assert plan["study"]["wanted"] == 6


def start(root, trials):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", study_toys.__name__, str(root), str(trials)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_drivers_killed_at_random_lose_and_double_no_trial(tmp_path):
    chance = random.Random(1)
    for _ in range(3):
        process = start(tmp_path, 8)
        begun = time.monotonic()
        while not study_store.journal_path(tmp_path, "toy").exists() and process.poll() is None:
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        time.sleep(chance.uniform(0.1, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(tmp_path, 8)
    assert process.wait(120) == 0, process.stderr.read()
    trials = study_store.read_study(statement(), tmp_path, "toy").trials
    assert len(trials) == 8
    ends = [(trial.state.name, trial.user_attrs.get("message")) for trial in trials]
    assert {state for state, _ in ends} <= {"COMPLETE", "PRUNED"}, ends
    runs = {run.identity: run for run in find_runs(tmp_path)}
    for trial in trials:
        run = runs.pop(trial.user_attrs["cells"][0]["identity"])
        assert run.state() == (
            schema.FINISHED if trial.state.name == "COMPLETE" else schema.PRUNED
        ) or (trial.state.name == "PRUNED" and run.result is not None)
        if trial.state.name == "COMPLETE":
            assert trial.value == run.result["metrics"][METRIC]
            assert [line["step"] for line in run.journal()] == list(range(1, 31))
        else:
            assert trial.last_step < 30
    assert not runs  # no run without its trial
