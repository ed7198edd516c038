"""`python -m atomsweep …` is `atomsweep …`."""

import sys

from atomsweep.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
