"""Cells on SLURM through submitit: submit what is missing, watch it, tell how it ended.

The run directories say what became of a cell; the scheduler only says whether a job is still to
come.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from atomsweep.launch import snapshot
from atomsweep.launch.outcome import Display, Feed, Job, Outcome, ends_of, outcome_of
from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm.ledger import Queue, Submission, job_in_queue, submissions
from atomsweep.launch.slurm.queue import SlurmDown, SlurmError
from atomsweep.launch.slurm.settings import SlurmSettings
from atomsweep.launch.slurm.submit import submit
from atomsweep.processes import stopped_in_order
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.lock import exclusive
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0  # between looks at run directories
POLLS_TO_BE_GONE = 3  # NODE_FAIL leaves the queue for a moment before the job comes back
FRUITLESS = 3  # jobs of one cell in a row that come no further, before it is told
POLLS_TO_GIVE_UP = 20  # where accounting goes on to say that a job is alive


def cancel(runs: Sequence[RunDirectory]) -> list[str]:
    """Cancel the jobs of runs, waiting or running; a running one writes a checkpoint first.

    Returns:
        Ids of the jobs.

    Raises:
        SlurmError: SLURM does not answer.
    """
    if not any((run.path / schema.JOBS).exists() for run in runs):
        return []
    queue = slurm_queue.queue()
    found = {run.path: job_in_queue(run, queue) for run in runs}
    jobs = [job.job_id for job in found.values() if job is not None and job.job_id is not None]
    slurm_queue.scancel(jobs)
    for run in runs:  # one that runs writes itself how it ended
        if found[run.path] is not None and run.state() == schema.QUEUED:
            run.update_status(state=schema.INTERRUPTED, message="cancelled while it waited")
    return jobs


def run_cells_on_slurm(
    runs: Sequence[RunDirectory],
    job: Job,
    settings: SlurmSettings,
    display: Display,
    feed: Feed | None = None,
    code: snapshot.Snapshot | None = None,
) -> dict[Path, Outcome]:
    """Run `job` on every run directory that is not finished, as jobs of SLURM.

    Cells whose job is in the queue already are adopted, and those at work elsewhere waited for.
    With `feed` the runs are those of a study, which has more as they end.

    Returns:
        How each cell ended; with `settings.wait` false how it stands after submission.

    Raises:
        SlurmError: SLURM cannot be asked at all, or accepts none of the cells.
        KeyboardInterrupt: after the jobs were left or cancelled as `on_interrupt` says.
    """
    if not runs and feed is None:
        return {}
    watch = _Watch(runs, job, settings, feed, code)
    try:
        with stopped_in_order() as check:
            watch.reconcile_at_first(list(runs))
            if settings.wait:
                watch.to_the_end(display, check)
            else:
                while watch.fed():
                    check()
    except KeyboardInterrupt:
        watch.interrupted()
        raise
    finally:
        display.close()
    return {run.path: watch.outcomes.get(run.path) or watch.standing(run) for run in watch.runs}


class _Watch:
    """Cells of one launch and their jobs."""

    def __init__(
        self,
        runs: Sequence[RunDirectory],
        job: Job,
        settings: SlurmSettings,
        feed: Feed | None = None,
        code: snapshot.Snapshot | None = None,
    ) -> None:
        self.runs, self.job, self.settings, self.feed = list(runs), job, settings, feed
        self.outcomes: dict[Path, Outcome] = {}
        self.ended: dict[Path, Outcome] = {}  # since the last call of `feed`
        self.jobs: dict[Path, Submission] = {}  # in the queue, as far as is known
        self.elsewhere: list[RunDirectory] = []  # trained by others, or refused for now
        self.absent: dict[Path, int] = {}  # polls in a row that did not find the job
        self.again: dict[Path, int] = {}  # times a cell was submitted anew
        self.released: dict[Path, int] = {}  # times a job was released after a failed launch
        self.queue: Queue = {}
        self.code = code  # one for the launch, whatever is submitted anew
        self.told: set[str] = set()
        self.progress: dict[Path, tuple[float, float]] = {}  # step, and jobs that had begun then
        self.looked: dict[
            Path, list[int]
        ] = {}  # at which change of the directory its state was read
        self.counted: dict[Path, list[int]] = {}  # the same of its jobs that began

    def reconcile_at_first(self, runs: Sequence[RunDirectory]) -> None:
        """As `reconcile`; cells that could not be submitted do not say that they are queued."""
        try:
            self.reconcile(runs)
        except (SlurmError, OSError) as error:
            for run in runs:
                known = submissions(run)  # the scheduler may know a job of an earlier launch
                if not (known and known[-1].job_id) and run.state() == schema.QUEUED:
                    run.update_status(state=schema.INTERRUPTED, message=f"not submitted: {error}")
            raise

    def reconcile(self, runs: Sequence[RunDirectory], anew: Collection[Path] = ()) -> None:
        """Adopt what is queued, submit what is missing. One launch of a root at a time does so.

        What ended in `anew` is submitted though its old job may still be leaving the queue.
        """
        if not runs:
            return
        root = runs[0].path.absolute().parent
        with exclusive(root / ".slurm.lock", wait_s=600.0):
            self.queue = slurm_queue.queue()
            missing = []
            for run in runs:
                state = evaluations.standing(run)
                if state in self.good_ends:
                    self.outcomes[run.path] = self.ended[run.path] = Outcome(state)
                elif run.path not in anew and (found := job_in_queue(run, self.queue)) is not None:
                    self.jobs[run.path] = found
                elif evaluations.standing(run) == schema.RUNNING:
                    self.elsewhere.append(run)
                else:
                    missing.append(run)
            adopted = sum(run.path in self.jobs for run in runs)
            try:
                if missing and self.code is None:
                    self.code = snapshot.take(root)
                if self.code is not None:
                    self.jobs |= submit(missing, self.job, self.settings, self.code.folder)
            except SlurmError as error:
                queue = slurm_queue.queue()
                submitted = {run.path: job_in_queue(run, queue) for run in missing}
                self.jobs |= {path: job for path, job in submitted.items() if job is not None}
                refused = [run for run in missing if run.path not in self.jobs]
                for run in refused:  # it is in no queue
                    run.update_status(state=schema.INTERRUPTED, message=str(error))
                if not self.jobs or not self.settings.wait:
                    raise SlurmError(f"{error}; {len(missing) - len(refused)} are queued") from None
                self.elsewhere += refused
                self.say_once("%s; tried again as jobs end", error)
        if missing or adopted:
            log.info("SLURM: %d cells submitted, %d already queued", len(missing), adopted)

    def to_the_end(self, display: Display, check: Callable[[], None]) -> None:
        """Look at run directories often and ask the scheduler now and then, until all ended."""
        polled = time.monotonic()
        while self.fed() or self.jobs or self.elsewhere:
            check()
            self.take_results()
            running = [r for r in self.runs if r.path in self.jobs and self.runs_now(r)]
            display.update(running, len(self.outcomes), len(self.runs))
            if time.monotonic() - polled >= self.settings.poll_s:
                polled = time.monotonic()
                self.poll()
            if self.jobs or self.elsewhere:
                time.sleep(TICK_SECONDS)

    @property
    def good_ends(self) -> tuple[str, ...]:
        """States after which nothing is to be done; a sweep goes on with what a study stopped."""
        return ends_of(self.feed)

    def fed(self) -> bool:
        """Submit what a study wants next; whether there was something."""
        if self.feed is None:
            return False
        ended, self.ended = self.ended, {}
        more = list(self.feed(ended))
        known = {run.path for run in self.runs}
        self.runs += [run for run in more if run.path not in known]
        for run in more:
            self.outcomes.pop(run.path, None)
        try:
            self.reconcile(more, anew=known)
        except SlurmDown as error:
            if not self.settings.wait:
                raise
            self.elsewhere += more
            self.say_once("%s; asking again", error)
        return bool(more or self.ended)

    def runs_now(self, run: RunDirectory) -> bool:
        """Whether its job was running when the scheduler was asked last."""
        job = self.queue.get(self.jobs[run.path].job_id or "")
        return job is not None and job.state == "RUNNING"

    def take_results(self) -> None:
        """Outcomes of cells whose directory says how they ended.

        That of a cell whose job waits is read where something has changed in it, by others.
        """
        for run in self.runs:
            if run.path not in self.jobs:
                continue
            under_way = self.runs_now(run) or self.absent.get(run.path, 0) > 0
            if not _changed(run, self.looked) and not under_way:
                continue
            if evaluations.standing(run) in (*self.good_ends, schema.FAILED):
                self.settle(run, outcome_of(run))

    def settle(self, run: RunDirectory, outcome: Outcome) -> None:
        """A cell has ended."""
        self.jobs.pop(run.path)
        self.outcomes[run.path] = self.ended[run.path] = outcome

    def standing(self, run: RunDirectory) -> Outcome:
        """How a cell stands that has not ended: its job, or that it trains elsewhere."""
        if run.path in self.jobs:
            return Outcome(run.state(), f"job {self.jobs[run.path].job_id}")
        return Outcome(run.state(), "no job of ours; a process elsewhere works on it")

    def poll(self) -> None:
        """One question to the scheduler for all jobs."""
        try:
            self.queue = slurm_queue.queue()
        except SlurmError as error:
            self.say_once("%s; the jobs go on, asking again", error)
            return
        self.free_held()
        self.tell_of_requeues()
        for path, submission in self.jobs.items():
            found = submission.job(self.queue) is not None
            self.absent[path] = 0 if found else self.absent.get(path, 0) + 1
        gone = [r for r in self.runs if self.absent.get(r.path, 0) >= POLLS_TO_BE_GONE]
        gone = [run for run in gone if run.path in self.jobs]
        again = self.end_of(gone) if gone else []
        self.elsewhere, waiting = [], [*again, *self.elsewhere]
        if waiting:
            try:
                self.reconcile(waiting)
            except SlurmDown as error:  # between two questions
                self.elsewhere = waiting
                self.say_once("%s; asking again", error)

    def tell_of_requeues(self) -> None:
        """Name cells whose jobs begin again and again and come no further."""
        for run in self.runs:
            if run.path not in self.jobs or not _changed(run, self.counted):
                continue
            status = run.status
            step, begun = status.get("step") or 0, status.get("requeues") or 0
            begun = max(begun, len(run.segments()))
            furthest, before = self.progress.get(run.path, (-1, 0))
            if step > furthest:
                self.progress[run.path] = step, begun
            elif begun - before >= FRUITLESS:
                self.progress[run.path] = step, begun
                log.warning(
                    "%s: %d jobs in a row came no further than step %d; raise cluster.time_min or "
                    "lower engine.checkpoint_every, and see %s",
                    run.name,
                    begun - before,
                    furthest,
                    self.jobs[run.path].error_file(),
                )

    def free_held(self) -> None:
        """Release jobs that SLURM holds for a node's fault; name those that wait for a person."""
        for path, mine in self.jobs.items():
            known = self.queue.get(mine.job_id or "")
            if known is None or not known.stuck:
                continue
            tries = self.released.get(path, 0)
            if slurm_queue.LAUNCH_FAILED in known.reason and tries < self.settings.resubmit:
                self.released[path] = tries + 1
                try:
                    slurm_queue.release(mine.job_id or "")
                    log.info("job %s could not be launched on its node; released", mine.job_id)
                    continue
                except SlurmError as error:
                    log.debug("%s", error)
            self.say_once("job %s waits for somebody: %s", mine.job_id, known.reason)

    def end_of(self, runs: Sequence[RunDirectory]) -> list[RunDirectory]:
        """Settle cells whose jobs have left the queue; returns those to be submitted anew."""
        states = slurm_queue.final_states([self.jobs[run.path].job_id or "" for run in runs])
        self.take_results()  # of the time since the last look
        again = []
        for run in runs:
            if run.path not in self.jobs:
                continue
            submission = self.jobs[run.path]
            state = states.get(submission.job_id or "", "UNKNOWN")
            if state in slurm_queue.NOT_FINAL and self.absent[run.path] < POLLS_TO_GIVE_UP:
                continue
            blameless = state in slurm_queue.NOT_ITS_FAULT or (
                state != "CANCELLED" and run.status.get("state") == schema.INTERRUPTED
            )
            self.absent[run.path] = 0
            tries = self.again.get(run.path, 0)
            if blameless and tries < self.settings.resubmit:
                log.info(
                    "%s: job %s ended as %s; submitted anew", run.name, submission.job_id, state
                )
                self.again[run.path] = tries + 1
                del self.jobs[run.path]
                again.append(run)
                continue
            word = submission.last_word()
            message = (
                f"job {submission.job_id} ended ({state}) and the cell did not finish"
                f"{f', its last word: {word}' if word else ''}; see "
                f"{submission.error_file()}; the same command continues it"
            )
            run.update_status(state=schema.INTERRUPTED, message=message)
            self.settle(run, Outcome(schema.INTERRUPTED, message))
        return again

    def interrupted(self) -> None:
        """Leave or cancel the jobs."""
        mine = [run for run in self.runs if run.path in self.jobs]
        if self.settings.on_interrupt == "cancel":
            log.info("cancelled %d jobs", len(cancel(mine)))
        elif mine:
            log.info("%d jobs are left in SLURM; the same command takes them up", len(mine))

    def say_once(self, message: str, *arguments: Any) -> None:
        """A warning, not repeated."""
        text = message % arguments
        if text not in self.told:
            self.told.add(text)
            log.warning("%s", text)


def _changed(run: RunDirectory, known: dict[Path, list[int]]) -> bool:
    """Whether a file of a run was made or replaced since the last call."""
    places = (run.path, run.path / schema.EVALUATIONS)
    changed = [place.stat().st_mtime_ns for place in places if place.exists()]
    before, known[run.path] = known.get(run.path), changed
    return before != changed
