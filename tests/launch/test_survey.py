"""State, cost and fate of every cell: what a plan says and what a launch would do."""

from pathlib import Path

import pytest

from atomsweep.build import UserError
from atomsweep.console import duration
from atomsweep.launch.costs import Costs, work
from atomsweep.launch.plan import Cell
from atomsweep.launch.survey import check_rerun, longest_first, restart, survey, table
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.code import code_of, hash_of
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory

STATES = ("missing", "queued", "running", "interrupted", "failed", "stale", "finished")


def cell(steps=100, seed=0, **model):
    config = {
        "model": {"_target_": "a.Model", "cutoff": 6.0, **model},
        "optim": {"batch_size": 8},
        "engine": {"steps": steps, "device": "cpu", "precision": "float32"},
        "task": {"_target_": "a.Task"},
        "data": {"root": "x"},
        "seed": seed,
    }
    data = {"name": "d", "fingerprint": "f0", "provenance": {}}
    return Cell(config, {"model": "a"}, [f"engine.steps={steps}", f"seed={seed}"], data)


def finish(run: RunDirectory, seconds=50.0, parameters=1000, steps=100):
    with run.lock():
        run.write_environment(device="cpu (some)")
        run.start_segment("cpu")
        run.finish(
            {
                "metrics": {},
                "step": steps,
                "device_seconds": seconds,
                "eval_seconds": 0.0,
                "parameters": parameters,
            }
        )


@pytest.fixture
def stand(tmp_path):
    """A cell in each state, and the function that surveys them."""
    cells = [cell(seed=i) for i in range(len(STATES))]
    runs = {s: c.create(tmp_path, None, "") for s, c in zip(STATES[1:], cells[1:], strict=True)}
    runs["interrupted"].interrupt("stopped")
    runs["interrupted"].update_status(fraction=0.25)
    runs["failed"].fail("ValueError: bad")
    finish(runs["finished"])
    finish(runs["stale"])
    environment = runs["stale"].path / schema.ENVIRONMENT
    environment.write_text(environment.read_text().replace(hash_of("engine/loop.py"), "0" * 12))
    with runs["running"].lock():
        yield lambda: survey(cells, tmp_path, {c.identity: 1000 for c in cells})


def test_every_state_is_told_apart(stand):
    assert [entry.state for entry in stand()] == list(STATES)


@pytest.mark.parametrize(
    ("rerun", "ended"),
    [("none", ()), ("failed", ("failed",)), ("stale", ("failed", "stale")), ("all", STATES[4:])],
)
def test_what_has_not_ended_always_runs_and_what_has_as_rerun_says(stand, rerun, ended):
    wanted = [entry.state for entry in stand() if entry.wanted(rerun)]
    assert wanted == [*STATES[:4], *ended]


def test_what_is_trained_and_lacks_an_evaluation_is_evaluated_and_not_trained(stand, tmp_path):
    wanted = {"rotation": {"seed": 1, "batch_size": 4}}
    runs = {e.state: e.run for e in stand()}
    cells = [entry.cell for entry in stand()]
    evaluations.write(runs["stale"], "rotation", {"settings": {"seed": 1, "batch_size": 8}})
    evaluations.write(runs["failed"], "rotation", {"settings": {"seed": 2}})
    entries = survey(cells, tmp_path, {}, wanted)
    assert {e.state: list(e.missing) for e in entries if e.missing} == {"finished": ["rotation"]}
    launched = {e.state for e in entries if e.wanted("failed")}
    assert launched == {*STATES[:5], "finished"}
    assert {e.state for e in entries if e.trained("failed")} == {*STATES[:5]}
    assert [e.left("failed") for e in entries][-1] == 0.0
    lines = table(entries, "failed")
    assert "finished, lacks rotation" in lines[-2]
    assert "1 finished; a launch runs 5" in lines[-1]
    assert "; evaluates 1 that are trained" in lines[-1]
    restart(entries, "failed")
    assert runs["finished"].result is not None
    assert "lacks" not in table(survey(cells, tmp_path, {}), "failed")[-2]


def test_an_unknown_word_for_rerun_is_a_sentence():
    with pytest.raises(UserError, match="rerun must be one of none, failed, stale, all, got yes"):
        check_rerun("yes")
    assert check_rerun("stale") == "stale"


def test_the_table_counts_what_a_launch_would_cost(stand):
    lines = table(stand(), "failed")
    assert [line.split()[1:3] for line in lines[1:-1]] == [
        [state, entry.cell.identity] for state, entry in zip(STATES, stand(), strict=True)
    ]
    assert all(line.startswith(f"seed={i}") for i, line in enumerate(lines[1:-1]))
    assert lines[1].endswith("1 000       about 50 s")
    # missing, queued, running and failed at 50 s, and three quarters of the interrupted one
    assert "a launch runs 5, about 4.0 min of device time" in lines[-1]
    assert sum(entry.left("failed") for entry in stand()) == pytest.approx(237.5)
    assert "rerun=stale makes them again" in lines[-1]
    assert "rerun=stale makes them again" not in table(stand(), "stale")[-1]


