"""`python -m atomsweep evaluate | relax`: trained models at work, from any shell."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atomsweep.build import UserError
from atomsweep.console import to_terminal
from atomsweep.launch.control import plan_of
from atomsweep.launch.plan import plan_path
from atomsweep.sweep.evaluation_settings import KINDS, settings_of
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)


def add_commands(commands: Any) -> None:
    """Enter both into the parser of `python -m atomsweep`."""
    evaluate = commands.add_parser("evaluate", help="evaluate finished runs with their best model")
    evaluate.add_argument("what", help="a run (directory, name or identity), or a sweep")
    evaluate.add_argument("kind", help=" | ".join(KINDS))
    evaluate.add_argument("settings", nargs="*", help="key=value, e.g. fmax=0.05")
    evaluate.add_argument("--again", action="store_true", help="although it is there")
    evaluate.set_defaults(command=_evaluate)

    relax = commands.add_parser("relax", help="relax structures with the best model of a run")
    relax.add_argument("run", help="directory, name or identity")
    relax.add_argument("structures", type=Path, help="any file of structures that ASE reads")
    relax.add_argument("--out", type=Path, help="default: <structures>-relaxed.extxyz")
    relax.add_argument("--fmax", type=float, default=0.05, help="eV/Å, default 0.05")
    relax.add_argument("--steps", type=int, default=200, help="at most, default 200")
    relax.add_argument("--maxstep", type=float, default=0.2, help="Å, default 0.2")
    relax.add_argument("--batch-size", type=int, default=32, help="structures at once, default 32")
    relax.add_argument("--trajectories", type=Path, help="folder for every step, <number>.traj")
    relax.set_defaults(command=_relax)
    for command in (evaluate, relax):
        command.add_argument("--device", help="of torch, e.g. cuda; default: the run's, or a GPU")
        command.add_argument("--root", type=Path, default=Path("runs"), help="where runs are")


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


def _relax(options: argparse.Namespace) -> int:
    import ase.io

    from atomsweep.data.progress import Progress
    from atomsweep.tasks.relax.lbfgs import LBFGS
    from atomsweep.worker.trained import load

    to_terminal()
    try:
        images = ase.io.read(options.structures, ":")
    except Exception as error:  # ASE's readers raise whatever they meet
        text = str(error) or type(error).__name__
        raise UserError(f"{options.structures} cannot be read as structures: {text}") from error
    out = options.out or options.structures.with_name(f"{options.structures.stem}-relaxed.extxyz")
    if not _writable(out):  # found before anything is relaxed
        raise UserError(
            f"ASE writes no files that end as {out.name}; choose another --out, e.g. relaxed.extxyz"
        )
    model = load(options.run, options.root, options.device)
    try:
        optimizer = LBFGS(maxstep=options.maxstep)
        with Progress("relaxing", "structure", len(images), 0, True) as bar:
            relaxed = model.relax(
                images,
                options.fmax,
                options.steps,
                options.batch_size,
                optimizer,
                options.trajectories,
                lambda: bar.update(1),
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        ase.io.write(temporary, relaxed)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    ends = [str(atoms.info["relaxation"]) for atoms in relaxed]
    for number, end in enumerate(ends):
        if end.startswith("failed"):
            log.error("structure %d %s", number, end)
    failed = sum(end.startswith("failed") for end in ends)
    sys.stdout.write(
        f"{out}: {len(ends)} structures, {ends.count('converged')} converged, "
        f"{ends.count('stopped')} stopped after {options.steps} steps, {failed} failed\n"
    )
    return int(failed > 0)


def _writable(out: Path) -> bool:
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    try:
        return bool(get_ioformat(filetype(str(out), read=False)).can_write)
    except UnknownFileTypeError:
        return False


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
    if (Path(what) / schema.RUN).is_file() or not plan_path(root, what).exists():
        from atomsweep.worker.trained import find_run

        try:
            return [find_run(what, root)]
        except UserError as error:
            raise UserError(f"{error}; nor is it a sweep") from None
    found = [
        RunDirectory.for_identity(root, str(cell["identity"]))
        for cell in plan_of(root, what)["cells"]
    ]
    return [run for run in found if run is not None]
