"""Submission and watching, against scripts that play SLURM and count what they are asked."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atomsweep.launch.slurm import jobs as slurm
from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm import settings as slurm_settings
from atomsweep.launch.slurm.jobs import cancel, run_cells_on_slurm
from atomsweep.launch.slurm.ledger import job_in_queue, submissions
from atomsweep.launch.study.driver import Driver
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory
from tests.contracts.compose import CONF
from tests.launch.silent import Silent
from tests.launch.slurm.fakes import settings

PLAYER = """#!{python} -IS
import json, re, sys, time
from pathlib import Path
base = Path("{base}")
name, args = Path(sys.argv[0]).name, sys.argv[1:]
with (base / "calls").open("a") as calls:
    calls.write(json.dumps([name, *args]) + "\\n")
state = json.loads((base / "state.json").read_text())
if name in state["broken"]:
    sys.exit(f"{{name}}: error: {{state['broken'][name]}}")
if name == "sbatch":
    text = Path(args[0]).read_text()
    array = re.search(r"--array=0-(\\d+)%(\\d+)", text)
    title = re.search(r"--job-name=(\\S+)", text).group(1)
    if state["most"] is not None and len(state["jobs"]) >= state["most"]:
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    state["next"] += 1
    job = state["next"]
    ids = [f"{{job}}_{{i}}" for i in range(int(array.group(1)) + 1)] if array else [str(job)]
    state["jobs"].update({{i: ["PENDING", "Priority", title] for i in ids}})
    (base / f"{{job}}.sh").write_text(text)
    (base / "state.json").write_text(json.dumps(state))
    print(f"Submitted batch job {{job}}")
if name == "squeue":
    for job, (what, reason, title) in state["jobs"].items():
        print(f"{{job}}|{{what}}|{{reason}}|{{title}}")
if name == "sacct":
    for job, what in state["ended"].items():
        print(f"{{job}}|{{what}}")
if name == "scontrol":
    print(f"MaxArraySize            = {{state['array']}}")
if name == "scancel":
    state["jobs"] = {{k: v for k, v in state["jobs"].items() if k not in args}}
    (base / "state.json").write_text(json.dumps(state))
"""


class Player:
    """The scheduler that the scripts play."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.write(jobs={}, ended={}, broken={}, next=100, array=1001, most=None)

    def write(self, **state) -> None:
        (self.base / "state.json").write_text(json.dumps(state))

    def read(self) -> dict:
        return json.loads((self.base / "state.json").read_text())

    def set(self, **changes) -> None:
        self.write(**(self.read() | changes))

    def calls(self, name: str) -> list[list[str]]:
        path = self.base / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]


@pytest.fixture
def player(tmp_path, monkeypatch):
    base = tmp_path / "slurm"
    base.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel", "srun"):
        (base / name).write_text(PLAYER.format(python=sys.executable, base=base))
        (base / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{base}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "TICK_SECONDS", 0.02)
    return Player(base)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("atomsweep.launch.snapshot.TAKEN", ("run.py",))  # small
    return tmp_path / "runs"


def job(path):
    raise AssertionError("runs on the nodes, not here")


def cells(root: Path, count: int) -> list[RunDirectory]:
    return [
        RunDirectory.create(root / f"cell-{i:012x}", "{}", {"identity": f"{i:012x}", "science": {}})
        for i in range(count)
    ]


def launch(runs, **changes):
    return run_cells_on_slurm(runs, job, settings(**changes), Silent())


