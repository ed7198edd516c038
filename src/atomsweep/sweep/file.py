"""A sweep file: the single statement of what a table compares. Hydra's sweeper and pandas read it.

    title: Basis and activation
    published: forcenet.table5          # the table that it answers, if any
    rows: {basis: [sph, sine]}          # a product, or a list of rows: [{label: …, key: value}, …]
    columns: {act: [relu, swish]}
    seeds: [0, 1, 2]                  # or {first: 3, most: 16}, see `until=decided`
    metrics: [forces_mae]
    scale: {laptop: [], paper: [experiment=forcenet]}   # overrides; the first is the default
    claims: [act=swish < act=relu]      # grammar: claims.py
    evaluations: [rotation, cost]       # after each training; or kind -> settings
    at_scale: {paper: {columns: […]}}   # what stands in place of the above at a scale

Keys of rows and columns are what one would type before the equals sign.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atomsweep.build import UserError
from atomsweep.sweep.claims import ClaimError
from atomsweep.sweep.evaluation_settings import check_evaluations, evaluations_at
from atomsweep.sweep.looks import Looks
from atomsweep.sweep.names import UnknownNameError, check_claim, check_metric, check_published
from atomsweep.sweep.places import doubled, place, told
from atomsweep.tracking.files import DamagedFile, YamlLoader, check_depth, read_text, read_yaml

LABEL = "label"
LAUNCH_KEYS = (
    "sweeps",
    "sweep",
    "scale",
    "plan",
    "rerun",
    "search",
    "until",
    "hydra",
)  # of a launch, not of a cell
_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w/]*(\.\w+)*(@[\w.]+)?")


def different(values: list[Any]) -> list[Any]:
    """`values`, each of which is named once, or a ValueError."""
    if len(set(values)) != len(values):
        raise ValueError(f"every value must be named once, got {values}")
    return values


Seeds = Annotated[list[int], Field(min_length=1), AfterValidator(different)]
Scalar = bool | int | float | str | None
Setting = dict[str, Scalar]  # key -> value
Axes = dict[str, Annotated[list[Scalar], Field(min_length=1)]]


class Statement(BaseModel):
    """What every file in `sweeps/` can say.

    Attributes:
        title: heading of the report.
        experiment: option of `conf/experiment` that all cells share.
        overrides: further overrides of all cells.
        scale: name → overrides of a size of data, model and budget; the first is the default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    experiment: str | None = None
    overrides: list[str] = []
    scale: dict[str, list[str]] = {}

    @field_validator("overrides")
    @classmethod
    def _are_overrides(cls, overrides: list[str]) -> list[str]:
        return _checked_overrides(overrides)

    @field_validator("scale")
    @classmethod
    def _scales_are_overrides(cls, scale: dict[str, list[str]]) -> dict[str, list[str]]:
        return {name: _checked_overrides(overrides) for name, overrides in scale.items()}

    @property
    def smaller(self) -> str:
        """Clause that names another file of a laptop's size; empty where there is none."""
        return ""

    def overrides_at(self, scale: str | None) -> list[str]:
        """Overrides of all cells at a scale; None: at the first.

        Raises:
            UserError: the file has no such scale.
        """
        if scale is None:
            scale = next(iter(self.scale), None)
        elif scale not in self.scale:
            known = ", ".join(self.scale) or "none"
            raise UserError(f"the sweep has no scale {scale}; it has {known}{self.smaller}")
        shared = [] if self.experiment is None else [f"experiment={self.experiment}"]
        return [*shared, *self.overrides, *(self.scale[scale] if scale is not None else [])]


