"""Every report at once: a page for each published table, sweep file and sweep, and an index.

A table of which nothing has finished has its page too: the paper's numbers, every cell missing, and
the command that fills it. So has a published table that no sweep file names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atomsweep.report.pages.jinja import render
from atomsweep.report.pages.paper import write_paper
from atomsweep.report.pages.report import Report, build
from atomsweep.report.pages.study import write_study
from atomsweep.report.pages.writing import slug, write
from atomsweep.report.read import published
from atomsweep.report.read.asked import known_files
from atomsweep.report.read.runs import Runs
from atomsweep.report.study.report import build_study, study_of
from atomsweep.report.study.trials import ended
from atomsweep.report.tables.printed import printed_of, unanswered_words
from atomsweep.report.tables.verdicts import EQUAL, FAILS, HOLDS, UNDECIDED
from atomsweep.tracking import schema
from atomsweep.tracking.files import write_atomic

OTHERS = "Other sweeps"
STUDIES = "Studies"


@dataclass(frozen=True)
class Entry:
    """A line of the index.

    Attributes:
        group: title of the paper, or what the others are.
        name: `forcenet/table5`.
        page: its address from the index; empty where there is none.
        answers: the published table that it answers, in words.
        finished: `12 of 36`.
        claims: verdicts.
        told: one paragraph.
        command: what launches the rest; None where nothing is left or nothing does.
        complete: nothing is missing, nothing contradicts.
        begun: something of it has finished.
    """

    group: str
    name: str
    page: str
    answers: str
    finished: str
    claims: str
    told: str
    command: str | None
    complete: bool
    begun: bool = False


def write_all(runs: Runs, out: Path) -> Iterator[Entry]:
    """Write every report below `out`, one by one, then the index, whose entries these are."""
    entries = []
    for entry in _entries(runs, out):
        entries.append(entry)
        yield entry
    papers = [one.title for one in published.papers().values()] + [OTHERS, STUDIES]
    groups = [
        (title, sorted((e for e in entries if e.group == title), key=lambda e: not e.begun))
        for title in papers
    ]
    groups.sort(key=lambda group: not any(e.begun for e in group[1]))  # what has results first
    text = render(
        "index.html",
        groups=[group for group in groups if group[1]],
        problems=runs.problems,
        source=runs.source,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "index.html", text, durable=False)


def _entries(runs: Runs, out: Path) -> Iterator[Entry]:
    named: set[str | None] = set()
    for name in dict.fromkeys([*known_files(runs.files), *runs.sweeps()]):
        try:
            if study_of(runs, [name]) is not None:
                yield _study(runs, name, out)
                continue
            made = build(runs, runs.sweep(name))
            named |= {table.paper for table in made.tables}
            yield _entry(made, write(made, out / slug(name)), out)
        except (LookupError, ValueError) as error:
            yield Entry(OTHERS, name, "", "", "", "", str(error), None, complete=False)
    for reference in published.unanswered(named):
        shown = printed_of(reference)
        page = write_paper(reference, out / reference.replace(".", "/"))
        told = unanswered_words(reference)
        where = page.relative_to(out).as_posix()
        answers = f"Table {shown.number}: {shown.heading}"
        yield Entry(shown.title, reference, where, answers, "–", "", told, None, complete=False)


def _entry(made: Report, page: Path, out: Path) -> Entry:
    reference = made.tables[0].paper if made.tables else None
    answers, group = made.heading, OTHERS
    if reference is not None:
        table = published.table(reference)
        answers, group = f"Table {table.number}: {table.title}", published.paper(reference).title
    elif (key := made.name.partition("/")[0]) in published.papers():
        group = published.papers()[key].title  # a question of the paper at another size
    done = int((made.trained["state"] == schema.FINISHED).sum())
    verdicts = [claim.verdict for claim in made.claims]
    counts = {verdict: verdicts.count(verdict) for verdict in (HOLDS, EQUAL, FAILS, UNDECIDED)}
    found = [f"{n} {v.removesuffix('s') if n > 1 else v}" for v, n in counts.items() if n]
    return Entry(
        group=group,
        name=made.name,
        page=page.relative_to(out).as_posix(),
        answers=answers,
        finished=f"{done} of {len(made.trained)}",
        claims=", ".join(found),
        told=made.summary if done else "Nothing has finished.",
        command=made.command if done < len(made.trained) else None,
        complete=made.complete,
        begun=done > 0,
    )


def _study(runs: Runs, name: str, out: Path) -> Entry:
    made = build_study(runs, name)
    page = write_study(made, out / slug(name)).relative_to(out).as_posix()
    done = f"{len(ended(made.trials))} of {made.wanted}"
    left = made.command if len(ended(made.trials)) < made.wanted else None
    return Entry(
        STUDIES, name, page, made.heading, done, "", made.summary, left, made.complete, begun=True
    )
