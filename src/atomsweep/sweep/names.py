"""Names that a sweep file borrows: metrics, splits, published tables; told wrong when it is read.

A wrong one costs a look at the file, not a table without numbers after the training.
"""

import re
from collections.abc import Collection, Iterable, Sequence

from atomsweep.console import suggestion
from atomsweep.shipped import PUBLISHED, places
from atomsweep.sweep.claims import Setting, comparisons, is_split, parse
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_text


class UnknownNameError(ValueError):
    """A name that nothing has; one sentence."""


def check_metric(name: str, evaluated: Collection[str]) -> None:
    """Refuse a metric that no run of a sweep will have.

    Args:
        name: `forces_mae`, `val_id/forces_mae`, `cost/structures_per_second`, `relax/adwt`,
            `run/parameters`.
        evaluated: kinds of evaluations that follow each training.

    Raises:
        UnknownNameError: there is no such metric, split or evaluation, or nothing measures it.
    """
    first, slash, rest = name.partition("/")
    if not slash:
        _known("metric", name, (*schema.METRICS, *schema.OF_RESULT))
        return
    if is_split(first):
        rates = schema.RATES if first == schema.TRAIN else ()
        _known("metric", rest, (*schema.METRICS, *rates))
        return
    if first in schema.OF_RUN:
        _known(f"metric of a {first}", rest, schema.OF_RUN[first])
        return
    kinds = tuple(schema.EVALUATED)
    if first not in kinds:
        raise UnknownNameError(
            f"{name} begins with neither a split nor an evaluation; splits are {_splits()}, "
            f"evaluations {', '.join(kinds)}"
        )
    split, more, own = rest.partition("/")
    by_split = schema.EVALUATED_BY_SPLIT.get(first, ())
    if more:
        if not is_split(split):
            raise UnknownNameError(f"{name} names no split; splits are {_splits()}")
        _known(f"metric of {first} on a split", own, by_split)
    else:
        _known(f"metric of {first}", rest, (*schema.EVALUATED[first], *by_split))
    if first not in evaluated:
        raise UnknownNameError(f"{name} is measured by nothing here; add evaluations: [{first}]")


def check_claim(
    text: str, cells: Sequence[tuple[str | None, Setting]], evaluated: Collection[str]
) -> None:
    """Refuse a claim that its table cannot answer, or whose metric nothing has.

    Args:
        text: of the claim.
        cells: label and axis → value of each cell of the table.
        evaluated: kinds of evaluations that follow each training.

    Raises:
        ClaimError: see `claims.parse` and `claims.comparisons`.
        UnknownNameError: see `check_metric`.
    """
    claim = parse(text)
    comparisons(claim, cells)
    if claim.metric is not None:
        name = claim.metric if claim.split is None else f"{claim.split}/{claim.metric}"
        check_metric(name, evaluated)


def split_lacking(metrics: Iterable[str], splits: Collection[str]) -> str | None:
    """The first metric of a split that runs do not evaluate, or None.

    Args:
        metrics: as a sweep file names them.
        splits: of the data, as far as runs evaluate them.
    """
    known = {*splits, schema.TRAIN}
    if set(schema.VAL_SPLITS) <= known:
        known.add(schema.VAL_AVERAGE)
    for name in metrics:
        first, slash, _ = name.partition("/")
        if slash and is_split(first) and first not in known:
            return name
    return None


def check_published(reference: str) -> None:
    """Refuse a published table that is not there; nothing is checked where there are none at all.

    Args:
        reference: `forcenet.table5`, of the papers in the present folder and of those shipped.

    Raises:
        UnknownNameError: no paper or no table has this name.
    """
    key, _, table = reference.partition(".")
    papers = {
        path.stem: path for folder in reversed(places(PUBLISHED)) for path in folder.glob("*.yaml")
    }
    if not papers:
        return
    _known("paper", key, sorted(papers))
    text = read_text(papers[key])
    tables = re.findall(r"^  (\w+):\s*$", text.partition("\ntables:")[2], re.MULTILINE)
    _known(f"table of {key}", table, tables)


def _known(what: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise UnknownNameError(f"there is no {what} {name}; {suggestion(name, names)}")


def _splits() -> str:
    return ", ".join((*schema.VAL_SPLITS, schema.VAL_AVERAGE))
