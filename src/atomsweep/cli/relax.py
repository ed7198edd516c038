"""`atomsweep relax`: structures relaxed with the best model of a run."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.evaluate import DEVICE
from atomsweep.cli.shared import add_root
from atomsweep.console import to_terminal

log = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    relax = commands.add_parser("relax", help="relax structures with the best model of a run")
    relax.add_argument("run", help="directory, name or identity")
    relax.add_argument("structures", type=Path, help="any file of structures that ASE reads")
    relax.add_argument("--out", type=Path, help="default: <structures>-relaxed.extxyz")
    relax.add_argument("--fmax", type=float, default=0.05, help="eV/Å, default 0.05")
    relax.add_argument("--steps", type=int, default=200, help="at most, default 200")
    relax.add_argument("--maxstep", type=float, default=0.2, help="Å, default 0.2")
    relax.add_argument("--batch-size", type=int, default=32, help="structures at once, default 32")
    relax.add_argument("--trajectories", type=Path, help="folder for every step, <number>.traj")
    relax.add_argument("--device", help=DEVICE)
    relax.set_defaults(command=_relax)
    add_root(relax)


def _relax(options: argparse.Namespace) -> int:
    import ase.io

    from atomsweep.console import Progress
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