class AtScale(BaseModel):
    """What stands in place of a sweep file's own at one of its scales; None leaves it.

    A paper's cells may each have a recipe and data of their own, which a small size has not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Axes | list[Setting] | None = None
    columns: Axes | list[Setting] | None = None
    exclude: list[Setting] | None = None
    metrics: list[str] | None = None
    claims: list[str] | None = None
    evaluations: list[str] | dict[str, dict[str, Any] | None] | None = None


class SweepFile(Statement):
    """What a sweep file says, checked.

    Attributes:
        published: the paper's table, `<paper>.<table>` of `analysis/published/`.
        mini: the sweep file that asks the same at a size for a laptop, where this one has none.
        rows: axes whose product are the rows, or the rows one by one.
        columns: axes whose product are the columns, or the columns one by one.
        exclude: settings that are left out, each a part of a row and column.
        seeds: every cell is trained once with each; or how many at first and at most, where
            claims are looked at after every further one (`until=decided`).
        metrics: names without split, the first decides.
        claims: the paper's sentences as predicates, for the report.
        evaluations: kinds that follow each training, or kind → settings; `scale: {name: {…}}`
            among the settings holds at that scale.
        at_scale: scale → what stands in place of the rest there; see `at`.
    """

    published: str | None = Field(None, pattern=r"^\w+\.\w+$")
    mini: str | None = None
    rows: Axes | list[Setting]
    columns: Axes | list[Setting] = {}
    exclude: list[Setting] = []
    seeds: Seeds | Looks = [0]
    metrics: Annotated[list[str], Field(min_length=1)] = ["forces_mae"]
    claims: list[str] = []
    evaluations: list[str] | dict[str, dict[str, Any] | None] = []
    at_scale: dict[str, AtScale] = {}

    @field_validator("rows", "columns", "exclude")
    @classmethod
    def _keys_can_be_typed(cls, value: Any) -> Any:
        for part in [value] if isinstance(value, dict) else value:
            check_keys(key for key in part if key != LABEL)
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics_are_different(cls, metrics: list[str]) -> list[str]:
        return different(metrics)

    @field_validator("evaluations")
    @classmethod
    def _evaluations_are_known(cls, stated: Any, info: ValidationInfo) -> Any:
        try:
            check_evaluations(stated, list(info.data.get("scale", {})))
        except UserError as error:
            raise ValueError(str(error)) from None
        return stated

    @model_validator(mode="after")
    def _axes_are_apart(self) -> "SweepFile":
        if both := sorted(set(axes_of(self.rows)) & set(axes_of(self.columns))):
            raise ValueError(f"{both[0]} is an axis of the rows and of the columns; choose one")
        if "seed" in {*axes_of(self.rows), *axes_of(self.columns)}:
            raise ValueError("seed is no axis of a table; name seeds: [0, 1, …]")
        known = {*axes_of(self.rows), *axes_of(self.columns)}
        for excluded in self.exclude:
            if unknown := sorted(set(excluded) - known):
                raise ValueError(f"exclude names {unknown[0]}, which is not an axis")
            if not any(_matches(setting, excluded) for _, setting in self._product()):
                told = ", ".join(f"{key}={spelt(value)}" for key, value in excluded.items())
                raise ValueError(f"exclude names {told}, which no cell has")
        if next(self.settings(), None) is None:
            raise ValueError("exclude leaves no cell")
        if unknown := sorted(set(self.at_scale) - set(self.scale)):
            raise ValueError(f"at_scale: the file has no scale {unknown[0]}")
        for scale in self.at_scale:
            try:
                self.at(scale)
            except ValidationError as error:
                first = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"at_scale.{scale}: {first}") from None
        return self

    def at(self, scale: str | None) -> "SweepFile":
        """The file as it reads at a scale, None being the first; `at_scale` is used up."""
        own = self.at_scale.get(scale or next(iter(self.scale), ""))
        stated = {} if own is None else own.model_dump(exclude_none=True)
        left = self.model_dump(exclude={"at_scale"})
        return SweepFile.model_validate({**left, **stated}) if self.at_scale else self

    @property
    def smaller(self) -> str:
        """Clause that names the file of a laptop's size; empty where this one has it itself."""
        return f"; `sweeps={self.mini}` asks the same at a size for a laptop" if self.mini else ""

    @property
    def first_seeds(self) -> list[int]:
        """Seeds that every cell is trained with."""
        return list(range(self.seeds.first)) if isinstance(self.seeds, Looks) else self.seeds

    def evaluations_at(self, scale: str | None) -> dict[str, dict[str, Any]]:
        """Evaluation → its settings at a scale; None: at the first."""
        return evaluations_at(self.evaluations, scale or next(iter(self.scale), None))

    def settings(self) -> Iterator[tuple[str | None, dict[str, str]]]:
        """Label and axis → value of each cell, rows first; a label where a row has one."""
        for label, setting in self._product():
            if not any(_matches(setting, excluded) for excluded in self.exclude):
                yield label, setting

    def _product(self) -> Iterator[tuple[str | None, dict[str, str]]]:
        for row, column in itertools.product(_points(self.rows), _points(self.columns)):
            labels = [str(part[LABEL]) for part in (row, column) if LABEL in part]
            setting = {k: spelt(v) for part in (row, column) for k, v in part.items() if k != LABEL}
            yield ", ".join(labels) or None, setting


