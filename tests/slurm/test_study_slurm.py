"""A study on a real SLURM: jobs of another driver are taken up, hopeless ones are stopped."""

import pytest

from atomsweep.launch.slurm.jobs import run_cells_on_slurm
from atomsweep.launch.slurm.ledger import submissions
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from tests.launch.silent import Silent
from tests.launch.slurm.fakes import settings
from tests.launch.study import toys as study_toys

pytestmark = pytest.mark.slurm


def drive(made, **changes):
    wanted = settings(**({"mem_gb": 0.25, "poll_s": 2.0} | changes))
    return run_cells_on_slurm([], study_toys.queued, wanted, Silent(), made)


def test_pruning_and_refill_work_across_jobs_and_drivers(cluster, tmp_path, monkeypatch):
    monkeypatch.setitem(study_toys.EXTRA, "sleep", 0.3)
    points = [{"x": x, "kind": "a"} for x in (0.3, 0.95)]
    wanted = study_toys.statement(
        trials=4, enqueue=points, pruner={"name": "asha", "first": 2, "factor": 2}
    )

    def driver():
        made = study_toys.driver(tmp_path, wanted)
        study_toys.study_store.enqueue(made.study, wanted, {})
        return made

    first = driver()
    drive(first, wait=False)
    assert [t.state.name for t in first.study.get_trials()] == ["RUNNING"] * 2
    made = driver()  # another process, as far as the study can know
    drive(made)
    trials = made.study.get_trials()
    assert [t.state.name for t in trials][:2] == ["COMPLETE", "PRUNED"]
    assert {t.state.name for t in trials} == {"COMPLETE", "PRUNED"}
    assert len(trials) == 4
    runs = {run.identity: run for run in find_runs(tmp_path)}
    good, bad = (runs[t.user_attrs["cells"][0]["identity"]] for t in trials[:2])
    assert good.result["metrics"][study_toys.METRIC] == trials[0].value
    assert bad.state() == schema.PRUNED
    assert len(bad.journal()) < 30
    assert [len(submissions(run)) for run in runs.values()] == [1] * 4
    assert [len(run.segments()) for run in (good, bad)] == [1, 1]
