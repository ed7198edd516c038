"""`atomsweep gc` takes what nothing refers to, and nothing else."""

import dataclasses

import pytest

from atomsweep.cli.main import main
from atomsweep.launch.slurm.ledger import Submission, write
from atomsweep.launch.unused import unused
from atomsweep.tracking import schema
from atomsweep.tracking.lock import exclusive
from atomsweep.tracking.run import RunDirectory

SUBMITTED = Submission("sweep-1", None, "7", 0.0, "aaaaaaaaaaaa", "_slurm/sweep-1")


def make(root, digit):
    about = {"identity": digit * 12, "science": {}}
    return RunDirectory.create(root / f"r-{digit * 12}", "seed: 0\n", about)


@pytest.fixture
def root(tmp_path):
    """A finished run that was made again, an open one with a job, and what others have left."""
    done, waiting = make(tmp_path, "0"), make(tmp_path, "1")
    write(done, dataclasses.replace(SUBMITTED, name="sweep-0", code="bbbbbbbbbbbb"))
    write(waiting, SUBMITTED)
    done.finish({"metrics": {}})
    for name in (
        "_snapshots/aaaaaaaaaaaa",
        "_snapshots/bbbbbbbbbbbb",
        "_slurm/sweep-0",
        "_slurm/sweep-1",
        f"{done.name}/{schema.EARLIER}/1",
        f"{waiting.name}/{schema.EARLIER}/1",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"x" * 1000)
    (tmp_path / schema.PLANS).mkdir()
    (tmp_path / schema.PLANS / "lr.host.1.launcher").write_text("{}")
    return tmp_path


def names(root):
    return {one.path.relative_to(root).as_posix() for one in unused(root)}


def test_what_an_open_run_may_need_is_kept_and_the_rest_is_listed(root):
    assert names(root) == {
        "_snapshots/bbbbbbbbbbbb",
        "_slurm/sweep-0",
        f"r-{'0' * 12}/{schema.EARLIER}/1",
        f"{schema.PLANS}/lr.host.1.launcher",
    }


def test_while_something_works_no_code_is_touched(root):
    with RunDirectory(root / f"r-{'1' * 12}").lock():
        assert not any(name.startswith("_snapshots") for name in names(root))
    launcher = root / schema.PLANS / "lr.host.1.launcher"
    with exclusive(launcher):
        assert not any(name.startswith(("_snapshots", schema.PLANS)) for name in names(root))
    preparing = root / "_snapshots" / "host.2.launcher"  # no plan is there yet
    with exclusive(preparing):
        assert not any(name.startswith("_snapshots") for name in names(root))
    assert "_snapshots/host.2.launcher" in names(root)


def test_nothing_is_deleted_unless_asked_and_then_what_was_listed(root, capsys):
    assert main(["gc", "--root", str(root)]) == 0
    assert "4 of 0.0 MB; `atomsweep gc --delete` deletes them" in capsys.readouterr().out
    assert len(names(root)) == 4
    assert main(["gc", "--root", str(root), "--delete"]) == 0
    assert "4 of 4 deleted" in capsys.readouterr().out
    assert (root / "_snapshots" / "aaaaaaaaaaaa" / "file").is_file()
    assert (root / "_slurm" / "sweep-1" / "file").is_file()
    assert (root / f"r-{'1' * 12}" / schema.EARLIER / "1" / "file").is_file()
    assert main(["gc", "--root", str(root)]) == 0
    assert "nothing in" in capsys.readouterr().out
