"""A group's admin sets up a cluster for others: what they read, from a SLURM that is made up.

Jobs are trained in `tests/slurm`, on a real one.
"""

from pathlib import Path

import pytest

from tests.contracts.commands import Place, environment

pytestmark = pytest.mark.slow

# submitit looks for srun
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun")
TYPED = {
    "cluster": "slurm_cpu", "cluster.partition": "cpu", "cluster.account": "lab",
    "cluster.wait": "false", "data": "mini_oc_tiny", "tracking": "none", "engine.steps": "20",
    "engine.eval_every": "10", "basis": "sph,sine",
}  # fmt: skip


def words(**changes):
    """What is typed after `run`; `partition=` stands for `cluster.partition=`."""
    own = {key if key in TYPED else f"cluster.{key}": value for key, value in changes.items()}
    return ["-m", *(f"{key}={value}" for key, value in {**TYPED, **own}.items())]


class Cluster(Place):
    """A folder of a user, and a SLURM whose jobs wait."""

    def __init__(self, path, datasets):
        self.slurm, commands = path / "slurm", path / "bin"
        self.slurm.mkdir()
        commands.mkdir()
        for name in COMMANDS:
            (commands / name).symlink_to(Path(__file__).with_name("fake_slurm.sh"))
        env = environment(ATOMSWEEP_DATA=str(datasets), FAKE_SLURM=str(self.slurm))
        super().__init__(path, env | {"PATH": f"{commands}:{env['PATH']}"})

    def jobs(self):
        """Ids of the jobs in the queue."""
        return [line.split("|")[0] for line in (self.slurm / "queue").read_text().splitlines()]

    def calls(self, command):
        return (self.slurm / "calls").read_text().splitlines().count(command)


@pytest.fixture
def cluster(tmp_path, mini_oc_tiny):
    return Cluster(tmp_path, mini_oc_tiny.directory.parent)


def errors(told):
    return [line for line in told.splitlines() if line.startswith("error: ")]


def test_a_sweep_is_queued_watched_cancelled_and_queued_again(cluster):
    preamble = "[module load cuda/12.4,source /shared/venv/bin/activate]"
    typed = words(preamble=preamble, qos="long", time_min=90)
    code, told = cluster.run(*typed)
    assert code == 0, told
    assert "2 cells submitted" in told
    script = (cluster.slurm / "last.sh").read_text()
    for option in ("partition=cpu", "account=lab", "qos=long", "time=90", "array=0-1%2"):
        assert f"#SBATCH --{option}" in script
    loads = script.index("module load cuda/12.4"), script.index("/shared/venv/bin/activate")
    assert loads[0] < loads[1] < script.index("srun")

    code, told = cluster.type("status")
    assert code == 0
    assert told.count("queued") >= 2
    assert all(f"job {job}" in told or job in told for job in cluster.jobs())
    code, told = cluster.type("report", "latest")
    assert code == 0
    assert "2 waiting for their turn" in told

    code, told = cluster.run(*typed)
    assert code == 0, told
    assert "0 cells submitted, 2 already queued" in told
    assert cluster.calls("sbatch") == 1

    (sweep,) = (path.stem for path in (cluster.path / "runs" / "_sweeps").glob("*.json"))
    code, told = cluster.type("cancel", sweep)
    assert code == 0, told
    assert cluster.jobs() == []
    code, told = cluster.type("status")
    assert "queued" not in told, told
    assert "2 interrupted" in told
    code, told = cluster.type("retry", sweep)
    assert code == 1
    assert "which retry does not repeat; type its command again" in told  # lines for a shell
    code, told = cluster.run(*typed)
    assert code == 0, told
    assert len(cluster.jobs()) == 2


@pytest.mark.parametrize(
    ("changes", "told_by_slurm"),
    [
        ({"partition": "gpux"}, "Invalid partition name specified"),
        ({"account": "other"}, "Invalid account or account/partition combination"),
    ],
)
def test_what_slurm_refuses_is_one_sentence_and_nothing_is_queued(cluster, changes, told_by_slurm):
    code, told = cluster.run(*words(**changes))
    assert code == 1
    (error,) = errors(told)
    assert "2 cells are not submitted: sbatch failed" in error
    assert f"(Batch job submission failed: {told_by_slurm}" in error
    assert cluster.jobs() == []
    told = cluster.type("status")[1]
    assert "2 runs, 2 interrupted" in told
    assert told.count(told_by_slurm) == 2  # for each cell, why


def test_settings_that_no_cluster_has_are_refused_before_anything_is_queued(cluster):
    for key, value, sentence in (
        ("time", 60, "there is no cluster.time; did you mean"),
        ("on_interrupt", "kill", "on_interrupt must be"),
        ("preamble", "module", "preamble"),
    ):
        code, told = cluster.run(*words(**{key: value}))
        assert code == 1
        (error,) = errors(told)
        assert sentence in error, error
    assert not (cluster.slurm / "calls").exists() or cluster.calls("sbatch") == 0


def test_a_job_that_runs_out_of_memory_says_so_where_people_look(cluster):
    started = cluster.start(*words(basis="sph", wait="true", poll_s=1))
    try:
        while not ((cluster.slurm / "queue").exists() and cluster.jobs()):
            assert started.poll() is None, started.output()
        (job,) = cluster.jobs()
        (run,) = cluster.runs()
        while not list((cluster.path / "runs" / "_slurm").glob("*")):
            assert started.poll() is None, started.output()
        (folder,) = (cluster.path / "runs" / "_slurm").glob("*")
        word = "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0"
        (folder / f"{job}_0_log.err").write_text(f"{word}\n")
        (cluster.slurm / "accounts").write_text(f"{job}|OUT_OF_MEMORY\n")
        (cluster.slurm / "queue").write_text("")
        told, _ = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode == 1
    assert f"job {job} ended (OUT_OF_MEMORY)" in told
    assert word in told
    code, told = cluster.type("info", run.identity)
    assert code == 0
    assert "OUT_OF_MEMORY" in told
    code, told = cluster.type("status")
    assert f"job {job} ended (OUT_OF_MEMORY)" in told
