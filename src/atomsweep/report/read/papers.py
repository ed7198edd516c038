"""Schema of a paper's numbers: table, row, column, unit, split, and where a number comes from.

Reading checks lengths, names, units, footnotes, and printed averages against their parts.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomsweep.tracking.schema import FORCES_MAE, NORMALISED_L1, TRAIN, VAL_AVERAGE, VAL_SPLITS

Key = str | int | float

Unit = Literal[
    "1",
    "1e6",
    "GPU-days",
    "GPU-hours",
    "GPU-hours per 100 K",
    "h",
    "1/GPU-s",
    "eV/Å",
    "meV/Å",
    "meV",
    "normalised",
    "%",
]
OURS: dict[str, float] = {
    "meV/Å": 1e-3,
    "meV": 1e-3,
    "%": 1e-2,
    "1e6": 1e6,
    "GPU-days": 24.0,
    "GPU-hours per 100 K": 3600 / 100_000,
}
"""Factor from a paper's unit to ours, where they differ: eV, eV/Å, shares, counts, device-hours
and seconds for one relaxation."""

EVALUATED = ("rotation", "cost", "relax", "run")  # kinds of evaluations after training; the run
MEASURED = ("val_ood", "test", *EVALUATED)  # beside OC20's validation splits

Provenance = Literal["printed", "recovered", "inferred"]
"""printed in the paper; recovered from another version of it; inferred from its other numbers."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(_Strict):
    """What tells rows apart, and the column of the DataFrame of runs that holds it."""

    name: str
    column: str = Field(pattern=r"^((choice|config)\.\w+(\.\w+)*|label)$")
    title: str
    labels: dict[str, str] = {}  # our name of a choice -> the paper's, in the paper's order
    stand_ins: dict[str, str] = {}  # a smaller choice, or a sweep file's label -> key of its row

    def label(self, value: Key) -> str:
        """The paper's name of `value`; where it has none, ours."""
        return self.labels.get(str(value), f"{value:g}" if isinstance(value, float) else str(value))


class Column(_Strict):
    """A quantity; with split and metric it stands beside `metric.<split>/<metric>` of a run."""

    name: str
    title: str
    unit: Unit = "1"
    decimals: int = Field(ge=0, le=6)
    split: str | None = None
    metric: str | None = None
    better: Literal["low", "high"] | None = None
    average_of: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _unit_is_text(cls, data: dict[str, object]) -> dict[str, object]:
        return {**data, "unit": "1e6"} if data.get("unit") in ("1e6", 1e6) else data

    @model_validator(mode="after")
    def _split_is_known(self) -> "Column":
        known = (TRAIN, *VAL_SPLITS, VAL_AVERAGE, *MEASURED)
        if self.split is not None and self.split not in known:
            raise ValueError(
                f"split of column {self.name} must be one of {known}, got {self.split}"
            )
        if (self.split is None) != (self.metric is None):
            raise ValueError(f"column {self.name} must have both a split and a metric, or neither")
        if self.metric is not None and (self.unit == "normalised") != (
            self.metric == NORMALISED_L1
        ):
            raise ValueError(
                f"column {self.name} is {self.unit} and cannot stand beside {self.metric}; what is "
                f"normalised goes with {NORMALISED_L1} alone"
            )
        return self

    @property
    def full_name(self) -> str | None:
        """The metric of a run that it stands beside, `val_id/forces_mae`."""
        return None if self.metric is None else f"{self.split}/{self.metric}"

    @property
    def to_ours(self) -> float:
        """What its numbers are multiplied with to stand beside ours."""
        return OURS.get(self.unit, 1.0)


class Row(_Strict):
    """Numbers of one setting, in the order of the columns; null where the paper has none."""

    key: tuple[Key, ...]
    values: tuple[float | None, ...]
    marks: dict[str, Provenance] = {}  # axis or column -> where it comes from, if not as printed


