"""Cells handed to SLURM through submitit, in arrays; their ledgers say so before and after."""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atomsweep.launch.outcome import Job
from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm.ledger import Submission, write
from atomsweep.launch.slurm.queue import SlurmError
from atomsweep.launch.slurm.settings import SlurmSettings
from atomsweep.launch.slurm.words import sentence
from atomsweep.tracking import evaluations
from atomsweep.tracking.files import told
from atomsweep.tracking.run import RunDirectory

FOLDER = "_slurm"  # <root>/_slurm/<submission>/: pickles and output of jobs


def submit(
    runs: Sequence[RunDirectory], job: Job, settings: SlurmSettings, code: Path
) -> dict[Path, Submission]:
    """Hand cells to SLURM, in arrays as long as the cluster allows.

    Args:
        runs: directories under one root.
        job: module-level function of one argument, the run directory; found again by its name.
        settings: resources of one cell.
        code: the snapshot that they run.

    Raises:
        SlurmError: sbatch refused; cells of arrays before are submitted, as their ledgers say.
    """
    if not runs:
        return {}
    root = runs[0].path.absolute().parent
    size = slurm_queue.max_array_size()
    chunks = [runs[i : i + size] for i in range(0, len(runs), size)]
    share = max(1, settings.array_parallelism // len(chunks))
    done: dict[Path, Submission] = {}
    for chunk in chunks:
        done |= _submit_array(chunk, job, replace(settings, array_parallelism=share), root, code)
    return done


def _submit_array(
    runs: Sequence[RunDirectory], job: Job, settings: SlurmSettings, root: Path, code: Path
) -> dict[Path, Submission]:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    sweep = re.sub(r"[^\w.-]+", "_", str(runs[0].run.get("sweep") or "atomsweep"))
    name = f"{sweep}-{secrets.token_hex(4)}"
    folder = root / FOLDER / name
    planned = {
        run.path: Submission(
            name=name,
            index=index if len(runs) > 1 else None,
            job_id=None,
            submitted=round(time.time(), 3),
            code=code.name,
            folder=str(folder),
        )
        for index, run in enumerate(runs)
    }
    for run in runs:
        run.queue()
        evaluations.forget_failures(run)
        write(run, planned[run.path])
    try:
        executor = submitit.SlurmExecutor(folder=folder, python=settings.python)
        executor.update_parameters(**settings.executor_parameters(name, code))
        jobs = executor.map_array(job, [str(run.path.absolute()) for run in runs])
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
        raise SlurmError(f"{len(runs)} cells are not submitted: {_why(error)}") from error
    done = {}
    for run, submitted in zip(runs, jobs, strict=True):
        done[run.path] = replace(planned[run.path], job_id=str(submitted.job_id))
        write(run, done[run.path])
    return done


def _why(error: Exception) -> str:
    """Of submitit's errors what sbatch said; it adds the command and a traceback."""
    if isinstance(error, FileNotFoundError) or "slurm is not" in str(error).lower():
        return "sbatch is not found; launch on a login node of the cluster, or choose cluster=local"
    if isinstance(error, OSError):
        return told(error)
    lines = str(error).strip().splitlines()
    said = [line for line in lines if line.startswith("sbatch: ")]
    return sentence("sbatch", "\n".join(said or lines[-1:]))
