"""Faults at random: whatever is killed, filled or taken away, the same command ends as ever."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking.lock import holder_of
from tests.contracts.commands import Place, environment
from tests.contracts.warm import MODES
from tests.faults.harness import Attack, fill, small_disk
from tests.places import REPOSITORY
from tests.test_commands import wait_for_step

SEED = int(os.environ.get("ATOMSWEEP_FAULTS_SEED", "0"))
FAULTS = int(os.environ.get("ATOMSWEEP_FAULTS", "6"))
SIGNALS = int(os.environ.get("ATOMSWEEP_FAULTS_SIGNALS", "40"))


@pytest.fixture
def place(tmp_path, mini_oc_tiny):
    return Place(tmp_path, environment(ATOMSWEEP_DATA=str(mini_oc_tiny.directory.parent)))


def judge(attack: Attack) -> None:
    """Figures as the last line, and nothing wrong."""
    print(attack.figures)
    assert not attack.figures.wrong, "\n\n".join([*attack.figures.wrong, str(attack.figures)])


@pytest.mark.slow
def test_a_few_signals_lose_nothing(place):
    attack = Attack(place, SEED, "tracking=none")
    attack.signals(5)
    judge(attack)


@pytest.mark.long
def test_signals_to_any_process_of_a_launch_lose_nothing(place):
    attack = Attack(place, SEED, "tracking=none")
    attack.signals(SIGNALS)
    judge(attack)


@pytest.mark.long
def test_signals_while_cells_are_checked_and_data_are_made(place):
    attack = Attack(place, SEED + 1, "tracking=none")
    attack.signals(SIGNALS, fresh_data=True)
    judge(attack)


@pytest.mark.long
def test_a_disk_that_is_full_at_any_moment_is_named_and_the_same_command_finishes(place):
    attack = Attack(place, SEED + 2, "tracking=none")
    needed = size_of(place.path / "whole")
    for number in range(FAULTS):
        with small_disk(place.path / f"disk-{number}", "size=64m") as disk:
            root = f"{disk.name}/runs"
            some = attack.chance.randrange(needed) if number else 0
            if number % 2:  # the snapshot is there: what is short is the training
                code = place.path / "whole" / "_snapshots"
                shutil.copytree(code, disk / "runs" / code.name)
                some = attack.chance.randrange(needed - size_of(code))
            ballast = fill(disk, leave=some)
            attack.fault(root, "full disk", "No space left on device")
            told_by_status(attack, root)
            ballast.unlink()
            attack.finish(root)
    judge(attack)


@pytest.mark.long
def test_a_file_system_without_room_for_another_file_is_named(place):
    attack = Attack(place, SEED + 3, "tracking=none")
    files = sum(1 for _ in (place.path / "whole").rglob("*"))
    for number in range(max(1, FAULTS // 2)):
        many = attack.chance.randrange(10, files)
        with small_disk(place.path / f"disk-{number}", f"nr_inodes={many}") as disk:
            root = f"{disk.name}/runs"
            attack.fault(root, "no inodes", "No space left on device")
            remount(disk, "nr_inodes=0")
            attack.finish(root)
    judge(attack)


@pytest.mark.long
def test_a_full_temporary_directory_is_named(place):
    attack = Attack(place, SEED + 4, "tracking=none")
    with small_disk(place.path / "tmp", "size=1m") as disk:
        fill(disk, leave=0)
        other = Place(place.path, place.env | {"TMPDIR": str(disk)})
        attack.fault("runs", "full temporary directory", "No space left on device", other)
    attack.finish("runs")
    judge(attack)


@pytest.mark.long
def test_rights_that_are_taken_away_are_named(place):
    place.env[MODES] = "1"
    attack = Attack(place, SEED + 5, "tracking=none")
    for number, taken in enumerate((".", "_sweeps", "_snapshots")):
        root = f"rights-{number}"
        (place.path / root / taken).mkdir(parents=True)
        with_rights_taken(attack, root, place.path / root / taken)
    victim = place.runs(root)[0].path
    for taken in (".", "checkpoints"):
        for name in ("result.json", "metrics.jsonl", "segments.jsonl", "status.json", "log.txt"):
            (victim / name).unlink()
        shutil.rmtree(victim / "checkpoints")
        (victim / "checkpoints").mkdir()
        attack.finished.clear()
        with_rights_taken(attack, root, victim / taken)
    judge(attack)


@pytest.mark.long
def test_signals_while_mlflow_comes_and_goes(place):
    """Its process is among those that are killed; at the end it holds every cell."""
    from mlflow import MlflowClient

    attack = Attack(place, SEED + 6, "tracking.every_s=1")
    attack.signals(max(4, SIGNALS // 4))
    assert place.run(*attack.command, root="last")[0] == 0
    store = MlflowClient(f"sqlite:///{place.path}/last/mlflow.db")
    experiment = store.get_experiment_by_name("atomsweep")
    runs = store.search_runs([experiment.experiment_id], "tags.kind = 'run'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    judge(attack)


@pytest.mark.long
def test_code_that_is_broken_in_mid_launch_is_in_no_cell(place):
    attack = Attack(place, SEED + 7, "tracking=none", "cluster.parallel=1")
    copy = place.path / "checkout"
    for name in ("src", "conf", "sweeps"):
        passed = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=passed)
    shutil.copy(REPOSITORY / "run.py", copy)
    place.env["PYTHONPATH"] = str(copy / "src")
    place.script = copy / "run.py"
    attack.fresh = True
    for number in range(2):
        root = f"edited-{number}"
        process = place.start(*attack.command, root=root, fresh=True)
        run = wait_for_step(place.path / root, 5, process)
        files = attack.chance.sample(
            sorted((copy / "src" / "atomsweep" / "engine").glob("*.py")), 5
        )
        kept = {path: path.read_text() for path in files}
        for path in files:
            path.write_text("raise RuntimeError('edited in mid-launch')\n")
        if number:
            os.kill(holder_of(run.path / schema.LOCK)["pid"], signal.SIGKILL)
            attack.figures.done["SIGKILL"] += 1
        attack.ended(process, root)
        attack.figures.done["edits"] += 1
        for path, text in kept.items():
            path.write_text(text)
        attack.finish(root)
    judge(attack)


def told_by_status(attack: Attack, root: str) -> None:
    """`status` says of a cell that failed on a full disk that it did."""
    for run in attack.place.runs(root):
        if run.status.get("state") == schema.FAILED:
            attack.figures.done["cells failed by a full disk"] += 1
            if "No space left on device" not in run.status["message"]:
                attack.figures.silent.append(f"{run.path}: {run.status}")


def with_rights_taken(attack: Attack, root: str, folder: Path) -> None:
    """The command while nothing may be written into a folder, and afterwards."""
    folder.chmod(0o555)
    attack.fault(root, "rights taken", "Permission denied")
    folder.chmod(0o755)
    attack.finish(root)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def size_of(folder: Path) -> int:
    """Bytes, in whole pages."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())
