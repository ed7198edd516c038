"""Settings of a cell: shared by tests with and without SLURM."""

from atomsweep.launch.slurm.settings import SlurmSettings
from atomsweep.tracking.files import read_yaml
from tests.places import CONF


def settings(**changes) -> SlurmSettings:
    """`cluster=slurm_cpu` with changes."""
    known = read_yaml((CONF / "cluster" / "slurm_cpu.yaml").read_text())
    known.pop("_target_")
    return SlurmSettings(**(known | changes))
