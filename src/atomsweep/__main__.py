"""`atomsweep …` and `python -m atomsweep …`."""

import signal
import sys

from atomsweep.interrupts import leave_when_asked


def main() -> int:
    """The command that was typed; Ctrl-C ends it from the first moment on."""
    leave_when_asked(signal.SIGINT)
    from atomsweep.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
