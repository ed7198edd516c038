"""`atomsweep run …` and `python run.py …`: a choice becomes a run, a set of choices a sweep."""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from atomsweep.processes import leave_when_asked

NAME = "run"
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
    if arguments is None:
        leave_when_asked(signal.SIGINT)
    import hydra
    from omegaconf import DictConfig

    from atomsweep.shipped import CONF, shipped

    if arguments is not None:
        sys.argv = [f"atomsweep {NAME}", *arguments]
    if sys.version_info >= (3, 14):  # Hydra 1.3 gives argparse a help text that is no string
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]

    @hydra.main(version_base="1.3", config_path=str(shipped(CONF)), config_name="config")
    def run_one(cfg: DictConfig) -> float | None:
        from atomsweep.build import UserError
        from atomsweep.launch.one import run
        from atomsweep.tracking.files import DamagedFile, told

        try:
            return run(cfg)
        except (UserError, OSError, DamagedFile) as error:
            sys.exit(f"error: {told(error)}")

    run_one()


def _candidates(prefix: str, **_: Any) -> list[str]:
    """What may stand where `prefix` was begun: groups, options, keys, as Hydra knows them."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.utils import create_automatic_config_search_path
    from hydra.core.plugins import Plugins

    from atomsweep.shipped import CONF, shipped

    Plugins.instance()
    path = create_automatic_config_search_path(None, None, str(shipped(CONF)))
    completion = BashCompletion(ConfigLoaderImpl(config_search_path=path))
    return [str(word) for word in completion._query("config", prefix)]
