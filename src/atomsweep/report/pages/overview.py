"""Every report at once: a page for each published table, sweep file and sweep, and an index.

A table of which nothing has finished has its page too: the paper's numbers, every cell missing, and
the command that fills it. So has a published table that no sweep file names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atomsweep.report.pages import paper, report, writing
from atomsweep.report.read import published
from atomsweep.report.read.layout import known_files
from atomsweep.report.read.runs import Store
from atomsweep.report.study import numbers as hpo
from atomsweep.report.tables.verdicts import FAILS, HOLDS, UNDECIDED
from atomsweep.tracking import schema

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


def write_all(store: Store, out: Path) -> Iterator[Entry]:
    """Write every report below `out`, one by one, then the index, whose entries these are."""
    entries = []
    for entry in _entries(store, out):
        entries.append(entry)
        yield entry
    titles = [one.title for one in published.papers().values()] + [OTHERS, STUDIES]
    groups = [(title, [e for e in entries if e.group == title]) for title in titles]
    from atomsweep.report.pages.html import index

    text = index([group for group in groups if group[1]], store.problems, store.source)
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(text, encoding="utf-8")


def _entries(store: Store, out: Path) -> Iterator[Entry]:
    named: set[str | None] = set()
    for name in dict.fromkeys([*known_files(store.files), *store.sweeps()]):
        try:
            if hpo.study_of(store, [name]) is not None:
                yield _study(store, name, out)
                continue
            made = report.build(store, store.sweep(name))
            named |= {part.paper for part in made.parts}
            yield _entry(made, writing.write(made, out / writing.slug(name)), out)
        except (LookupError, ValueError) as error:
            yield Entry(OTHERS, name, "", "", "", "", str(error), None, complete=False)
    for reference in paper.unanswered(named):
        shown = paper.paper_of(reference)
        page = paper.write(reference, out / reference.replace(".", "/"))
        told = paper.sentence(reference)
        where = page.relative_to(out).as_posix()
        answers = f"Table {shown.number}: {shown.heading}"
        yield Entry(shown.title, reference, where, answers, "–", "", told, None, complete=False)


def _entry(made: report.Report, page: Path, out: Path) -> Entry:
    reference = made.parts[0].paper if made.parts else None
    answers, group = made.heading, OTHERS
    if reference is not None:
        table = published.table(reference)
        answers, group = f"Table {table.number}: {table.title}", published.paper(reference).title
    elif (key := made.name.partition("/")[0]) in published.papers():
        group = published.papers()[key].title  # a question of the paper at another size
    done = int((made.trained["state"] == schema.FINISHED).sum())
    verdicts = [claim.verdict for claim in made.claims]
    found = [f"{verdicts.count(v)} {v}" for v in (HOLDS, FAILS, UNDECIDED) if v in verdicts]
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
    )


def _study(store: Store, name: str, out: Path) -> Entry:
    made = hpo.build(store, name)
    page = hpo.write(made, out / writing.slug(name)).relative_to(out).as_posix()
    done = f"{len(hpo.ended(made.trials))} of {made.wanted}"
    left = made.command if len(hpo.ended(made.trials)) < made.wanted else None
    return Entry(STUDIES, name, page, made.heading, done, "", made.summary, left, made.complete)
