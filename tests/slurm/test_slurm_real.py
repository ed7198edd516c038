"""Sweeps on a real SLURM: what ends them, and that nothing is lost or trained twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm.jobs import cancel, run_cells_on_slurm
from atomsweep.launch.slurm.ledger import submissions
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.lock import holder_of
from atomsweep.tracking.run import RunDirectory
from tests.contracts.commands import last_of_each
from tests.launch.silent import Silent
from tests.launch.slurm.fakes import settings
from tests.places import REPOSITORY
from tests.slurm import toys

pytestmark = pytest.mark.slurm

CELL = ["data=mini_oc_tiny", "model.hidden_channels=8", "tracking=none"]
CLUSTER = ["cluster=slurm_cpu", "cluster.mem_gb=1", "cluster.poll_s=2"]


def start(*arguments, cwd=None):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "run.py"), *last_of_each(list(arguments))],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, cwd=None):
    process = start(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for(what, seconds=90):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


def cells(root: Path, *todo: str) -> list[RunDirectory]:
    return [
        RunDirectory.create(root / f"cell-{i:012x}", text, {"identity": f"{i:012x}", "science": {}})
        for i, text in enumerate(todo)
    ]


def small(**changes):
    return settings(**({"mem_gb": 0.25, "poll_s": 2.0} | changes))


def on_slurm(runs, job=toys.queued, **changes):
    return run_cells_on_slurm(runs, job, small(**changes), Silent())


def trained(root: Path) -> RunDirectory:
    (found,) = find_runs(root)
    return found


def at_step(root: Path, step: int):
    """The node of a run's newest job, once it has come to a step in it."""
    runs = find_runs(root)
    return (
        bool(runs)
        and runs[0].status.get("state") == schema.RUNNING
        and any(line["step"] >= step for line in runs[0].journal())
    )


def node_of(run: RunDirectory) -> str:
    job = run.segments()[-1]["slurm_job_id"]
    return subprocess.check_output(["squeue", "-h", "-j", job, "-o", "%N"], text=True).strip()


