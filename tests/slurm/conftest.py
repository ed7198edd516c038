"""A real SLURM on this machine for the tests of this folder."""

import os
import shutil
import subprocess

import pytest

from tests.places import REPOSITORY

SCRIPT = REPOSITORY / "tools" / "slurm-local.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")


@pytest.fixture(scope="session")
def cluster():
    """Runs `slurm-local.sh <command>` on a cluster of two nodes that is there for the session."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    if missing:
        told = f"not installed: {', '.join(missing)}; see tools/slurm-local.sh install"
        if os.environ.get("CI"):
            pytest.fail(told)  # or they would be lost in silence
        pytest.skip(told)
    folder = f"/tmp/slurm-pytest-{os.getpid()}"  # short: Unix sockets lie below it

    def control(*arguments):
        subprocess.run([SCRIPT, *arguments, "--dir", folder], check=True, timeout=180)

    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'src'}")  # toy jobs are in tests/
    patch.chdir(REPOSITORY)
    anywhere = (
        ["--any-address"] if os.environ.get("CI") else []
    )  # a container's name is no localhost
    try:
        control("up", "--nodes", "2", "--cpus-per-node", "4", *anywhere)
        yield control
    finally:
        control("down")
        patch.undo()
