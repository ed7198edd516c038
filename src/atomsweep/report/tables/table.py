"""One table of a report: runs of one data set, task and budget, and one metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.asked import Asked
from atomsweep.report.read.runs import Runs
from atomsweep.report.read.tidy import METRIC, awaited, common, records
from atomsweep.report.read.values import as_float, normal
from atomsweep.report.tables import spelled, titles, words
from atomsweep.report.tables.baselines import (
    baseline_command,
    baselines_of,
    data_of,
    has_baseline,
    lacks_baseline,
)
from atomsweep.report.tables.beside import in_order
from atomsweep.report.tables.cells import cells_of
from atomsweep.report.tables.choosing import (
    is_alone,
    metric_of,
    metric_problems,
    reference_of,
    splits_of,
)
from atomsweep.report.tables.comparable import UnlikeRuns
from atomsweep.report.tables.curves import DRAWN_SPLITS, MOST_OF_ROW, series
from atomsweep.report.tables.forms import matrix_grid, paper_grid
from atomsweep.report.tables.grids import UNTRAINED_MARK, Grid
from atomsweep.report.tables.styles import Style, Styles
from atomsweep.report.tables.trained import UNTRAINED, components_of
from atomsweep.sweep.claims import is_split
from atomsweep.tracking import schema


@dataclass
class Table:
    """A table, and what belongs to it."""

    df: pd.DataFrame
    cells: pd.DataFrame
    rows: list[str]
    metric: str
    reference: str | None
    baselines: pd.DataFrame  # a Median run for each data set that has one
    title: str
    caption: list[str]
    device: str
    across: list[str] = field(default_factory=list)  # those of `rows` that are columns of the file
    alone: bool = False  # the data have one validation split, which is not called `ID`
    against_baseline: bool = True
    baseline_line: bool = True  # it has a line of its own, and is none of the rows
    paper: str | None = None  # published table that the file names, whether it stands beside or not
    unlike: list[str] = field(default_factory=list)  # why its numbers stand apart from ours
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)  # metric → points
    components: pd.DataFrame = field(default_factory=pd.DataFrame)  # points of x, y and z
    styles: dict[str, Style] = field(default_factory=dict)  # label of a row → how it is drawn

    @property
    def grid(self) -> Grid:
        """The table as papers print it."""
        return self._grid(only_last=False)

    @property
    def narrow(self) -> Grid:
        """The table with its last split alone, for one column of a page."""
        return self._grid(only_last=True)

    def _grid(self, only_last: bool) -> Grid:
        return paper_grid(
            self.cells,
            self.rows,
            self.reference,
            "Median" if self.against_baseline else None,
            self.baseline_line,
            self.alone,
            only_last,
        )

    @property
    def beside(self) -> bool:
        """Whether cells have the paper's number beside ours."""
        return bool(self.cells["published"].notna().any())

    @property
    def splits(self) -> list[str]:
        """Splits in the order of the columns."""
        return list(dict.fromkeys(self.cells["split"]))

    def split_title(self, split: str) -> str:
        """A split in the words of the table."""
        return titles.split_title(split, self.alone)

    def metric_title(self, metric: str) -> str:
        """`val_id/forces_mae` as `Force MAE on ID, eV/Å`."""
        split, _, quantity = metric.partition("/")
        return titles.full_title(split, quantity, self.alone)

    @property
    def matrix(self) -> Grid | None:
        """Rows against columns, where the sweep file has columns."""
        down = [row for row in self.rows if row not in self.across]
        if not self.across or not down:
            return None
        return matrix_grid(self.cells, down, self.across, self.reference)

    @property
    def text(self) -> str:
        """Title and caption as one paragraph."""
        return " ".join([f"{self.title}.", *self.caption])

    def baseline_value(self, metric: str) -> float:
        """Final value of the baseline, NaN where there is none or there are several."""
        one = len(data_of(self.df)) == len(self.baselines) == 1
        return as_float(self.baselines.iloc[0].get(METRIC + metric)) if one else math.nan

    def best(self) -> pd.Series | None:
        """The best cell of the first split of those trained, None where none has a number."""
        trained = self.cells[self.cells["untrained"] == 0]
        first = self.cells["split"].iloc[0]
        here = trained[(trained["split"] == first) & trained["mean"].notna()]
        if here.empty or titles.better(self.metric) == "neither":
            return None
        high = titles.better(self.metric) == "high"
        return here.loc[here["mean"].idxmax() if high else here["mean"].idxmin()]

    def members(self) -> dict[str, dict[float, dict[str, Any]]]:
        """Label of each table row → seed → run, of rows that are whole."""
        found: dict[str, dict[float, dict[str, Any]]] = {}
        open_ = set()
        for run in records(self.df[awaited(self.df)]):
            label = self.label(run)
            if run["state"] == schema.FINISHED:
                found.setdefault(label, {})[run["seed"]] = run
            else:
                open_.add(label)
        return {label: runs for label, runs in found.items() if label not in open_}

    def label(self, run: Mapping[str, Any] | pd.Series) -> str:
        """A run in the words of its table row, e.g. `Spherical, Swish`."""
        return label_of(run, self.rows, self.reference)


