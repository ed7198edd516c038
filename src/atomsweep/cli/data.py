"""`atomsweep data`: convert files, describe them, fit a normaliser."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atomsweep.console import to_terminal
from atomsweep.processes import leaving_when_asked
from atomsweep.tracking.files import told, write_atomic
from atomsweep.tracking.lock import exclusive

if TYPE_CHECKING:
    from atomsweep.data.dataset import OnError
    from atomsweep.data.formats.sane import Said
    from atomsweep.data.frames import Labels
    from atomsweep.data.store.parts import Conversion, Report

MOST_READERS = 16  # processes of describe: each imports for seconds

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did, 1 and one sentence if not, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    to_terminal()
    try:
        with leaving_when_asked(signal.SIGTERM):
            options.command(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from atomsweep.data.store.groups import SPLIT_BY
    from atomsweep.units import ENERGY_UNITS, FORCE_UNITS

    parser = argparse.ArgumentParser(prog="atomsweep data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def reads_files(command: argparse.ArgumentParser) -> None:
        command.add_argument("path", help="file, directory or glob pattern")
        command.add_argument(
            "--labels", default="energy,forces", help="what every frame must carry; none for none"
        )
        command.add_argument("--energy-unit", choices=list(ENERGY_UNITS), help="default: eV")
        command.add_argument(
            "--force-unit", choices=list(FORCE_UNITS), help="default: energy unit per Å"
        )
        command.add_argument(
            "--max-force", type=float, default=50.0, help="eV/Å; 0 keeps all frames"
        )
        command.add_argument("--energy-key", default="energy", help="name of the energy in files")
        command.add_argument("--forces-key", default="forces", help="name of the forces in files")

    one = commands.add_parser("convert", help="files of any kind to one native store")
    reads_files(one)
    one.add_argument("out", type=Path, help="the store, .lmdb")
    one.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    one.add_argument("--skip-bad", action="store_true", help="leave out frames that are unusable")
    one.add_argument(
        "--neighbors", type=float, metavar="CUTOFF", help="store neighbour lists up to CUTOFF Å"
    )
    one.add_argument("--max-neighbors", type=int, default=50, help="for each atom; 0 keeps all")
    one.add_argument("--linear-references", help="file with an energy for each element")
    one.add_argument("--licence", default="not stated", help="of the files, kept in the store")
    one.set_defaults(command=_convert)

    one = commands.add_parser("describe", help="what is in files or stores, and a plot")
    reads_files(one)
    one.add_argument("--plot", type=Path, help="default: <name>.png here")
    one.set_defaults(command=_describe)

    one = commands.add_parser("fit-normalizer", help="statistics of a training split, beside it")
    one.add_argument("store", type=Path, help="the store of the training split")
    one.add_argument("--val-fraction", type=float, default=0.0, help="as in the config, left out")
    one.add_argument("--split-by", choices=SPLIT_BY, default="auto", help="as in the config")
    one.add_argument("--seed", type=int, default=0, help="as in the config")
    one.set_defaults(command=_fit_normalizer)
    return parser


def _labels(text: str) -> Labels:
    known: Labels = ("energy", "forces")
    named = [part for part in text.split(",") if part not in ("", "none")]
    if unknown := set(named) - set(known):
        raise ValueError(f"--labels takes energy and forces, got {', '.join(sorted(unknown))}")
    return tuple(label for label in known if label in named)


def _convert(options: argparse.Namespace) -> None:
    from atomsweep.data.formats.sane import check_first
    from atomsweep.data.source import Provenance
    from atomsweep.data.store.convert import convert
    from atomsweep.data.store.dataset import StoreDataset
    from atomsweep.data.structure import DataError

    out: Path = options.out
    conversion, files, said = _wanted(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(conversion, files, said, out.parent)
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    parts = out.with_name(f"{out.name}.parts-{fingerprint}")
    source = Provenance(
        f"{files[0].name}{more}", options.licence, "converted from the user's files"
    )
    with exclusive(out.with_name(f"{out.name}.lock"), math.inf):
        if out.exists() and StoreDataset(out).meta["fingerprint"] == fingerprint:
            shutil.rmtree(parts, ignore_errors=True)  # of one that was killed at its very end
            _check(out, conversion, said)
            log.info("%s is there already, made from the same files in the same way", out)
            return
        with _in_options():
            check_first(conversion.reader, files[0], conversion.max_force, said, str(files[0]))
        report = convert(
            conversion,
            files,
            out,
            parts,
            fingerprint,
            {"provenance": source.as_dict()},
            workers=options.workers,
        )
        try:
            _check(out, conversion, said)
        except DataError:
            out.unlink()
            raise
    _tell(out, report)


def _wanted(options: argparse.Namespace) -> tuple[Conversion, list[Path], Said]:
    """What the options ask for, the files that are read, and what is said of their units.

    Raises:
        ValueError: options that cannot be meant.
    """
    from atomsweep.data.formats.known import open_files
    from atomsweep.data.formats.sane import Said
    from atomsweep.data.store.parts import Conversion
    from atomsweep.graph.neighbors import RadiusGraph

    out: Path = options.out
    if out.suffix != ".lmdb":
        raise ValueError(f"the store must end in .lmdb, got {out}")
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    reader, found = open_files(
        options.path,
        _labels(options.labels),
        options.linear_references,
        options.energy_key,
        options.forces_key,
    )
    if out.resolve() in [file.resolve() for file in found.files]:
        raise ValueError(f"{out} is what is read; name another file")
    graph = None
    if options.neighbors is not None:
        graph = RadiusGraph(options.neighbors, options.max_neighbors or None)
    on_error: OnError = "skip" if options.skip_bad else "raise"
    said = Said(options.energy_unit, options.force_unit)
    conversion = Conversion(reader, options.max_force or None, on_error, graph, said.units)
    return conversion, found.files, said


def _fingerprint(conversion: Conversion, files: list[Path], said: Said, root: Path) -> str:
    """Of the files and of how they are read, by which a store is found to be there already."""
    from atomsweep.data.filehash import content_hash

    reader, graph = conversion.reader, conversion.graph
    how = [
        {**reader.settings(), **said.units.settings()},
        conversion.max_force,
        conversion.on_error,
        [graph.cutoff, graph.max_neighbors] if graph is not None else None,
        content_hash([*files, *(s for file in files for s in reader.beside(file))], root),
    ]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:12]


def _check(out: Path, conversion: Conversion, said: Said) -> None:
    """Refuse a store whose numbers are not in eV.

    Raises:
        DataError: as of `check_numbers`.
    """
    from atomsweep.data.formats.sane import check_numbers
    from atomsweep.data.store.dataset import StoreDataset

    store = StoreDataset(out)
    filtered = store.meta["conversion"]["filtered"]
    with _in_options():
        check_numbers(store, filtered, conversion.max_force, said, str(out))


@contextmanager
def _in_options() -> Iterator[None]:
    """Questions about keys of a config become those about options of this command."""
    from atomsweep.data.structure import DataError

    try:
        yield
    except DataError as error:
        told = re.sub(r"(data\.max_force=\S+), or null,", r"\1, or 0,", str(error))
        told = re.sub(r"data\.(\w+)=", lambda key: f"--{key[1].replace('_', '-')} ", told)
        raise DataError(told) from None


def _tell(out: Path, report: Report) -> None:
    log.info("%s: %d frames, %.1f MB", out, report.frames, out.stat().st_size / 1e6)
    log.info("skipped %d, filtered %d", len(report.skipped), report.filtered)
    for rule, count in report.tags.items():
        log.info("tags of %d frames: %s", count, rule)


def _describe(options: argparse.Namespace) -> None:
    from atomsweep.data.formats.describe import as_text, describe
    from atomsweep.data.formats.find import summary
    from atomsweep.data.formats.known import open_files
    from atomsweep.data.formats.sane import Said

    labels = _labels(options.labels)
    reader, there = open_files(
        options.path,
        labels,
        energy_key=options.energy_key,
        forces_key=options.forces_key,
    )
    files = there.files
    said = Said(options.energy_unit, options.force_unit)
    workers = min(MOST_READERS, len(os.sched_getaffinity(0)))
    found = describe(reader, files, options.max_force or None, said, workers, progress=True)
    beside = {other for file in files for other in reader.beside(file)}
    left_out = {path: why for path, why in there.left_out.items() if path not in beside}
    found.left_out = summary(left_out) or "none"
    print(f"{options.path}: {type(reader).__name__}, {len(files)} file(s)")
    print(as_text(found.report()))
    name = Path(options.path).name.replace("*", "_")
    plot = options.plot if options.plot is not None else Path(f"{Path(name).stem}.png")
    found.plot(plot, options.path)
    print(f"plot: {plot}")


def _fit_normalizer(options: argparse.Namespace) -> None:
    import numpy as np

    from atomsweep.data.batches.statistics import label_statistics
    from atomsweep.data.dataset import StructureDataset, Subset
    from atomsweep.data.store.dataset import StoreDataset
    from atomsweep.data.store.groups import held_out_frames
    from atomsweep.data.structure import DataError

    path: Path = options.store
    if path.is_dir():
        path = path / "train.lmdb"
    if path.stem.startswith(("val", "test")):
        raise ValueError(f"{path} is not a training split; statistics are fitted to that alone")
    store = StoreDataset(path)
    chosen: StructureDataset = store
    if options.val_fraction:
        if not 0.0 < options.val_fraction < 1.0:
            raise DataError(f"--val-fraction must be in [0, 1), got {options.val_fraction}")
        held_out = held_out_frames(
            store, options.val_fraction, options.split_by, options.seed, str(path)
        )
        chosen = Subset(store, np.flatnonzero(~held_out))
    if not len(chosen):
        raise DataError(f"{path} has no frame to fit a normaliser to")
    if not (store.has_energy or store.has_forces):
        raise DataError(f"{path} carries neither energies nor forces")
    frames = {"frames": len(chosen), "store": path.name}
    found = {**frames, **label_statistics(chosen)}
    out = path.with_suffix(".normalizer.json")
    write_atomic(out, json.dumps(found, indent=1))
    for name in ("energy", "energy_minus_references", "forces"):
        if name in found:
            print(f"{name}: mean {found[name]['mean']:.6f}, std {found[name]['std']:.6f} eV")
    print(f"{out}: {found['frames']} of {len(store)} frames")


if __name__ == "__main__":
    sys.exit(main())