def test_a_restart_keeps_what_there_was_and_touches_only_what_is_wanted(stand):
    restart(stand(), "stale")
    assert [entry.state for entry in stand()] == [*STATES[:5], "queued", "finished"]
    (again,) = (entry.run for entry in stand() if entry.cell.config["seed"] == 5)
    assert (again.path / schema.EARLIER / "1" / schema.RESULT).exists()
    finish(again)
    assert [entry.state for entry in stand()][5] == "finished"
    restart(stand(), "all")
    assert (again.path / schema.EARLIER / "2" / schema.RESULT).exists()


def test_a_run_that_two_codes_worked_on_is_stale(tmp_path, monkeypatch):
    one = cell()
    run = one.create(tmp_path, None, "")
    with run.lock():
        other = {"engine/loop.py": "1" * 12}
        monkeypatch.setattr("atomsweep.tracking.run.code_of", lambda config: other)
        run.write_environment(device="cpu")
        monkeypatch.undo()
    finish(run)
    assert run.environment["code"] == [other, code_of(one.config)]
    assert [entry.state for entry in survey([one], tmp_path, {})] == ["stale"]


def test_a_run_from_before_code_was_recorded_is_not_called_stale(tmp_path):
    one = cell()
    one.create(tmp_path, None, "").finish({"metrics": {}})
    assert [entry.state for entry in survey([one], tmp_path, {})] == ["finished"]


def test_costs_follow_budget_and_size_and_only_of_what_is_alike(tmp_path):
    finish(cell(steps=100).create(tmp_path, None, ""), seconds=50.0, parameters=1000)
    costs = Costs.of(find_runs(tmp_path))

    def seconds(parameters, device="cpu", **changes):
        return costs.seconds(cell(**changes).science, device, parameters)

    assert seconds(1000, steps=100) == pytest.approx(50.0)
    assert seconds(1000, steps=1000, seed=3) == pytest.approx(500.0)
    assert seconds(1200, steps=100, width=3) == pytest.approx(60.0)
    assert seconds(None, steps=100) == pytest.approx(50.0)
    assert seconds(2000) is None
    assert seconds(1000, device="cuda") is None
    assert seconds(1000, cutoff=4.0) is None
    assert costs.seconds({}, "cpu", 1000) is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(5, "5.0 s"), (90, "90 s"), (5400, "90 min"), (200000, "2.3 d")]
)
def test_durations_are_told_as_a_person_says_them(seconds, told):
    assert duration(seconds) == told


def test_the_longest_cells_begin_first(tmp_path):
    finish(cell(seed=90).create(tmp_path, None, ""), seconds=100.0)
    finish(cell(seed=91, cutoff=9.0).create(tmp_path, None, ""), seconds=400.0)
    known, twice, wide = cell(), cell(steps=200), cell(cutoff=9.0)
    unlike = cell(_target_="a.Other"), cell(steps=300, _target_="a.Other")  # none has finished
    cells = [unlike[0], known, twice, wide, unlike[1]]
    sizes = {one.identity: 1000 for one in cells}

    def order():
        entries = survey(cells, tmp_path, sizes)
        return [cells.index(entry.cell) for entry in longest_first(entries, "failed")]

    # 100 s for 100 steps is the median speed of those that are known: 400, 300, 200, 100, 100
    assert order() == [3, 4, 2, 0, 1]
    begun = wide.create(tmp_path, None, "")
    begun.interrupt("stopped")
    begun.update_status(fraction=0.9)  # 40 s are left
    assert order() == [4, 2, 0, 1, 3]
    finish(unlike[1].create(tmp_path, None, ""))
    assert order()[-1] == 4  # nothing to do


def test_cells_of_unknown_length_begin_before_the_others_and_equal_ones_as_planned(tmp_path):
    cells = [cell(seed=0), cell(seed=1), cell(seed=2, steps=200), cell(seed=3)]
    sizes = {one.identity: 1000 for one in cells} | {cells[3].identity: 9000}
    entries = survey(cells, tmp_path, sizes)
    assert [cells.index(e.cell) for e in longest_first(entries, "none")] == [3, 2, 0, 1]
    assert [cells.index(e.cell) for e in longest_first(entries[::-1], "none")] == [3, 2, 1, 0]


def test_what_a_cell_does_is_told_by_its_budget_and_its_model():
    assert work(cell(steps=10).science, 1000) == ("steps", 10 * 8 * 1000.0)
    assert work({"engine": {"epochs": 2}}, 10) == ("epochs", 20.0)
    assert work({"engine": {"device_hours": 3.0}}, 10) == ("device_hours", 3.0)
    assert work({"engine": {}}, 10) == ("", 0.0)


def test_a_survey_looks_through_its_root_twice_however_many_cells_it_has(tmp_path, monkeypatch):
    cells = [cell(seed=i) for i in range(9)]
    for one in cells[:4]:
        one.create(tmp_path, None, "")
    looked = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: looked.append(self) or iterdir(self))
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("a search for one cell"))
    entries = survey(cells, tmp_path, {})
    assert [entry.state for entry in entries] == [schema.QUEUED] * 4 + [schema.MISSING] * 5
    assert looked == [tmp_path] * 2  # for costs, and for cells
