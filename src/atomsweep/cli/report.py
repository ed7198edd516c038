"""Reports from runs: `python -m analysis report <sweep | latest | column=value ...>`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atomsweep.shipped import SWEEPS, shipped

if TYPE_CHECKING:
    import pandas as pd

    from atomsweep.report.read.runs import Store

MOST_GAPS = 12  # printed; the page has all

EPILOG = """\
what to report on:
  forcenet/table5              a sweep file: its table, launched or not
  all                          every published table, sweep file and sweep, with an index
  latest                       the newest sweep
  basis_act-1a2b3c             a sweep by its name
  choice.basis=sph,sine ...    runs that have one of these values in each named column

exit codes: 0 done, 1 nothing to report (or, with --strict, something missing or wrong), 2 misuse
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, write, print the table and where the page is; returns the exit code."""
    options = _parser().parse_args(arguments)
    from atomsweep.report.pages import report as reports
    from atomsweep.report.pages import writing
    from atomsweep.report.study import numbers as hpo

    try:
        store = _store(options)
        if options.command == "results":
            return _results(store, options)
        if options.runs == ["all"]:
            return _all(store, options)
        if _is_paper_only(store, options.runs):
            return _published(options.runs[0], options)
        report: hpo.StudyReport | reports.Report
        if (study := hpo.study_of(store, options.runs)) is not None:
            report = hpo.build(store, study)
            page = hpo.write(report, options.out or Path("reports") / writing.slug(study))
        else:
            report = reports.build(store, _chosen(store, options.runs))
            out = options.out or Path("reports") / writing.slug(report.name)
            page = writing.write(report, out)
    except (LookupError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.text)
    if report.gaps:
        print("\nWithout a number:")
    for gap in report.gaps[:MOST_GAPS]:
        print(f"  {gap.cell}: {gap.state}, {gap.reason}\n    fill it: {gap.command}")
    if len(report.gaps) > MOST_GAPS:
        print(f"  and {len(report.gaps) - MOST_GAPS} more, all on the page")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"\nReport: {page}")
    return 1 if options.strict and not report.complete else 0


def _all(store: "Store", options: argparse.Namespace) -> int:
    """A page of every table, whether anything of it has finished or not, and an index."""
    from atomsweep.report.pages.overview import write_all

    out = options.out or Path("reports")
    complete = not store.problems
    for entry in write_all(store, out):
        command = f"\n  fill it: {entry.command}" if entry.command else ""
        print(f"{entry.name}: {entry.told}{command}\n  {out / entry.page if entry.page else '-'}")
        complete &= entry.complete
    for problem in store.problems:
        print(f"problem: {problem}")
    print(f"\nIndex: {out / 'index.html'}")
    return 1 if options.strict and not complete else 0


def _published(name: str, options: argparse.Namespace) -> int:
    """A published table that no sweep file answers."""
    from atomsweep.report.pages import paper
    from atomsweep.report.tables import grids as render

    reference = paper.reference_of(name)
    assert reference is not None
    page = paper.write(reference, options.out or Path("reports") / reference.replace(".", "/"))
    shown = paper.paper_of(reference)
    print(f"{shown.heading}\n{shown.cited}\n\n{render.markdown(shown.grid)}\n{shown.caption}")
    print(f"\n{paper.sentence(reference)}\n\nReport: {page}")
    return 1 if options.strict else 0


def _results(store: "Store", options: argparse.Namespace) -> int:
    """Tables of several sweeps as one page and one CSV, to be kept in the repository."""
    from atomsweep.report.pages import kept as results

    found = results.reports_of(store, options.names)
    names = " ".join(options.names)
    title = options.title or f"Results of {names}"
    command = f"python -m analysis results {names} --out {options.out}"
    for path in results.write_results(found, title, command, options.out, options.note):
        print(path)
    return 1 if options.strict and not all(one.complete for one in found) else 0


def _is_paper_only(store: "Store", words: Sequence[str]) -> bool:
    """Whether a published table is meant that neither a sweep nor a sweep file answers."""
    from atomsweep.report.pages import paper
    from atomsweep.report.read.layout import known_files

    known = {*store.sweeps(), *known_files(store.files)}
    return len(words) == 1 and words[0] not in known and paper.reference_of(words[0]) is not None


def _store(options: argparse.Namespace) -> "Store":
    if options.source == "mlflow":
        from atomsweep.report.read.mirrored import read_mlflow

        uri = options.uri or f"sqlite:///{(options.root or _root()) / 'mlflow.db'}"
        return read_mlflow(uri, options.experiment)
    from atomsweep.report.read.runs import read

    store = read(options.root or _root())
    store.typed = shlex.join([f"root={options.root}"]) if options.root else ""
    return store


def _root() -> Path:
    """`runs/` of the present directory, else of this repository: reports work from any shell."""
    here = Path("runs")
    there = shipped(SWEEPS).parent / "runs"
    return there if there.is_dir() and not here.is_dir() else here


def _chosen(store: "Store", words: Sequence[str]) -> "pd.DataFrame":
    if all("=" in word for word in words):
        return store.where(dict(word.split("=", 1) for word in words))
    if len(words) > 1:
        raise ValueError(
            f"expected one sweep, or filters such as choice.basis=sph, got {' '.join(words)}"
        )
    return store.sweep(words[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser(
        "report",
        help="write the report of a sweep and print its table",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("runs", nargs="+", help="a sweep, latest, or column=value ...")
    results = commands.add_parser(
        "results", help="write the tables of several sweeps as one page and one CSV"
    )
    told = "sweeps, or folders of sweep files such as forcenet"
    results.add_argument("names", nargs="+", help=told)
    results.add_argument("--title", help="heading of the page")
    results.add_argument("--note", help="what a reader must know of how the runs were made")
    for command in (report, results):
        command.add_argument("--root", type=Path, help="directory of the runs (runs)")
        told = "directory to write to (reports/<sweep>)" if command is report else "page to write"
        command.add_argument("--out", type=Path, required=command is results, help=told)
        command.add_argument(
            "--strict", action="store_true", help="exit 1 where something is missing or wrong"
        )
        command.add_argument(
            "--from",
            dest="source",
            choices=("runs", "mlflow"),
            default="runs",
            help="where to read",
        )
        command.add_argument("--uri", help="MLflow store to read (that of --root)")
        command.add_argument("--experiment", default="atomsweep", help="MLflow experiment to read")
    return parser


if __name__ == "__main__":
    sys.exit(main())