def read_sweep(path: Path) -> SweepFile:
    """Read and check a file.

    Raises:
        UserError: one sentence with file, line and key.
    """
    return read_as(path, lambda content: SweepFile)


File = TypeVar("File", bound=BaseModel)


def read_as(path: Path, kind: Callable[[Mapping[str, Any]], type[File]]) -> File:
    """Read a file and check it against the model that `kind` picks for its content.

    Raises:
        UserError: one sentence with file, line and key.
    """
    try:
        text = read_text(path)
        check_depth(text)
        node = yaml.compose(text, Loader=YamlLoader)
        content = read_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}{line}: this is not YAML: {problem}") from error
    except DamagedFile as error:
        raise UserError(f"{path}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a sweep file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: a sweep file must be a mapping with title and rows")
    if twice := doubled(node):
        raise UserError(f"{path}:{twice[0]}: {twice[1]} is named twice")
    model = kind(content)
    try:
        checked = model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}{told(error, node, content, model)}") from error
    if isinstance(checked, SweepFile):
        _check_words(checked, path, node, content)
    return checked


def _check_words(statement: SweepFile, path: Path, node: Any, content: Any) -> None:
    """Claims against the table of each scale; metrics and published table against what there is."""
    checks: list[tuple[tuple[str | int, ...], Callable[[], object]]] = []
    for scale in statement.scale or [None]:
        here = statement.at(scale)
        own = content.get("at_scale", {}).get(scale, {})
        at = {
            key: ("at_scale", scale, key) if key in own else (key,) for key in AtScale.model_fields
        }
        cells, kinds = list(here.settings()), list(here.evaluations)
        for i, name in enumerate(here.metrics):
            checks.append(((*at["metrics"], i), partial(check_metric, name, kinds)))
        for i, claim in enumerate(here.claims):
            checks.append(((*at["claims"], i), partial(check_claim, claim, cells, kinds)))
    if statement.published is not None:
        checks.append((("published",), partial(check_published, statement.published)))
    for where, check in checks:
        try:
            check()
        except (ClaimError, UnknownNameError) as error:
            line, key = place(node, content, where)
            raise UserError(f"{path}:{line}: {'.'.join(key)}: {error}") from error


def axes_of(points: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Axis → its values in order of first use, of a product or of explicit points."""
    if isinstance(points, Mapping):
        return {key: [spelt(value) for value in values] for key, values in points.items()}
    axes: dict[str, list[str]] = {}
    for point in points:
        for key, value in point.items():
            if key != LABEL and spelt(value) not in axes.setdefault(key, []):
                axes[key].append(spelt(value))
    return axes


def spelt(value: Scalar) -> str:
    """A YAML value as one types it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def key_of(override: str) -> str:
    """What an override sets: `model.cutoff` of `+model.cutoff=6`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def place_of(path: Path, overrides: Sequence[str], told: str, typed: Collection[str] = ()) -> str:
    """`file:line: override: ` of the override that a message is about, as far as it can be told.

    Args:
        path: of the sweep file.
        overrides: of a cell.
        told: the message.
        typed: those that are not the file's; a message about one of them has no place in it.
    """
    lines = read_text(path).splitlines()
    for override in overrides:
        key, _, value = override.partition("=")
        if f"{key_of(override)}/{value}" not in told and key_of(override) not in told.split("'"):
            continue
        if override in typed:
            return ""
        for words in ((key, value), (value,), (key,)):
            for number, line in enumerate(lines, 1):
                if all(re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", line) for word in words):
                    return f"{path}:{number}: {override}: "
    return f"{path}: "


def check_keys(keys: Iterable[str]) -> None:
    """Refuse, by a ValueError, what cannot stand left of an equals sign."""
    for key in keys:
        if not _KEY.fullmatch(key) or key in LAUNCH_KEYS:
            raise ValueError(f"{key!r} is no config key that a cell can set")


def _matches(setting: Mapping[str, str], excluded: Setting) -> bool:
    return all(setting.get(key) == spelt(value) for key, value in excluded.items())


def _points(points: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if not isinstance(points, Mapping):
        return list(points) or [{}]
    return [
        dict(zip(points, values, strict=True)) for values in itertools.product(*points.values())
    ]


def _checked_overrides(overrides: list[str]) -> list[str]:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not (equals and _KEY.fullmatch(key)) or key_of(override) in LAUNCH_KEYS:
            raise ValueError(f"expected overrides such as model=forcenet, got {override!r}")
    return overrides
