import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomsweep.launch.local.pool import run_cells, slots
from atomsweep.launch.study.driver import Driver
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory


def job(path: str) -> None:
    """Does what its config says, and writes down when it worked and where."""
    run = RunDirectory(path)
    todo = run.config()
    with run.lock():
        run.start_segment(device="cpu")
        started = time.time()
        print("the job speaks", flush=True)
        if todo["do"] == "raise":
            run.fail("ValueError: as asked")
            raise SystemExit(1)
        if todo["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if todo["do"] == "exit":
            os._exit(3)
        end = time.monotonic() + todo.get("sleep", 0.0)
        while time.monotonic() < end:
            time.sleep(0.02)
            if run.asked_to_stop is not None:
                run.interrupt("asked to stop")
                return
        run.finish({"metrics": {}, "started": started, "ended": time.time(), "pid": os.getpid()})


class Silent:
    most = 0

    def update(self, running, done, total):
        self.most = max(self.most, len(running))

    def close(self):
        pass


def runs_of(root: Path, *todo: str) -> list[RunDirectory]:
    return [
        RunDirectory.create(root / f"cell-{i:012x}", text, {"identity": f"{i:012x}", "science": {}})
        for i, text in enumerate(todo)
    ]


def states(outcomes):
    return [outcome.state for outcome in outcomes.values()]


def test_a_cell_that_fails_or_dies_takes_no_other_along(tmp_path, context):
    runs = runs_of(tmp_path, "do: raise", "do: die", "do: exit", "do: work", "do: work")
    outcomes = run_cells(runs, job, 2, "cpu", context, Silent())
    by_run = [outcomes[run.path] for run in runs]
    assert [o.state for o in by_run] == [
        schema.FAILED,
        schema.INTERRUPTED,
        schema.INTERRUPTED,
        schema.FINISHED,
        schema.FINISHED,
    ]
    assert by_run[0].message == "ValueError: as asked"
    assert "SIGKILL" in by_run[1].message
    assert "exit code 3" in by_run[2].message


def test_finished_cells_are_not_run_again_and_failed_ones_are(tmp_path, context):
    runs = runs_of(tmp_path, "do: work", "do: raise")
    run_cells(runs, job, 2, "cpu", context, Silent())
    before = runs[0].result
    (runs[1].path / schema.CONFIG).write_text("do: work")
    outcomes = run_cells(runs, job, 2, "cpu", context, Silent())
    assert states(outcomes) == [schema.FINISHED, schema.FINISHED]
    assert runs[0].result == before


def test_no_more_cells_run_at_once_than_there_are_slots(tmp_path, context):
    runs = runs_of(tmp_path, *["{do: work, sleep: 0.3}"] * 4)
    display = Silent()
    run_cells(runs, job, 2, "cpu", context, display)
    # at once as the pool sees it; the work of two overlaps only where the machine keeps up
    assert display.most == 2
    spans = [(run.result["started"], run.result["ended"]) for run in runs]
    overlap = max(sum(a <= t < b for a, b in spans) for t, _ in spans)
    assert overlap <= 2
    assert len({run.result["pid"] for run in runs}) == 4


def test_output_of_a_cell_goes_to_its_log(tmp_path, context):
    runs = runs_of(tmp_path, "do: work")
    run_cells(runs, job, 1, "cpu", context, Silent())
    assert "the job speaks" in (runs[0].path / schema.LOG).read_text()


def test_a_cell_that_another_process_trains_is_waited_for_and_not_trained_twice(tmp_path, context):
    (run,) = runs_of(tmp_path, "{do: work, sleep: 1.0}")
    other = context.Process(target=job, args=(str(run.path),))
    other.start()
    while run.state() != schema.RUNNING:
        time.sleep(0.02)
    outcomes = run_cells([run], job, 1, "cpu", context, Silent())
    assert states(outcomes) == [schema.FINISHED]
    assert run.result["pid"] == other.pid
    assert len(run.segments()) == 1


def test_a_cell_whose_process_dies_elsewhere_is_taken_over(tmp_path, context):
    (run,) = runs_of(tmp_path, "{do: work, sleep: 0.5}")
    other = context.Process(target=job, args=(str(run.path),))
    other.start()
    while run.state() != schema.RUNNING:
        time.sleep(0.02)
    os.kill(other.pid, signal.SIGKILL)
    outcomes = run_cells([run], job, 1, "cpu", context, Silent())
    assert states(outcomes) == [schema.FINISHED]
    assert run.result["pid"] != other.pid


def test_a_table_goes_on_with_what_a_study_stops_and_a_study_does_not(tmp_path, context):
    (run,) = runs_of(tmp_path, "{do: work, sleep: 3.0}")
    run.ask_to_stop(study="s", trial=3)
    assert run.state() == schema.PRUNED
    stopped = []

    class Stopping(Silent):
        def update(self, running, done, total):
            if running and not stopped and running[0].state() == schema.RUNNING:
                stopped.append(running[0].ask_to_stop(study="s", trial=3))

    outcomes = run_cells([run], job, 1, "cpu", context, Stopping())
    assert stopped
    assert states(outcomes) == [schema.FINISHED]
    assert [segment["ended"] for segment in run.segments()] == ["interrupted", "finished"]

    (other,) = runs_of(tmp_path / "study", "{do: work, sleep: 30.0}")
    wanted = [[other], [], []]
    told = []

    def feed(ended):
        told.append(dict(ended))
        return wanted.pop(0) if wanted else []

    feed.ends = Driver.ends
    stopped.clear()
    outcomes = run_cells([], job, 1, "cpu", context, Stopping(), feed)
    assert states(outcomes) == [schema.PRUNED]
    assert [ended for ended in told if ended] == [{other.path: outcomes[other.path]}]


def test_a_feed_of_no_study_goes_on_with_what_a_study_pruned(tmp_path, context):
    (run,) = runs_of(tmp_path, "do: work")
    run.update_status(state=schema.PRUNED)
    outcomes = run_cells([run], job, 1, "cpu", context, Silent(), lambda ended: [])
    assert states(outcomes) == [schema.FINISHED]


def test_what_a_study_adds_is_run_and_may_be_run_again(tmp_path, context):
    first, second = runs_of(tmp_path, "do: raise", "do: work")
    wanted = [[first], [], []]

    def feed(ended):
        if first.path in ended and len(first.segments()) == 1:
            return [first, second]
        return wanted.pop(0) if wanted else []

    outcomes = run_cells([], job, 2, "cpu", context, Silent(), feed)
    assert {path: outcome.state for path, outcome in outcomes.items()} == {
        first.path: schema.FAILED,
        second.path: schema.FINISHED,
    }
    assert len(first.segments()) == 2


def test_slots_follow_the_request_then_cores_and_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert slots(3, threads=1, device="cpu") == 3
    assert slots(None, threads=4, device="cpu") == 4
    assert slots(None, threads=64, device="cpu") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert slots(None, threads=4, device="cuda") == 3
    with pytest.raises(ValueError, match="at least 1"):
        slots(0, threads=1, device="cpu")


def evaluating(path: str) -> None:
    """Trains if that is due, then evaluates as its config says, each time in its own segment."""
    run = RunDirectory(path)
    with run.lock():
        run.start_segment(device="cpu")
        if run.result is None:
            run.finish({"metrics": {}})
        todo = run.config()
        if todo["do"] == "fail":
            evaluations.fail(run, "rotation", "ValueError: as asked", "")
            raise SystemExit(1)
        if todo["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        evaluations.write(run, "rotation", {"settings": {}})


def test_a_cell_is_done_when_it_has_been_evaluated(tmp_path, context):
    runs = runs_of(tmp_path, "do: well", "do: well", "do: fail", "do: die")
    for run in runs:
        evaluations.want(run, {"rotation": {}})
    with runs[0].lock():
        runs[0].finish({"metrics": {}})  # trained, not evaluated
    outcomes = run_cells(runs, evaluating, 2, "cpu", context, Silent())
    assert [outcomes[run.path].state for run in runs] == [
        schema.FINISHED,
        schema.FINISHED,
        schema.FAILED,
        schema.INTERRUPTED,
    ]
    assert outcomes[runs[2].path].message == "evaluation rotation: ValueError: as asked"
    assert "SIGKILL" in outcomes[runs[3].path].message
    assert [run.state() for run in runs] == [schema.FINISHED] * 4
    segments = [len(run.segments()) for run in runs]
    again = run_cells(runs, evaluating, 2, "cpu", context, Silent())
    assert [len(run.segments()) for run in runs] == [
        *segments[:2],
        *(count + 1 for count in segments[2:]),
    ]
    assert again[runs[0].path].state == schema.FINISHED


BUSY_WORKER = """
import os, time
from atomsweep.processes import calls
from atomsweep.launch.local.pool import fork_server
if __name__ == "__main__":
    results = calls(fork_server([]), os.getpid, [(), ()])
    print(next(results)[1], flush=True)
    time.sleep(60)
"""


def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(BUSY_WORKER)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = Path("/proc") / parent.stdout.readline().strip()
    assert worker.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()


def test_a_waiting_cell_is_looked_at_when_a_slot_is_free_and_not_before(
    tmp_path, context, monkeypatch
):
    looked = []
    standing = evaluations.standing

    def look(run, *asked):
        looked.append(run.path)
        return standing(run, *asked)

    monkeypatch.setattr(evaluations, "standing", look)
    monkeypatch.setattr("atomsweep.launch.local.pool.POLL_SECONDS", 0.01)  # many turns of the loop
    runs = runs_of(tmp_path, *["{do: work, sleep: 0.2}"] * 4)
    outcomes = run_cells(runs, job, 1, "cpu", context, Silent())
    assert states(outcomes) == [schema.FINISHED] * 4
    assert len(looked) <= 3 * len(runs)  # before it begins, and twice at its end


def test_cells_begin_in_their_order(tmp_path, context):
    runs = runs_of(tmp_path, *["do: work"] * 4)
    ordered = [runs[i] for i in (2, 0, 3, 1)]
    run_cells(ordered, job, 1, "cpu", context, Silent())
    assert sorted(runs, key=lambda run: run.result["started"]) == ordered
