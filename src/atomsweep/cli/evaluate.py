"""`atomsweep evaluate`: finished runs measured with their best model."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atomsweep.build import UserError
from atomsweep.cli.shared import add_root
from atomsweep.console import to_terminal
from atomsweep.launch.control import plan_of
from atomsweep.launch.plan import is_planned
from atomsweep.sweep.evaluation_settings import KINDS, settings_of
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.state import state_of

log = logging.getLogger(__name__)

DEVICE = "of torch, e.g. cuda; default: the run's, or a GPU"


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    evaluate = commands.add_parser("evaluate", help="evaluate finished runs with their best model")
    evaluate.add_argument("what", help="a run (directory, name or identity), or a sweep")
    evaluate.add_argument("kind", help=" | ".join(KINDS))
    evaluate.add_argument("settings", nargs="*", help="key=value, e.g. fmax=0.05")
    evaluate.add_argument("--again", action="store_true", help="although it is there")
    evaluate.add_argument("--device", help=DEVICE)
    evaluate.set_defaults(command=_evaluate)
    add_root(evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    given = parsed(options.settings)
    settings_of(options.kind, given)  # a wrong word is found before torch is imported
    from atomsweep.worker.evaluate.runner import evaluate

    to_terminal()
    failed = 0
    for run in _runs(options.what, options.root):
        if run.result is None:
            log.info("%s: %s, left out", run.name, run.state())
            continue
        if state_of(run) == schema.STALE:
            log.warning("%s: its weights are of other code than the present (stale)", run.name)
        try:
            found = evaluate(run, options.kind, given, options.device, options.again)
        except UserError:
            raise
        except Exception as error:
            log.error("%s: %s: %s", run.name, type(error).__name__, error)
            failed += 1
            continue
        sys.stdout.write(f"{run.name}\n")
        for name, value in {**found["metrics"], **found.get("notes", {})}.items():
            told = f"{value:.5g}" if isinstance(value, float) else value
            sys.stdout.write(f"  {name:36} {told}\n")
    return int(failed > 0)


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as settings, values read as YAML; a dotted key goes deeper.

    Raises:
        UserError: a word without `=`, or a value that is no YAML.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"settings are written key=value, got {word!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"the value of {key} cannot be read: {text!r}") from error
        first, _, rest = key.partition(".")
        if rest:
            inner = found.setdefault(first, {})
            if not isinstance(inner, Mapping):
                raise UserError(f"{first} is set twice, as a value and by {key}")
            found[first] = {**inner, rest: value}
        else:
            found[key] = value
    return found


def _runs(what: str, root: Path) -> list[RunDirectory]:
    """Runs of a sweep, in the plan's order, or the one run of that name."""
    if (Path(what) / schema.RUN).is_file() or not is_planned(root, what):
        from atomsweep.tracking.find import find_run

        try:
            return [find_run(what, root)]
        except UserError as error:
            raise UserError(f"{what} is no sweep, and {error}") from None
    found = [
        RunDirectory.for_identity(root, str(cell["identity"]))
        for cell in plan_of(root, what)["cells"]
    ]
    return [run for run in found if run is not None]