class Applies(_Strict):
    """Which comparisons this table stands beside: swept axes, and patterns of other columns."""

    axes: tuple[str, ...]
    where: dict[str, tuple[str, ...]] = {}


class Table(_Strict):
    """One published table."""

    number: int | str  # 5, or 1a for a part of one
    workshop_number: int | None = None
    title: str
    caption: str = ""
    provenance: Provenance = "printed"
    axes: tuple[Axis, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    best_within: float = 0.0  # bold: the best of a column of force errors and all within this of it
    applies: Applies | None = None
    setting: dict[
        str, Key
    ] = {}  # the paper's choices where ours may differ; then the report says so
    footnotes: tuple[str, ...] = ()

    def within(self, metric: str | None) -> float:
        """What forgives a difference of a metric: it is of force errors, and of nothing else."""
        return self.best_within if (metric or "").endswith(FORCES_MAE) else 0.0

    @model_validator(mode="after")
    def _rows_fit(self) -> "Table":
        axes = [axis.name for axis in self.axes]
        names = [column.name for column in self.columns]
        if len(set(axes + names)) != len(axes) + len(names):
            raise ValueError(f"table {self.number} names an axis or column twice: {axes + names}")
        keys = [row.key for row in self.rows]
        if len(set(keys)) != len(keys):
            raise ValueError(f"table {self.number} has two rows of one key")
        for row in self.rows:
            if len(row.key) != len(axes) or len(row.values) != len(names):
                raise ValueError(
                    f"row {list(row.key)} of table {self.number} must have {len(axes)} keys and "
                    f"{len(names)} values, got {len(row.key)} and {len(row.values)}"
                )
            for axis, value in zip(self.axes, row.key, strict=True):
                if axis.labels and str(value) not in axis.labels:
                    raise ValueError(
                        f"{axis.name}={value} in table {self.number} has no label; known: "
                        f"{sorted(axis.labels)}"
                    )
            if unknown := set(row.marks) - {*axes, *names}:
                raise ValueError(f"marks of table {self.number} name no column: {sorted(unknown)}")
        for position, axis in enumerate(self.axes):
            there = {str(row.key[position]) for row in self.rows}
            if unknown := set(axis.stand_ins.values()) - there:
                raise ValueError(
                    f"table {self.number} has no row {sorted(unknown)} to stand in for"
                )
        if self.applies and (unknown := set(self.applies.axes) - set(axes)):
            raise ValueError(f"table {self.number} applies to unknown axes {sorted(unknown)}")
        return self

    @model_validator(mode="after")
    def _averages_hold(self) -> "Table":
        names = [column.name for column in self.columns]
        for column in self.columns:
            if unknown := set(column.average_of) - set(names):
                raise ValueError(f"{column.name} averages unknown columns {sorted(unknown)}")
            for row in self.rows:
                values = dict(zip(names, row.values, strict=True))
                parts = [values[name] for name in column.average_of]
                printed = values[column.name]
                numbers = [part for part in parts if part is not None]
                if printed is None or not parts or len(numbers) != len(parts):
                    continue
                unit = 10.0**-column.decimals  # one unit in the last place
                if abs(printed - sum(numbers) / len(numbers)) > unit * (1 + 1e-6):
                    raise ValueError(
                        f"{column.name} of {list(row.key)} in table {self.number} is {printed}, "
                        f"its parts average to {sum(numbers) / len(numbers):.6g}"
                    )
        return self


class Paper(_Strict):
    """All tables of one paper, and what its readers must know."""

    key: str
    title: str
    citation: str
    arxiv: str
    workshop: str = ""
    dataset: str
    data_names: tuple[str, ...] = ()
    footnotes: dict[str, str] = {}
    tables: dict[str, Table]

    @model_validator(mode="after")
    def _footnotes_exist(self) -> "Paper":
        used = {name for table in self.tables.values() for name in table.footnotes}
        if used != set(self.footnotes):
            raise ValueError(
                f"footnotes and their uses must agree, got {sorted(used ^ set(self.footnotes))} on "
                f"one side only"
            )
        return self