def label_of(run: Mapping[str, Any] | pd.Series, rows: Sequence[str], reference: str | None) -> str:
    """A run in the words of a table row, which are the paper's where there is a `reference`."""
    return ", ".join(titles.label(c, run.get(c), reference) for c in rows)


GOING = (schema.RUNNING, schema.QUEUED)  # states of runs that come to an end by themselves


@dataclass
class Gap:
    """A cell without a number, why, and what fills it; no command where that is on its way.

    The baseline is no cell of a sweep: the sweep's own command does not make it.
    """

    cell: str
    state: str
    reason: str
    command: str | None
    of_sweep: bool = True


def make_table(
    runs: Runs,
    df: pd.DataFrame,
    wanted: str | None,
    problems: list[str],
    styles: Styles | None = None,
) -> Table:
    """The table of some runs.

    Args:
        runs: everything, for baseline and curves.
        df: runs that may share a table.
        wanted: metric that the sweep file names; None to choose one.
        problems: what is missing or wrong is added.
        styles: of the page.
    """
    styles = Styles() if styles is None else styles
    asked: Asked | None = df.attrs.get("asked")
    rows = [axis for axis in df.attrs.get("axes") or [] if axis in df] or [words.RUN_AXIS]
    finished = df[df["state"] == schema.FINISHED]
    shared = common(finished)
    paper = reference_of(asked, rows, shared, problems)
    metric = metric_of(finished, paper) if wanted is None else wanted
    metric, splits = splits_of(finished, published.table(paper) if paper else None, metric)
    baselines = baselines_of(runs.df, df)
    within = published.table(paper).within(metric) if paper else 0.0
    try:
        cells = _cells(df, rows, metric, splits, baselines, paper, within)
    except UnlikeRuns as error:
        problems.append(f"{error}; each run has a row of its own")
        rows, paper = [words.RUN_AXIS] if df["name"].is_unique else ["identity"], None
        cells = _cells(df, rows, metric, splits, baselines, paper, within)
    problems += metric_problems(finished, metric, splits)
    order = None if asked else paper
    cells, ordered = in_order(cells, rows, order), in_order(df, rows, order)
    reference = None if paper is None or cells["published"].isna().all() else paper
    measured = reference is not None and splits[0] not in schema.OF_RUN  # sizes are told anyway
    unlike = words.unlike_paper(reference, df, asked) if reference and measured else []
    if unlike:
        cells[["published", "difference"]], cells["published_best"] = math.nan, False
    device = words.devices(finished)
    # what the medians can be held against: of energies only where they are all that is learned
    of_energies = shared.get("choice.task") == "is2re"
    judged = is_split(splits[0]) and (of_energies or metric.startswith("forces_"))
    # whether forces were learnt is judged by it too, whatever the table shows
    components = [f"{METRIC}{split}/{schema.FORCES_X_MAE}" for split in schema.VAL_SPLITS]
    of_forces = is_split(splits[0]) and any(c in df and df[c].notna().any() for c in components)
    lacking = lacks_baseline(df, baselines, judged or of_forces)
    caption = words.caption(df, cells, reference, metric, device, lacking, unlike)
    if cells["untrained"].any():
        caption.append(untrained_sentence(df, rows, reference))
    if paper is not None and reference is None:
        caption.append(words.apart(paper))
    logged = _logged(runs, ordered, rows, metric)
    return Table(
        df=df,
        cells=cells,
        rows=rows,
        metric=metric,
        reference=reference,
        baselines=baselines,
        title=asked.statement.title if asked else words.title(rows, reference, shared),
        caption=caption,
        device=device,
        across=[c for c in df.attrs.get("columns") or [] if c in rows],
        alone=is_alone(df),
        against_baseline=judged,
        baseline_line=judged and not has_baseline(cells),
        paper=paper,
        unlike=unlike,
        curves=_curves(logged, ordered, rows, metric, reference, styles),
        components=_components(logged, ordered, rows, metric),
        styles={label_of(r, rows, reference): styles.of(r, rows) for r in records(ordered)},
    )


