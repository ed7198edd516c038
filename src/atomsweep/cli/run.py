"""`atomsweep run …` and `python run.py …`: a choice becomes a run, a set of choices a sweep."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from atomsweep.cli.shared import for_a_reader
from atomsweep.cli.usage import usage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from atomsweep.launch.typed import Vocabulary

NAME = "run"
FULL_ERROR = "HYDRA_FULL_ERROR"
EPILOG = """\
  atomsweep run                                         one run
  atomsweep run basis=gauss act=tanh                    another choice
  atomsweep run -m basis=sph,sine act=swish,relu        a sweep; again: only what is missing
  atomsweep run sweeps=forcenet/table5 plan=true        a published table: its cells, planned
  atomsweep run --help                                  all groups and their options
"""


def add(commands: Any) -> None:
    """Enter the command into the parser, for its help and for completion; `main` runs it."""
    parser = commands.add_parser(
        NAME,
        help="train: one run, a sweep, a published table or a study",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="a sweep over what is listed")
    overrides = parser.add_argument("overrides", nargs="*", help="group=option or key=value")
    overrides.completer = _candidates


def main(arguments: Sequence[str] | None = None) -> None:
    """Compose → preflight → train; the groups of this folder's `conf/` come before the shipped.

    Args:
        arguments: words after `run`; None takes those of the process.
    """
    with for_a_reader():
        _main(arguments)


@dataclass(frozen=True)
class Task:
    """What Hydra calls for one run. A sweeper does not call it, but composes `words` into cells.

    Hydra applies what it reads to a config of its own, which is no cell's: it has no key that only
    an option of the sweep brings, `data.path` of `-m data=md17,rmd17`. So it does not read them.

    Attributes:
        words: all that was typed, of a sweep.
    """

    words: Sequence[str] = ()

    def __call__(self, cfg: "DictConfig") -> float | None:
        """Train the one run that `cfg` describes; exits with a sentence where that is no run."""
        if self.words:
            sys.exit(
                "error: hydra.mode=RUN asks for one run, and -m or sweeps=… for many; leave one out"
            )
        return _run(cfg)


def _main(arguments: Sequence[str] | None) -> None:
    from hydra import version
    from hydra._internal.utils import _run_hydra, get_args_parser
    from hydra.errors import HydraException

    from atomsweep.build import UserError
    from atomsweep.launch.typed import CONFIG, told
    from atomsweep.shipped import CONF, shipped

    if arguments is not None:
        sys.argv = [f"atomsweep {NAME}", *arguments]
    whole = os.environ.get(FULL_ERROR)  # somebody looks for a fault: tracebacks as they are
    try:
        typed = _typed()
    except UserError as error:
        sys.exit(f"error: {error}")
    if typed is None:
        return
    flags, words, known = typed
    sys.argv[1:] = [*flags, *words]
    os.environ[FULL_ERROR] = "1"  # errors reach us, not only Hydra's words about them
    parser = get_args_parser()
    options = parser.parse_args(sys.argv[1:])
    task = Task()
    if _is_sweep(words, options):
        task = Task(words)
        options.overrides = [word for word in words if not _is_of_cells(word)]
    try:
        version.setbase("1.3")
        _run_hydra(options, parser, task, str(shipped(CONF)), CONFIG)
    except HydraException as error:
        if whole:
            raise
        sys.exit(f"error: {told(error, words, known)}")
    finally:
        if not whole:
            del os.environ[FULL_ERROR]


def _typed() -> "tuple[list[str], list[str], Vocabulary] | None":
    """Options and overrides for Hydra, checked, and what can be typed; None where help was wanted.

    Raises:
        UserError: there is no such option, group, choice or key.
    """
    from atomsweep.console import MANY
    from atomsweep.launch.own_data import with_task
    from atomsweep.launch.typed import checked, found_options, num_cells, vocabulary

    flags, words, options = _read(sys.argv[1:])
    more = [Path(options.config_dir)] if options.config_dir else []
    known = vocabulary([*more, found_options(words)])
    if options.help and words != ["all"]:
        print(usage(known.groups))
        return None
    if options.help:
        words = []
    elif not options.shell_completion:
        typed = checked(words, known, options.multirun)
        words = with_task(typed, known)
        for word in words[len(typed) :]:
            print(f"{word}, by the labels of your data", file=sys.stderr)
        if options.multirun and (cells := num_cells(words)) >= MANY:
            print(f"{cells} cells: reading what they choose", file=sys.stderr, flush=True)
    return flags, words, known


def _is_sweep(words: Sequence[str], options: argparse.Namespace) -> bool:
    """Whether Hydra is to call a sweeper, and not to show its config."""
    from atomsweep.shipped import SWEEPS
    from atomsweep.sweep.file import key_of

    many = {SWEEPS, "hydra.mode"} & {key_of(word) for word in words if word != "hydra.mode=RUN"}
    return bool(options.multirun or many) and not (options.cfg or options.info)


def _is_of_cells(word: str) -> bool:
    """Whether a word sets a value that an option brings; which option is chosen Hydra must know."""
    from atomsweep.sweep.file import key_of
    from atomsweep.sweep.grid import is_of_launch

    return "." in key_of(word) and not is_of_launch(word)


def _run(cfg: "DictConfig") -> float | None:
    from atomsweep.build import UserError
    from atomsweep.launch.one import run
    from atomsweep.tracking.files import DamagedFile, told

    try:
        return run(cfg)
    except BrokenPipeError:
        raise
    except (UserError, OSError, DamagedFile) as error:
        sys.exit(f"error: {told(error)}")


def _read(arguments: Sequence[str]) -> tuple[list[str], list[str], argparse.Namespace]:
    """Options and overrides, which may stand in any order, and what Hydra makes of the options.

    Raises:
        UserError: there is no such option.
    """
    from hydra._internal.utils import get_args_parser

    from atomsweep.build import UserError

    if sys.version_info >= (3, 14):  # Hydra 1.3 gives argparse a help text that is no string
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help shows what can be typed")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(list(arguments))
    if options.experimental_rerun is not None:
        refuse(
            "--experimental-rerun does nothing here: `atomsweep retry` and the same command do it"
        )
    words = list(options.overrides)
    flags = [word for word in arguments if word not in words]
    return flags, words, options


def _candidates(prefix: str, **_: Any) -> list[str]:
    """What may stand where `prefix` was begun: groups, options, keys, as Hydra knows them."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    from atomsweep.launch.typed import CONFIG, make_loader

    completion = BashCompletion(make_loader())
    return [str(word) for word in completion._query(CONFIG, prefix)]
