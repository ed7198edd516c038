"""`python -m analysis …` is `atomsweep report …`: reports from runs, beside the papers' numbers."""

import sys

from atomsweep.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
