"""A finished run whose best checkpoint is lost: what to do is said."""

import shutil

import pytest

from atomsweep.build import UserError
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.trained import load
from tests.contracts.checkpoints import harm


@pytest.fixture
def run(tiny_run, tmp_path):
    return RunDirectory(shutil.copytree(tiny_run.path, tmp_path / "runs" / tiny_run.path.name))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "best.pt cannot be read"),
        (
            "gone",
            "has no best checkpoint yet .*it is gone, so run its command again with rerun=all",
        ),
        ("other weights", r"best.pt does not fit its run \(Error.* in loading state_dict"),
        ("no step", "best.pt holds no step of its kind, but a NoneType"),
        ("another run's", "best.pt belongs to run 000000000000, not to"),
    ],
)
def test_a_lost_best_checkpoint_is_a_sentence(run, how, message):
    file = run.path / "checkpoints" / "best.pt"
    harm(file, how)
    with pytest.raises(UserError, match=message) as caught:
        load(run.path)
    assert "rerun=all" in str(caught.value)
    assert "\n" not in str(caught.value)