def _cells(
    df: pd.DataFrame,
    rows: list[str],
    metric: str,
    splits: list[str],
    baselines: pd.DataFrame,
    reference: str | None,
    within: float,
) -> pd.DataFrame:
    """Cells as the sweep file and the published table want them judged."""
    asked: Asked | None = df.attrs.get("asked")
    return cells_of(
        df,
        rows,
        metric,
        splits,
        best_within=within,
        better=titles.better(metric),
        baselines=baselines,
        reference=reference,
        declared=asked.settings_axes if asked else (),
    )


def _logged(runs: Runs, df: pd.DataFrame, rows: list[str], metric: str) -> pd.DataFrame:
    """Points of a metric and of its components, of as many runs of a row as are drawn."""
    drawn = [schema.metric_name(split, metric) for split in DRAWN_SPLITS]
    few = _first_of_row(df, rows, MOST_OF_ROW + 1)  # one more is told of
    return runs.curves(few, [*drawn, *components_of(metric)])


def _components(
    logged: pd.DataFrame, df: pd.DataFrame, rows: list[str], metric: str
) -> pd.DataFrame:
    """Points of the components of a metric, of as many runs of a row as are told of."""
    few = _first_of_row(df, rows, MOST_OF_ROW)["identity"]
    return logged[logged["metric"].isin(components_of(metric)) & logged["identity"].isin(few)]


def _first_of_row(df: pd.DataFrame, rows: list[str], most: int) -> pd.DataFrame:
    keys = df[rows].map(normal).apply(tuple, axis=1)
    return df[df.groupby(keys, sort=False).cumcount() < most]


def _curves(
    logged: pd.DataFrame,
    df: pd.DataFrame,
    rows: list[str],
    metric: str,
    reference: str | None,
    styles: Styles,
) -> dict[str, pd.DataFrame]:
    """Points of the first split and of the average, where they were logged during training."""
    found = {}
    for split in DRAWN_SPLITS:
        name = schema.metric_name(split, metric)
        points = series(logged[logged["metric"] == name], df, rows, reference, styles)
        if not points.empty:
            found[name] = points
    return found


def untrained_sentence(df: pd.DataFrame, rows: list[str], reference: str | None) -> str:
    """Which runs decide nothing, and why."""
    told = [
        f"{label_of(run, rows, reference)}, seed {spelled.count(run['seed'])} ({run[UNTRAINED]})"
        for run in records(df)
        if run.get(UNTRAINED)
    ]
    rule = "so it decides no claim but of cost or against the Median"
    return f"{UNTRAINED_MARK}: not trained, {rule}: {'; '.join(told)}."


def gaps_of(table: Table) -> list[Gap]:
    """Cells without a number."""
    gaps = []
    for run in records(table.df[table.df["state"] != schema.FINISHED]):
        seed = f", seed {spelled.count(run['seed'])}" if (table.cells["planned"] > 1).any() else ""
        progress = ""
        if run["state"] in (schema.RUNNING, schema.INTERRUPTED) and run["total_steps"] > 0:
            progress = f"step {spelled.count(run['step'])} of {spelled.count(run['total_steps'])}"
        waits = "waits for its turn" if run["state"] == schema.QUEUED else ""
        told = (run["message"], progress, waits)
        reason = "; ".join(t for t in told if t) or spelled.NOTHING
        command = None if run["state"] in GOING else run["command"]
        gaps.append(Gap(table.label(run) + seed, run["state"], reason, command))
    for runs in lacks_baseline(table.df, table.baselines, table.baseline_line):
        command = baseline_command(runs)
        why = "no finished baseline on this data"
        gaps.append(Gap("Median", schema.MISSING, why, command, of_sweep=False))
    return gaps
