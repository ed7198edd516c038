"""A run made again from its first step: what there was is kept beside it."""

from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

REMADE = (
    schema.EVALUATIONS,
    schema.CHECKPOINTS,
    schema.JOURNAL,
    schema.SEGMENTS,
    schema.STATUS,
    schema.STOP,
    schema.ENVIRONMENT,
    schema.DIFF,
    schema.LOG,
    schema.PREDICTIONS,
    schema.RESULT,  # last: until then the run is finished
)
"""What a training leaves, in the order in which it may be moved away."""


def restart(run: RunDirectory) -> None:
    """Queue the run again from its first step; what there was is kept in `earlier/<n>/`.

    Raises:
        RunLocked: a process works on it.
    """
    with run.lock():
        number = 1
        while (aside := run.path / schema.EARLIER / str(number)).exists():
            number += 1
        aside.mkdir(parents=True)
        for name in REMADE:
            if (run.path / name).exists():
                (run.path / name).rename(aside / name)
        run.reset_status()
