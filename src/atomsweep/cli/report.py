"""Reports from runs: `atomsweep report <sweep | latest | column=value ...>`."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from atomsweep.console import near_names
from atomsweep.shipped import SWEEPS, shipped
from atomsweep.tracking.files import told
from atomsweep.tracking.find import find_runs

if TYPE_CHECKING:
    import pandas as pd

    from atomsweep.report.read.runs import Runs

MOST_GAPS = 12  # printed; the page has all

EPILOG = """\
what to report on:
  forcenet/table5              a sweep file: its table, launched or not
  all                          every published table, sweep file and sweep, with an index
  latest                       the newest sweep, or run where there is no sweep
  basis_act-1a2b3c             a sweep by its name
  choice.basis=sph,sine ...    runs that have one of these values in each named column

exit codes: 0 done, 1 nothing to report (or, with --strict, something missing or wrong), 2 misuse
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, write, print the table and where the page is; returns the exit code."""
    options = _parser().parse_args(arguments)
    from atomsweep.report.pages.report import Report, build
    from atomsweep.report.pages.study import write_study
    from atomsweep.report.pages.writing import slug, write
    from atomsweep.report.study.report import StudyReport, build_study, study_of

    try:
        runs = _runs(options)
        if options.command == "results":
            return _results(runs, options)
        if options.runs == ["all"]:
            return _all(runs, options)
        if _is_paper_only(runs, options.runs):
            return _published(options.runs[0], options)
        report: StudyReport | Report
        if (study := study_of(runs, options.runs)) is not None:
            report = build_study(runs, study)
            page = write_study(report, options.out or Path("reports") / slug(study))
        else:
            report = build(runs, _chosen(runs, options.runs, options.root or _root()))
            out = options.out or Path("reports") / slug(report.name)
            page = write(report, out)
    except BrokenPipeError:
        raise
    except (LookupError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    print(report.text)
    if report.gaps:
        print("\nWithout a number:")
    for gap in report.gaps[:MOST_GAPS]:
        fill = f"\n    fill it: {gap.command}" if gap.command else ""
        print(f"  {gap.cell}: {gap.state}, {gap.reason}{fill}")
    if len(report.gaps) > MOST_GAPS:
        print(f"  and {len(report.gaps) - MOST_GAPS} more, all on the page")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"\nReport: {page}")
    return 1 if options.strict and not report.complete else 0


def _all(runs: "Runs", options: argparse.Namespace) -> int:
    """A page of every table, whether anything of it has finished or not, and an index."""
    from atomsweep.report.pages.overview import write_all

    out = options.out or Path("reports")
    complete = not runs.problems
    for entry in write_all(runs, out):
        command = f"\n  fill it: {entry.command}" if entry.command else ""
        print(f"{entry.name}: {entry.told}{command}\n  {out / entry.page if entry.page else '-'}")
        complete &= entry.complete
    for problem in runs.problems:
        print(f"problem: {problem}")
    print(f"\nIndex: {out / 'index.html'}")
    return 1 if options.strict and not complete else 0


def _published(name: str, options: argparse.Namespace) -> int:
    """A published table that no sweep file answers."""
    from atomsweep.report.pages.paper import write_paper
    from atomsweep.report.read.published import reference_named
    from atomsweep.report.tables import grids
    from atomsweep.report.tables.printed import printed_of, unanswered_words

    reference = reference_named(name)
    assert reference is not None
    page = write_paper(reference, options.out or Path("reports") / reference.replace(".", "/"))
    shown = printed_of(reference)
    print(f"{shown.heading}\n{shown.cited}\n\n{grids.markdown(shown.grid)}\n{shown.caption}")
    print(f"\n{unanswered_words(reference)}\n\nReport: {page}")
    return 1 if options.strict else 0


def _results(runs: "Runs", options: argparse.Namespace) -> int:
    """Tables of several sweeps as one page and one CSV, to be kept in the repository."""
    from atomsweep.report.pages.results import reports_of, write_results

    found = reports_of(runs, options.names)
    names = " ".join(options.names)
    title = options.title or f"Results of {names}"
    told = " --without-times" if options.without_times else ""
    command = f"python -m analysis results {names}{told} --out {options.out}"
    times = not options.without_times
    for path in write_results(found, title, command, options.out, options.note, times):
        print(path)
    return 1 if options.strict and not all(one.complete for one in found) else 0


def _is_paper_only(runs: "Runs", words: Sequence[str]) -> bool:
    """Whether a published table is meant that neither a sweep nor a sweep file answers."""
    from atomsweep.report.read.asked import known_files
    from atomsweep.report.read.published import reference_named

    known = {*runs.sweeps(), *known_files(runs.files)}
    return len(words) == 1 and words[0] not in known and reference_named(words[0]) is not None


def _runs(options: argparse.Namespace) -> "Runs":
    if options.source == "mlflow":
        from atomsweep.report.read.mirrored import read_mlflow

        uri = options.uri or f"sqlite:///{(options.root or _root()) / 'mlflow.db'}"
        return read_mlflow(uri, options.experiment)
    runs = runs_of(options.root or _root())
    runs.typed = shlex.join([f"root={options.root}"]) if options.root else ""
    return runs


def runs_of(root: Path) -> "Runs":
    """Runs of a root; cells that no launch has planned are found by composing them."""
    from atomsweep.report.read.directories import read_directories

    runs = read_directories(root)
    runs.identities = _identities
    return runs


def _identities(overrides: list[str], axes: Iterable[str]) -> Sequence[str]:
    """As launches have them; Hydra is imported only for a cell that no launch has planned."""
    return _composed()(overrides, axes)


@cache
def _composed() -> Callable[[list[str], Iterable[str]], Sequence[str]]:
    from atomsweep.launch.compose import identities

    return identities()


def _root() -> Path:
    """`runs/` of the present directory, else of this repository: reports work from any shell."""
    here = Path("runs")
    there = shipped(SWEEPS).parent / "runs"
    return there if there.is_dir() and not here.is_dir() else here


def _chosen(runs: "Runs", words: Sequence[str], root: Path) -> "pd.DataFrame":
    if placed := [word for word in words if word.startswith("root=")]:
        raise ValueError(f"{placed[0]} is not read here; say --root {placed[0].partition('=')[2]}")
    if all("=" in word for word in words):
        named = dict(word.split("=", 1) for word in words)
        if len(named) < len(words):
            twice = next(k for k in named if sum(w.startswith(f"{k}=") for w in words) > 1)
            raise ValueError(f"{twice} is given twice; type {twice}=<one>,<other> for both")
        return runs.where(named)
    if len(words) > 1:
        raise ValueError(
            f"expected one sweep, or filters such as choice.basis=sph, got {' '.join(words)}"
        )
    try:
        return runs.sweep(words[0])
    except LookupError as error:
        near = near_names(words[0], [run.name for run in find_runs(root)])
        if not near or "did you mean" in str(error):
            raise
        raise LookupError(
            f"there is no sweep {words[0]}; of runs, {near} `atomsweep info <run>` shows one"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atomsweep", description=__doc__)
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
    told = "leave device time out: the machine did other work meanwhile"
    results.add_argument("--without-times", action="store_true", help=told)
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