class Script:
    """Lets something happen at each look of the launch."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def update(self, running, done, total):
        if self.steps:
            self.steps.pop(0)()

    def close(self):
        pass


def watch(runs, *steps, monkeypatch, **changes):
    """A launch that asks the scheduler at every look."""
    monkeypatch.setattr(slurm_settings, "MIN_POLL_S", 0.0)
    return run_cells_on_slurm(runs, job, settings(poll_s=0.0, **changes), Script(*steps))


def test_a_relaunch_adopts_what_is_queued(player, root):
    runs = cells(root, 3)
    first = launch(runs, wait=False)
    assert [o.message for o in first.values()] == ["job 101_0", "job 101_1", "job 101_2"]
    assert launch(runs, wait=False) == first
    assert len(player.calls("sbatch")) == 1
    assert [submissions(r)[0].job_id for r in runs] == ["101_0", "101_1", "101_2"]


def test_a_launch_killed_before_it_wrote_the_ids_finds_its_jobs_by_name(player, root):
    runs = cells(root, 2)
    launch(runs, wait=False)
    for run in runs:
        ledger = run.path / schema.JOBS
        ledger.write_text(ledger.read_text().splitlines()[0] + "\n")
    outcomes = launch(runs, wait=False)
    assert [o.message for o in outcomes.values()] == ["job 101_0", "job 101_1"]
    assert len(player.calls("sbatch")) == 1


def test_ids_of_another_cluster_are_not_taken_for_ours(player, root):
    (run,) = cells(root, 1)
    launch([run], wait=False)
    player.set(jobs={"101": ["RUNNING", "None", "somebody-else"]}, next=200)
    launch([run], wait=False)
    assert submissions(run)[-1].job_id == "201"


def test_finished_cells_are_not_submitted_and_no_cells_ask_for_no_job(player, root):
    assert launch([]) == {}
    runs = cells(root, 2)
    runs[0].finish({"metrics": {}})
    outcomes = launch(runs, wait=False)
    assert outcomes[runs[0].path].state == schema.FINISHED
    assert outcomes[runs[1].path].message == "job 101"


def test_arrays_are_no_longer_than_the_cluster_allows_and_share_the_throttle(player, root):
    player.set(array=4)
    launch(cells(root, 10), wait=False, array_parallelism=6)
    scripts = [(player.base / f"{n}.sh").read_text() for n in (101, 102, 103)]
    assert [next(w for w in s.split() if w.startswith("--array")) for s in scripts] == [
        "--array=0-3%2",
        "--array=0-3%2",
        "--array=0-1%2",
    ]


def test_every_request_reaches_sbatch(player, root):
    (run,) = cells(root, 1)
    launch(
        [run],
        wait=False,
        partition="gpu",
        account="lab",
        qos="long",
        constraint="a100",
        gres="gpu:a100:2",
        nodes=2,
        ranks=3,
        gpus=4,
        cpus=5,
        mem_gb=6.5,
        time_min=77,
        signal_s=66,
        comment="table 5",
        preamble=["module load cuda"],
        srun_args=["--container-image=x"],
        sbatch={"reservation": "friday"},
        python="/opt/python",
    )
    text = (player.base / "101.sh").read_text()
    for line in (
        "--partition=gpu",
        "--account=lab",
        "--qos=long",
        "--constraint=a100",
        "--gres=gpu:a100:2",
        "--nodes=2",
        "--ntasks-per-node=3",
        "--gpus-per-node=4",
        "--cpus-per-task=5",
        "--mem=6656MB",
        "--time=77",
        "--signal=USR2@66",
        "--comment='table 5'",
        "--reservation=friday",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "module load cuda\natomsweep_code=$?; " in text
    assert "--container-image=x /opt/python -u -m submitit" in text
    assert "ATOMSWEEP_TIME_S=4620 ATOMSWEEP_SIGNAL_S=66" in text


def test_jobs_trust_the_packages_that_the_launcher_trusts(player, root, monkeypatch, tmp_path):
    for name in ("mylab", "theirlab"):
        (tmp_path / "labs" / name).mkdir(parents=True)
        (tmp_path / "labs" / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "labs")

    def script(number: int) -> str:
        launch(cells(root / str(number), 1), wait=False)
        return (player.base / f"{101 + number}.sh").read_text()

    monkeypatch.setenv("ATOMSWEEP_PLUGINS", "mylab, theirlab")
    assert "\nexport ATOMSWEEP_PLUGINS='mylab, theirlab'\n" in script(0)
    monkeypatch.delenv("ATOMSWEEP_PLUGINS")
    assert "ATOMSWEEP_PLUGINS" not in script(1)


def test_results_come_from_directories_and_the_scheduler_is_asked_once_for_all(
    player, root, monkeypatch
):
    runs = cells(root, 20)

    def end():
        for run in runs[1:]:
            run.finish({"metrics": {}})
        runs[0].fail("ValueError: no")

    outcomes = watch(runs, lambda: None, lambda: None, end, monkeypatch=monkeypatch)
    assert outcomes[runs[0].path].message == "ValueError: no"
    assert {outcomes[r.path].state for r in runs[1:]} == {schema.FINISHED}
    assert len(player.calls("squeue")) <= 5  # one at submission, one for each look
    assert player.calls("sacct") == []


def test_of_cells_that_wait_only_what_changed_is_read(player, root, monkeypatch):
    runs = cells(root, 20)
    read, standing = [], evaluations.standing

    def counted(run, *more):
        read.append(run.path)
        return standing(run, *more)

    def end():
        for run in runs:
            run.finish({"metrics": {}})
        assert len(read) == 0

    monkeypatch.setattr("atomsweep.tracking.evaluations.standing", counted)
    looks = [lambda: None] * 3 + [read.clear, lambda: None, lambda: None, end]
    outcomes = watch(runs, *looks, monkeypatch=monkeypatch)
    assert {outcome.state for outcome in outcomes.values()} == {schema.FINISHED}


def test_a_trained_cell_that_lacks_an_evaluation_is_a_job_until_it_has_it(
    player, root, monkeypatch
):
    runs = cells(root, 3)
    for run in runs:
        evaluations.want(run, {"rotation": {}})
    runs[0].finish({"metrics": {}})
    evaluations.write(runs[0], "rotation", {"settings": {}})
    runs[1].finish({"metrics": {}})
    evaluations.fail(runs[1], "rotation", "an earlier one", "")

    def train():
        runs[2].finish({"metrics": {}})
        evaluations.write(runs[1], "rotation", {"settings": {}})

    def evaluate():
        evaluations.fail(runs[2], "rotation", "ValueError: no", "")

    outcomes = watch(runs, lambda: None, train, evaluate, monkeypatch=monkeypatch)
    assert len(player.calls("sbatch")) == 1
    assert "--array=0-1%" in (player.base / "101.sh").read_text()
    assert [outcomes[run.path].state for run in runs] == [
        schema.FINISHED,
        schema.FINISHED,
        schema.FAILED,
    ]
    assert outcomes[runs[2].path].message == "evaluation rotation: ValueError: no"


def test_a_job_that_leaves_the_queue_for_a_moment_is_not_lost(player, root, monkeypatch):
    (run,) = cells(root, 1)
    kept = {}

    def vanish():
        kept.update(player.read()["jobs"])
        player.set(jobs={}, ended={"101": "NODE_FAIL"})

    def come_back():
        player.set(jobs=kept)

    steps = [vanish, come_back, lambda: None, lambda: None, lambda: run.finish({"metrics": {}})]
    outcomes = watch([run], *steps, monkeypatch=monkeypatch)
    assert outcomes[run.path].state == schema.FINISHED
    assert len(player.calls("sbatch")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "submitted"),
    [("NODE_FAIL", 3), ("TIMEOUT", 3), ("CANCELLED", 1), ("OUT_OF_MEMORY", 1), ("COMPLETED", 1)],
)
def test_a_lost_job_is_submitted_anew_where_the_cell_is_not_to_blame(
    player, root, monkeypatch, state, submitted
):
    (run,) = cells(root, 1)

    def lose():
        player.set(jobs={}, ended={str(n): state for n in range(101, 110)})

    outcomes = watch([run], *[lose] * 40, monkeypatch=monkeypatch, resubmit=2)
    assert outcomes[run.path].state == schema.INTERRUPTED
    assert f"({state})" in outcomes[run.path].message
    assert len(player.calls("sbatch")) == submitted


def test_jobs_that_come_no_further_are_told(player, root, monkeypatch, caplog):
    (run,) = cells(root, 1)

    def requeue(number, step):
        return lambda: run.update_status(requeues=number, step=step)

    steps = [requeue(number, 10 * number) for number in range(5)]  # each comes further
    steps += [requeue(number, 40) for number in range(5, 8)] + [lambda: None] * 3
    watch([run], *steps, lambda: run.finish({"metrics": {}}), monkeypatch=monkeypatch)
    told = [text for text in caplog.messages if "came no further" in text]
    assert len(told) == 1
    assert told[0].startswith(f"{run.name}: 3 jobs in a row came no further than step 40; raise")


def test_without_accounting_a_lost_job_is_still_noticed(player, root, monkeypatch):
    (run,) = cells(root, 1)
    player.set(broken={"sacct": "accounting is disabled"})
    outcomes = watch([run], lambda: player.set(jobs={}), monkeypatch=monkeypatch)
    assert "(UNKNOWN)" in outcomes[run.path].message


def test_a_controller_that_is_down_loses_nothing(player, root, monkeypatch, caplog):
    (run,) = cells(root, 1)
    steps = [
        lambda: player.set(broken={"squeue": "Unable to contact slurm controller"}),
        *[lambda: None] * 6,
        lambda: run.finish({"metrics": {}}),
    ]
    outcomes = watch([run], *steps, monkeypatch=monkeypatch)
    assert outcomes[run.path].state == schema.FINISHED
    assert caplog.text.count("Unable to contact") == 1


def test_cells_over_the_submission_limit_follow_as_jobs_end(player, root, monkeypatch):
    player.set(array=2, most=2)
    runs = cells(root, 4)

    def end():
        for run in runs[:2]:
            run.finish({"metrics": {}})
        player.set(jobs={})

    def end_all():
        if len(player.read()["jobs"]) == 2:
            for run in runs:
                run.finish({"metrics": {}})

    outcomes = watch(runs, lambda: None, end, *[end_all] * 20, monkeypatch=monkeypatch)
    assert {o.state for o in outcomes.values()} == {schema.FINISHED}
    assert submissions(runs[3])[-1].job_id is not None


def test_a_cell_that_trains_elsewhere_is_not_submitted(player, root, monkeypatch):
    (run,) = cells(root, 1)
    with run.lock():
        outcomes = watch(
            [run], lambda: None, lambda: run.finish({"metrics": {}}), monkeypatch=monkeypatch
        )
    assert outcomes[run.path].state == schema.FINISHED
    assert player.calls("sbatch") == []


def test_a_study_submits_as_trials_end_and_its_pruned_runs_are_settled(player, root, monkeypatch):
    runs = cells(root, 3)
    wanted = [runs[:2], [], []]
    told = []

    def feed(ended):
        told.extend((path, outcome.state) for path, outcome in ended.items())
        if len(told) == 1 and runs[2].state() != schema.FINISHED:
            return [runs[2]] if len(player.calls("sbatch")) == 1 else []
        return wanted.pop(0) if wanted else []

    def prune():
        runs[0].ask_to_stop(study="s", trial=0)

    def work():
        for run in runs[1:]:
            run.finish({"metrics": {}})

    feed.ends = Driver.ends
    monkeypatch.setattr(slurm_settings, "MIN_POLL_S", 0.0)
    script = Script(prune, lambda: None, lambda: None, work)
    outcomes = run_cells_on_slurm([], job, settings(poll_s=0.0), script, feed)
    assert [outcomes[run.path].state for run in runs] == ["pruned", "finished", "finished"]
    assert told[0] == (runs[0].path, "pruned")
    assert len(player.calls("sbatch")) == 2


def test_a_failed_run_of_a_study_gets_another_job_while_the_old_one_leaves(
    player, root, monkeypatch
):
    (run,) = cells(root, 1)
    wanted, told = [[run]], []

    def feed(ended):
        told.extend(outcome.state for outcome in ended.values())
        if ended and len(told) == 1:
            return [run]
        return wanted.pop(0) if wanted else []

    monkeypatch.setattr(slurm_settings, "MIN_POLL_S", 0.0)
    script = Script(lambda: run.fail("as asked"), lambda: None, lambda: run.finish({"metrics": {}}))
    run_cells_on_slurm([], job, settings(poll_s=0.0), script, feed)
    assert told == ["failed", "finished"]
    assert [s.job_id for s in submissions(run)] == ["101", "102"]


def test_a_launch_without_slurm_is_told_what_to_do(root, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(slurm_queue.SlurmError, match="squeue is not found.*cluster=local"):
        launch(cells(root, 1))


def test_cancel_ends_the_jobs_of_the_runs_and_no_others(player, root):
    runs = cells(root, 3)
    launch(runs, wait=False)
    assert cancel(runs[:2]) == ["101_0", "101_1"]
    assert list(player.read()["jobs"]) == ["101_2"]
    assert job_in_queue(runs[0], slurm_queue.queue()) is None


@pytest.mark.parametrize(("rule", "left"), [("leave", 1), ("cancel", 0)])
def test_an_interrupt_follows_the_rule(player, root, monkeypatch, rule, left):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(cells(root, 1), interrupt, monkeypatch=monkeypatch, on_interrupt=rule)
    assert len(player.read()["jobs"]) == left


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"time_min": 3, "signal_s": 120}, "leaves a job no time"),
        ({"time_min": 0}, "time_min"),
        ({"nodes": 0}, "cluster.nodes must be at least 1"),
        ({"poll_s": 0.1}, "at least 1 s"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings(**changes)


@pytest.mark.slow
@pytest.mark.parametrize("many", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_login_node_needs_no_torch_and_speaks_soon(player, tmp_path, mini_oc_tiny, many):
    """The launch hides from itself what takes seconds to import, as where it is not installed."""
    heavy = ("torch", "torch_geometric", "mlflow", "optuna", "pandas", "matplotlib")
    code = (
        f"import runpy, sys; sys.modules |= dict.fromkeys({heavy}); "
        "runpy.run_path('run.py', run_name='__main__')"
    )
    words = [*many, "cluster=slurm_cpu", "cluster.wait=false", "tracking=none", "data=mini_oc_tiny"]
    words += [f"data.root={mini_oc_tiny.directory.parent}", f"root={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=CONF.parent,
        env=os.environ | {"PYTHONPATH": "src"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(("run ", "sweep ")), done.stdout
    assert "queued" in done.stdout


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (
            {"squeue": "slurm_load_jobs error: Socket timed out on send/recv operation"},
            "squeue failed .*Socket timed out.*: the SLURM controller does not answer; .*again",
        ),
        (
            {"sbatch": "Batch job submission failed: Invalid account or account/partition"},
            "sbatch failed .*sacctmgr show assoc.*cluster.account",
        ),
        (
            {"sbatch": "invalid partition specified: gpuu"},
            "sbatch failed .*gpuu.*`sinfo` lists them, set cluster.partition",
        ),
        (
            {"sbatch": "Batch job submission failed: Requested time limit is invalid (missing)"},
            "sbatch failed .*lower cluster.time_min",
        ),
        (
            {"sbatch": "Batch job submission failed: Unable to contact slurm controller"},
            "sbatch failed .*controller does not answer",
        ),
        ({"sbatch": "something nobody has seen"}, "sbatch failed: something nobody has seen; "),
    ],
)
def test_what_slurm_refuses_is_a_sentence_and_nothing_says_that_it_is_queued(
    player, root, broken, sentence
):
    runs = cells(root, 2)
    player.set(broken=broken)
    with pytest.raises(slurm_queue.SlurmError, match=sentence) as told:
        launch(runs, wait=False)
    assert "\n" not in str(told.value)
    assert [run.state() for run in runs] == [schema.INTERRUPTED] * 2
    assert all("not submitted: " in run.status["message"] for run in runs)
    player.set(broken={})
    launch(runs, wait=False)
    assert [run.state() for run in runs] == [schema.QUEUED] * 2
    assert all(run.status["message"] is None for run in runs)


def test_jobs_that_are_gone_are_no_error_to_cancel(player, root):
    player.set(broken={"scancel": "Kill job error on job id 77: Invalid job id specified"})
    slurm_queue.scancel(["77"])
    player.set(broken={"scancel": "Unable to contact slurm controller"})
    with pytest.raises(slurm_queue.SlurmDown, match="does not answer"):
        slurm_queue.scancel(["77"])


def test_a_scheduler_that_does_not_answer_leaves_what_waits_there_as_it_is(
    player, root, monkeypatch
):
    waits, fresh = cells(root, 2)
    launch([waits], wait=False)
    assert waits.state() == schema.QUEUED
    fresh.queue()

    def silent(*_):
        raise slurm_queue.SlurmDown("squeue did not answer")

    monkeypatch.setattr(slurm_queue, "queue", silent)
    with pytest.raises(slurm_queue.SlurmDown):
        launch([waits, fresh], wait=False)
    assert waits.state() == schema.QUEUED
    assert fresh.state() == schema.INTERRUPTED  # nobody has ever submitted it


def test_lines_of_a_wrapper_are_no_jobs(monkeypatch):
    output = "Welcome to the cluster\n7|PENDING|Priority|mine\n"
    monkeypatch.setattr(slurm_queue, "_run", lambda *command: output)
    assert list(slurm_queue.queue()) == ["7"]


def test_a_command_that_cannot_be_run_or_does_not_answer_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "squeue").write_text("no program")
    (tmp_path / "squeue").chmod(0o755)
    with pytest.raises(slurm_queue.SlurmError, match="squeue cannot be run"):
        slurm_queue.queue()
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    monkeypatch.setattr(slurm_queue, "COMMAND_SECONDS", 0.2)
    with pytest.raises(slurm_queue.SlurmDown, match="squeue did not answer in .* again"):
        slurm_queue.queue()