@pytest.fixture(scope="module")
def long(cluster, tmp_path_factory) -> list[str]:
    """A cell that trains for about 40 seconds, however fast the machine is."""
    root = tmp_path_factory.mktemp("pace")
    code, output = run(*CELL, "engine.steps=500", f"root={root}")
    assert code == 0, output
    steps = max(1000, int(500 * 40 / trained(root).allocated_seconds() // 500) * 500)
    return [*CELL, f"engine.steps={steps}", "engine.eval_every=500", "engine.checkpoint_every=100"]


@pytest.fixture(scope="module")
def undisturbed(cluster, long, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    code, output = run(*long, f"root={root}")
    assert code == 0, output
    return trained(root)


def assert_same_end(one: RunDirectory, other: RunDirectory):
    import torch

    assert one.result["metrics"] == other.result["metrics"]
    weights = [torch.load(r.path / "checkpoints/best.pt", weights_only=True) for r in (one, other)]
    assert all(torch.equal(a, weights[1]["model"][k]) for k, a in weights[0]["model"].items())
    # rates of an epoch are told by the process that saw it whole
    first, second = (
        [line["step"] for line in r.journal() if f"train/{schema.EPOCH}" not in line]
        for r in (one, other)
    )
    assert first == second
    assert one.allocated_seconds() == pytest.approx(
        sum(s["world_size"] * (s["end"] - s["start"]) for s in one.segments())
    )


def test_a_sweep_of_two_by_two_cells_finishes_and_is_not_run_again(cluster, tmp_path):
    sweep = ["-m", *CLUSTER, *CELL, "engine.steps=20", "basis=sph,sine", "act=swish,relu"]
    code, output = run(*sweep, f"root={tmp_path}")
    assert code == 0, output
    runs = find_runs(tmp_path)
    assert [r.state() for r in runs] == [schema.FINISHED] * 4
    jobs = {submissions(r)[0].job_id for r in runs}
    assert jobs == {r.segments()[0]["slurm_job_id"] for r in runs}
    assert len({job.partition("_")[0] for job in jobs}) == 1  # one array
    code, output = run(*sweep, f"root={tmp_path}")
    assert code == 0
    assert "submitted" not in output
    assert [len(submissions(r)) for r in runs] == [1] * 4


def test_an_open_claim_gets_its_seeds_from_slurm_too(cluster, tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "widths.yaml").write_text(
        "title: Widths\n"
        "rows: {model.hidden_channels: [8, 12]}\n"
        "seeds: {first: 2, most: 4}\n"
        "metrics: [val_id/forces_mae]\n"
        "claims: [model.hidden_channels=8 < 1.0001 * model.hidden_channels=12]\n"
    )
    own = [word for word in CELL if not word.startswith("model.hidden_channels")]
    sweep = ["sweeps=widths", "until=decided", *CLUSTER, *own, "engine.steps=20"]
    code, output = run(*sweep, f"root={tmp_path / 'runs'}", cwd=tmp_path)
    assert code == 0, output
    runs = find_runs(tmp_path / "runs")
    (plan,) = (tmp_path / "runs" / schema.PLANS).glob("widths*.json")
    cells = json.loads(plan.read_text())["cells"]
    assert len(runs) == len(cells) >= 6  # two seeds decide nothing
    assert all(len(submissions(r)) == len(r.segments()) == 1 for r in runs)
    assert len({(cell["overrides"][0], cell["seed"]) for cell in cells}) == len(cells)
    code, output = run(*sweep, f"root={tmp_path / 'runs'}", cwd=tmp_path)
    assert (code, len(find_runs(tmp_path / "runs"))) == (0, len(runs)), output
    assert "submitted" not in output


def test_what_keeps_a_job_from_its_cell_is_a_sentence(cluster, tmp_path):
    (run,) = cells(tmp_path / "preamble", "do: work")
    outcome = on_slurm([run], preamble=["true", "ls /no/module"])[run.path]
    assert outcome.state == run.state() == schema.FAILED
    assert "a command of cluster.preamble failed on" in outcome.message
    assert outcome.message.endswith(": ls /no/module, exit code 2")
    assert run.segments() == []
    (run,) = cells(tmp_path / "interpreter", "do: work")
    outcome = on_slurm([run], python="/no/python")[run.path]
    assert outcome.state == run.state() == schema.INTERRUPTED
    assert "/no/python: No such file or directory" in outcome.message
    assert on_slurm([run])[run.path].state == schema.FINISHED


def test_a_preempted_cell_continues_to_the_same_weights(cluster, tmp_path, long, undisturbed):
    process = start(*CLUSTER, *long, f"root={tmp_path}")
    wait_for(lambda: at_step(tmp_path, 100))
    subprocess.run(
        ["srun", "-p", "high", "-N", "2", "--exclusive", "--mem=3000", "sleep", "1"],
        check=True,
        timeout=120,
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    found = trained(tmp_path)
    assert len(found.segments()) == 2
    assert len(submissions(found)) == 1
    assert len({s["slurm_job_id"] for s in found.segments()}) == 1
    assert found.segments()[1]["requeues"] >= 1
    assert_same_end(found, undisturbed)


def test_a_cell_that_hits_its_time_limit_continues_to_the_same_weights(
    cluster, tmp_path, long, undisturbed
):
    limit = ["cluster.time_min=1", "cluster.signal_s=30"]
    code, output = run(*CLUSTER, *limit, *long, f"root={tmp_path}")
    assert code == 0, output
    found = trained(tmp_path)
    assert len(found.segments()) >= 2
    assert found.segments()[0]["ended"] == schema.INTERRUPTED
    assert_same_end(found, undisturbed)


def test_a_cell_whose_node_dies_continues_on_another_node(cluster, tmp_path, long, undisturbed):
    process = start(*CLUSTER, *long, f"root={tmp_path}")
    wait_for(lambda: at_step(tmp_path, 200))
    node = node_of(trained(tmp_path))
    cluster("kill-node", node)
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        cluster("start-node", node)
    assert process.returncode == 0, output
    found = trained(tmp_path)
    assert [s["ended"] for s in found.segments()] == ["killed", schema.FINISHED]
    assert_same_end(found, undisturbed)


def test_a_sweep_is_whole_after_launcher_scheduler_nodes_and_trainers_were_killed(
    cluster, tmp_path, long
):
    def sweep(seeds: int, root: str) -> list[str]:
        numbers = ",".join(map(str, range(seeds)))
        return ["-m", *long, "basis=sph,sine", f"seed={numbers}", f"root={tmp_path / root}"]

    def victim_or_end() -> Path | bool:
        return training(tmp_path / "runs") or process.poll() is not None

    chance = random.Random(0)
    seeds, process = 1, start(*CLUSTER, *sweep(1, "runs"))
    for victim in ("controller", "launcher", "trainer", "node", "controller", "node", "launcher"):
        if process.poll() is not None:  # the one command that a user types again
            process = start(*CLUSTER, *sweep(seeds, "runs"))
        while (path := wait_for(victim_or_end, 180)) is True:
            # a fast machine has trained all of it before this victim's turn: a seed more
            seeds += 1
            assert seeds < 16, process.communicate()[0]
            process = start(*CLUSTER, *sweep(seeds, "runs"))
        time.sleep(chance.uniform(0.0, 3.0))
        if victim == "launcher":
            process.kill()
            process.communicate()
        elif victim == "trainer":
            os.kill(holder_of(path / schema.LOCK)["pid"], signal.SIGKILL)
        elif victim == "node":
            node = chance.choice(["127.0.0.11", "127.0.0.12"])
            cluster("kill-node", node)
            time.sleep(chance.uniform(0.0, 15.0))
            cluster("start-node", node)
        else:
            cluster("kill-controller")
            time.sleep(chance.uniform(0.0, 15.0))
            cluster("start-controller")
    output, _ = process.communicate(timeout=400)
    if process.returncode != 0:
        code, output = run(*CLUSTER, *sweep(seeds, "runs"))
        assert code == 0, output
    code, output = run(*sweep(seeds, "whole"), "cluster.parallel=2")
    assert code == 0, output
    runs, undisturbed = find_runs(tmp_path / "runs"), find_runs(tmp_path / "whole")
    assert [r.identity for r in runs] == [r.identity for r in undisturbed]
    for one, other in zip(runs, undisturbed, strict=True):
        assert_same_end(one, other)
        assert [s["ended"] for s in one.segments()].count(schema.FINISHED) == 1


def training(root: Path) -> Path | None:
    """A run directory that a process trains in, with more than half of it to come."""
    running = (r for r in find_runs(root) if r.state() == schema.RUNNING)
    return next((r.path for r in running if (r.status.get("fraction") or 0.0) < 0.5), None)


def test_what_became_of_a_cell_is_said_by_its_directory(cluster, tmp_path):
    runs = cells(tmp_path, "do: raise", "do: die", "do: return", "do: work")
    outcomes = on_slurm(runs, resubmit=0)
    raised, died, returned, worked = (outcomes[r.path] for r in runs)
    assert (raised.state, raised.message) == (schema.FAILED, "ValueError: as asked")
    assert died.state == schema.INTERRUPTED
    assert "FAILED" in died.message
    assert "COMPLETED" in returned.message
    assert returned.state == schema.INTERRUPTED
    assert worked.state == schema.FINISHED


def test_sixty_four_cells_run_once_each_from_the_snapshot(cluster, tmp_path):
    runs = cells(tmp_path, *["do: work"] * 64)
    outcomes = on_slurm(runs, array_parallelism=8)
    assert Counter(o.state for o in outcomes.values()) == {schema.FINISHED: 64}
    assert all(len(r.segments()) == 1 for r in runs)
    code = submissions(runs[0])[0].code
    assert {r.result["code"] for r in runs} == {
        str(tmp_path / "_snapshots" / code / "src/atomsweep/__init__.py")
    }


def test_fire_and_forget_twice_submits_once_and_cancel_takes_it_back(cluster, tmp_path):
    runs = cells(tmp_path, *["{do: work, sleep: 600, always: true}"] * 3)
    first = on_slurm(runs, wait=False)
    second = on_slurm(runs, wait=False)
    assert {o.message for o in first.values()} == {o.message for o in second.values()}
    assert [len(submissions(r)) for r in runs] == [1, 1, 1]
    wait_for(lambda: all(r.state() == schema.RUNNING for r in runs))
    assert len(cancel(runs)) == 3
    wait_for(lambda: not slurm_queue.queue())
    assert {r.state() for r in runs} == {schema.INTERRUPTED}  # not requeued: it was asked to end


@pytest.mark.parametrize(("rule", "left"), [("leave", 2), ("cancel", 0)])
def test_an_interrupt_leaves_or_cancels_the_jobs(cluster, tmp_path, rule, left):
    steps = [*CELL, "engine.steps=100000", "basis=sph,sine"]
    process = start("-m", *CLUSTER, f"cluster.on_interrupt={rule}", *steps, f"root={tmp_path}")
    wait_for(lambda: len(slurm_queue.queue()) == 2)
    time.sleep(2)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    wait_for(lambda: len(slurm_queue.queue()) == left)
    cancel(find_runs(tmp_path))
    wait_for(lambda: not slurm_queue.queue())


def test_two_nodes_with_two_ranks_train_as_one_process_does(cluster, tmp_path):
    words = [*CELL, "engine.steps=12", "engine.eval_every=6", "engine.log_every=1"]
    words += ["optim.batch_size=8", "ablation=node_linear_bn", "optim.accumulate=2"]
    words += ["model.edge_init_scale=null"]  # with auto, Adam makes steps of mere rounding
    code, output = run(*words, f"root={tmp_path / 'one'}")
    assert code == 0, output
    both = ["cluster.nodes=2", "cluster.ranks=2", "cluster.mem_gb=3"]
    code, output = run(*CLUSTER, *both, *words, f"root={tmp_path / 'four'}")
    assert code == 0, output
    one, four = trained(tmp_path / "one"), trained(tmp_path / "four")
    assert one.identity == four.identity
    curves = [[x["train/loss"] for x in r.journal() if "train/loss" in x] for r in (one, four)]
    assert curves[1][:4] == pytest.approx(curves[0][:4], rel=1e-5)
    assert curves[1] == pytest.approx(curves[0], rel=0.02)  # rounding grows with every step
    (segment,) = four.segments()
    assert segment["world_size"] == 4
    assert four.result["metrics"] == pytest.approx(one.result["metrics"], rel=0.02, abs=2e-3)


def test_ranks_on_two_nodes_that_hit_the_time_limit_continue_to_the_same_weights(cluster, tmp_path):
    both = ["cluster.nodes=2", "cluster.ranks=2", "cluster.mem_gb=3"]
    words = [*CELL, "engine.steps=150", "engine.checkpoint_every=1000", "optim.batch_size=8"]
    code, output = run(*CLUSTER, *both, *words, f"root={tmp_path / 'straight'}")
    assert code == 0, output
    process = start(*CLUSTER, *both, *words, f"root={tmp_path / 'warned'}")
    wait_for(lambda: at_step(tmp_path / "warned", 40))
    job = trained(tmp_path / "warned").segments()[-1]["slurm_job_id"]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as at the time limit
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    found = trained(tmp_path / "warned")
    assert [s["ended"] for s in found.segments()] == [schema.INTERRUPTED, schema.FINISHED]
    assert_same_end(found, trained(tmp_path / "straight"))


def test_a_rank_that_is_killed_does_not_hang_the_others(cluster, tmp_path):
    both = ["cluster.nodes=2", "cluster.ranks=1", "cluster.mem_gb=3", "cluster.resubmit=1"]
    words = [*CELL, "engine.steps=500", "engine.checkpoint_every=50", "optim.batch_size=8"]
    process = start(*CLUSTER, *both, *words, f"root={tmp_path}")
    wait_for(lambda: at_step(tmp_path, 100))
    first = trained(tmp_path).segments()[-1]["pid"]
    os.kill(follower_of(trained(tmp_path), first), signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    found = trained(tmp_path)
    assert [s["ended"] for s in found.segments()] == [schema.INTERRUPTED, schema.FINISHED]
    assert len(submissions(found)) == 2


def follower_of(run: RunDirectory, first: int) -> int:
    """The process of rank 1: its environment has this cluster, this job and the rank."""
    job = run.segments()[-1]["slurm_job_id"].partition("_")[0]
    wanted = {
        "SLURM_PROCID=1",
        f"SLURM_CONF={os.environ['SLURM_CONF']}",
        f"SLURM_JOB_ID={job}",
    }
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = set(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:
            continue
        if wanted <= environ and int(path.parent.name) != first:
            return int(path.parent.name)
    raise AssertionError("no process of rank 1")


def test_a_refusal_of_sbatch_is_one_sentence(cluster, tmp_path):
    runs = cells(tmp_path, "do: work", "do: work")
    with pytest.raises(
        slurm_queue.SlurmError, match="2 cells are not submitted.*partition"
    ) as told:
        on_slurm(runs, partition="nowhere")
    assert "\n" not in str(told.value)
    assert json.dumps([submissions(r)[0].job_id for r in runs]) == "[null, null]"
