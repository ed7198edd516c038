"""`python -m analysis report <sweep>`: reads runs, writes a report, prints its table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 where there is nothing to report or `--strict` finds fault."""
    options = _parser().parse_args(arguments)
    from analysis import report as reports
    from analysis import runs

    try:
        store = runs.read(options.root)
        frame = _select(store, options.runs)
        report = reports.build(store, frame)
    except (LookupError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error.args[-1] if error.args else error}\n")
        return 1
    out = options.out or Path("reports") / reports.slug(report.name)
    page = reports.write(report, out)
    sys.stdout.write(f"{report.text}\n\n")
    for gap in report.gaps:
        sys.stdout.write(f"{gap.cell}: {gap.state} ({gap.reason}); fill it with: {gap.command}\n")
    for problem in report.problems:
        sys.stdout.write(f"problem: {problem}\n")
    sys.stdout.write(f"Report: {page}\n")
    return 1 if options.strict and not report.complete else 0


def _select(store, words):
    if all("=" in word for word in words):
        return store.where(dict(word.split("=", 1) for word in words))
    if len(words) > 1:
        raise ValueError(
            f"expected one sweep or filters such as choice.basis=sph, got {' '.join(words)}"
        )
    return store.sweep(words[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="tables, curves and provenance of a sweep")
    report.add_argument("runs", nargs="+")
    report.add_argument("--root", type=Path, default=Path("runs"))
    report.add_argument("--out", type=Path)
    report.add_argument("--strict", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
