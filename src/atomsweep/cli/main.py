# PYTHON_ARGCOMPLETE_OK
"""`atomsweep <command>`: the commands, and what their errors look like."""

import argparse
import os
import sys
from collections.abc import Sequence

from atomsweep.build import UserError
from atomsweep.cli import control, evaluate, gc, info, relax, run, status, sync, watch
from atomsweep.cli.shared import for_a_reader
from atomsweep.launch.control import NoSuchSweep
from atomsweep.tracking.environment import version_of
from atomsweep.tracking.files import DamagedFile, told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    with for_a_reader():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == [run.NAME]:  # Hydra reads what follows, options like -m among it
        run.main(arguments[1:])
        return 0
    if arguments[:1] == ["data"]:
        from atomsweep.cli import data

        return data.main(arguments[1:])
    if arguments[:1] in (["report"], ["results"]):
        from atomsweep.cli import report

        return report.main(arguments)
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except BrokenPipeError:  # an OSError, and no fault of a command
        raise
    except (UserError, NoSuchSweep, OSError, RuntimeError, DamagedFile) as error:
        print(f"atomsweep {options.name}: {told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomsweep",
        description="Choices become runs, runs become tables. "
        "`atomsweep <command> --help` tells more of each.",
    )
    version = f"atomsweep {version_of('atomsweep')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="name", required=True, metavar="<command>")
    for module in (run, status, watch, info, control, evaluate, relax, sync, gc):
        module.add(commands)
    for name, about in (
        ("report", "the report of a sweep: its table, beside the paper's, and its page"),
        ("results", "the tables of several sweeps as one page and one CSV, to be kept"),
        ("data", "convert, describe and prepare data sets"),
    ):
        commands.add_parser(name, help=about, add_help=False)
    return parser
