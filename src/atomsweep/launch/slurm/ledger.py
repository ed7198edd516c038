"""Submissions of a run, in its `jobs.jsonl`: which job of SLURM works on it, or will.

One line is written before sbatch is called, without an id, and one after. Jobs are called after
their submission, so that a launch that was killed in between, or the ids of another cluster, are
never mistaken.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from atomsweep.launch.slurm.queue import Job
from atomsweep.tracking import schema
from atomsweep.tracking.files import append_line, read_file, read_lines
from atomsweep.tracking.run import RunDirectory

Queue = Mapping[str, Job]


@dataclass(frozen=True)
class Submission:
    """One line of `jobs.jsonl`: a cell that was handed to SLURM.

    Attributes:
        name: of the job, unique to the submission.
        index: of the cell in its array; None for a job of its own.
        job_id: None until sbatch has answered.
        submitted: time, s since 1970.
        code: snapshot that the job runs.
        folder: pickle and output of the job.
    """

    name: str
    index: int | None
    job_id: str | None
    submitted: float
    code: str
    folder: str

    def job(self, queue: Queue) -> str | None:
        """Id of its job if that is still in the queue."""
        if self.job_id is not None:
            job = queue.get(self.job_id)
            return self.job_id if job is not None and job.name == self.name else None
        suffix = "" if self.index is None else f"_{self.index}"
        named = (job for job, known in queue.items() if known.name == self.name)
        return next((job for job in named if job.partition("_")[2] == suffix[1:]), None)

    def error_file(self) -> str:
        """Where the job's standard error is."""
        return f"{self.folder}/{self.job_id}_0_log.err"

    def last_word(self) -> str | None:
        """The last line of it that says something; srun repeats only that a task has ended."""
        try:
            text = read_file(Path(self.error_file())).decode(errors="replace")
        except OSError:
            return None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith("srun: ")] or lines
        return own[-1][:300] if own else None


def submissions(run: RunDirectory) -> list[Submission]:
    """What was submitted for a run, oldest first; a line with an id replaces the one without."""
    lines = read_lines(run.path / schema.JOBS)
    known = {field.name for field in fields(Submission)}
    whole = [line for line in lines if line.keys() == known]  # what else there is, is none of ours
    return [Submission(**line) for line in {str(line["name"]): line for line in whole}.values()]


def job_in_queue(run: RunDirectory, queue: Queue) -> Submission | None:
    """The newest submission of a run whose job is still in the queue, its id filled in."""
    for submission in reversed(submissions(run)):
        if (job := submission.job(queue)) is not None:
            return replace(submission, job_id=job)
    return None


def write(run: RunDirectory, submission: Submission) -> None:
    """Add a line to the ledger of a run."""
    append_line(run.path / schema.JOBS, vars(submission))
