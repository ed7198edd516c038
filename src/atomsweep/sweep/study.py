"""A study file: the single statement of a search for hyper-parameters. Hydra's sweeper reads it.

    title: A small ForceNet
    objectives: {val_id/forces_mae: minimize}   # several: a Pareto front
    constraints: [parameters <= 1e6]
    space:
      basis: [sph, sine]                        # options or values
      optim.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
      model.num_layers: {low: 2, high: 5}       # whole numbers
    sampler: {name: tpe, seed: 0}
    pruner: {name: asha, first: 500}
    trials: 40

What turns a file in `sweeps/` into a study is its `space`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from atomsweep.build import UserError
from atomsweep.sweep.file import (
    Scalar,
    Seeds,
    Setting,
    Statement,
    SweepFile,
    check_keys,
    different,
    read_as,
    spelt,
)

OF_RESULT = ("parameters", "device_seconds", "eval_seconds")  # beside metrics `<split>/<metric>`
DEFAULT = "default"  # the configuration without any of the space's keys
_VALUE = rf"\w+/\w+|{'|'.join(OF_RESULT)}"
_CONSTRAINT = re.compile(rf"({_VALUE})\s*(<=|>=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")

Number = int | float


class Parameter(BaseModel):
    """The values that a key may have: a list of choices, or a range with both ends.

    Attributes:
        choices: options of a group, or values.
        low, high: ends; a whole-number parameter if both are whole.
        step: between values.
        log: whether a factor counts, not a difference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: Annotated[list[Scalar], Field(min_length=2)] | None = None
    low: Number | None = None
    high: Number | None = None
    step: Number | None = None
    log: bool = False

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_choices(cls, value: Any) -> Any:
        return {"choices": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Parameter":
        if self.choices is not None:
            if self.low is not None or self.high is not None:
                raise ValueError("expected choices or low and high, got both")
            different(self.choices)
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected a list of choices, or a range {low: …, high: …}")
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a logarithmic range must begin above 0 and has no step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be positive, got {self.step}")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step) if n is not None)

    def points(self) -> list[Scalar] | None:
        """All values, where they can be counted."""
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None
        assert self.high is not None
        step = self.step if self.step is not None else (1 if self.whole else None)
        if step is None:
            return None
        count = int((self.high - self.low) / step + 1e-9) + 1
        return [self.low + i * step for i in range(count)]

    def ends(self) -> list[Scalar]:
        """What is built before the first trial, to find mistakes: choices, or both ends."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def has(self, value: Scalar) -> bool:
        """Whether a value is one of its own."""
        if self.choices is not None:
            return spelt(value) in map(spelt, self.choices)
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.low is not None
            and self.high is not None
            and self.low <= value <= self.high
        )


class Sampler(BaseModel):
    """How the next trial is chosen.

    Attributes:
        name: Parzen estimators that know what is running, by chance, or every point in order.
        seed: of all choices.
        startup: trials by chance before `tpe` begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["tpe", "random", "grid"] = "tpe"
    seed: int = 0
    startup: Annotated[int, Field(ge=1)] = 10


class Pruner(BaseModel):
    """When a trial is stopped early.

    Attributes:
        name: asynchronous successive halving, hyperband, worse than the median, or never.
        first: steps of training before the first decision; null: one evaluation.
        factor: of halving: one in so many goes on, each time for so many times the steps.
        startup: trials that must be complete before `median` decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["asha", "hyperband", "median", "none"] = "none"
    first: Annotated[int | None, Field(ge=1)] = None
    factor: Annotated[int, Field(ge=2)] = 3
    startup: Annotated[int, Field(ge=1)] = 5


class Constraint(BaseModel):
    """`parameters <= 1e6`."""

    model_config = ConfigDict(frozen=True)

    text: str
    value: str
    relation: str
    bound: float

    @classmethod
    def of(cls, text: str) -> "Constraint":
        """Read one, or raise a ValueError."""
        found = _CONSTRAINT.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"expected a constraint such as parameters <= 1e6 on {', '.join(OF_RESULT)} "
                f"or <split>/<metric>, got {text!r}"
            )
        value, relation, bound = found.groups()
        return cls(text=text.strip(), value=value, relation=relation, bound=float(bound))

    def violation(self, value: float) -> float:
        """How far a value is off; at most 0 where the constraint holds."""
        return value - self.bound if self.relation == "<=" else self.bound - value


class StudyFile(Statement):
    """What a study file says, checked.

    Attributes:
        objectives: value of a result → direction; the first names the best trial.
        constraints: on values of a result, e.g. `parameters <= 1e6`.
        space: key → values that a trial may choose.
        seeds: every trial is trained once with each.
        sampler: how trials are chosen.
        pruner: when they are stopped early.
        trials: number of trials; null for all points of a grid.
        parallel: trials at once; null: as many as there is room for.
        timeout: minutes after which a launch begins no more trials.
        enqueue: first trials: `default`, or settings, the rest of which is chosen.
        retries: times that a failed or killed run of a trial is started again.
        storage: URL of a server of Optuna's; null: a journal file beside the runs.
    """

    objectives: Annotated[
        dict[Annotated[str, Field(pattern=rf"^({_VALUE})$")], Literal["minimize", "maximize"]],
        Field(min_length=1),
    ]
    constraints: list[str] = []  # noqa: RUF012
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    seeds: Seeds = [0]  # noqa: RUF012
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    trials: Annotated[int | None, Field(ge=1)] = None
    parallel: Annotated[int | None, Field(ge=1)] = None
    timeout: Annotated[float | None, Field(gt=0)] = None
    enqueue: list[Literal["default"] | Setting] = []  # noqa: RUF012
    retries: Annotated[int, Field(ge=0)] = 1
    storage: Annotated[str | None, Field(pattern=r"^\w[\w+]*://")] = None

    @field_validator("space")
    @classmethod
    def _keys_can_be_typed(cls, space: dict[str, Parameter]) -> dict[str, Parameter]:
        check_keys(space)
        if "seed" in space:
            raise ValueError("seed is no parameter; name seeds: [0, 1, …], a trial is their mean")
        return space

    @field_validator("constraints")
    @classmethod
    def _constraints_can_be_read(cls, constraints: list[str]) -> list[str]:
        for text in different(constraints):
            Constraint.of(text)
        return constraints

    @field_validator("enqueue", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyFile":
        if self.pruner.name != "none":
            if len(self.objectives) > 1:
                raise ValueError("a study of several objectives cannot prune; drop its pruner")
            if "/" not in self.metric:
                raise ValueError(f"{self.metric} is known at the end only; drop the pruner")
        endless = [key for key, p in self.space.items() if p.points() is None]
        if self.sampler.name == "grid" and endless:
            raise ValueError(f"a grid needs a step for {endless[0]}")
        if self.sampler.name == "grid" and self.enqueue:
            raise ValueError("a grid has every point anyway; drop enqueue")
        if self.trials is None and self.sampler.name != "grid":
            raise ValueError("trials is missing; only a grid knows its own number")
        for point in self.enqueue:
            for key, value in point.items() if not isinstance(point, str) else ():
                if key not in self.space or not self.space[key].has(value):
                    raise ValueError(f"enqueue: {key}={spelt(value)} is not in the space")
        return self

    @property
    def metric(self) -> str:
        """The first objective."""
        return next(iter(self.objectives))

    def bounds(self) -> list[Constraint]:
        """The constraints, read."""
        return [Constraint.of(text) for text in self.constraints]


def read_statement(path: Path) -> SweepFile | StudyFile:
    """A file of `sweeps/`: a table or a study.

    Raises:
        UserError: one sentence with file, line and key.
    """

    def kind(content: Mapping[str, Any]) -> type[SweepFile] | type[StudyFile]:
        return StudyFile if "space" in content else SweepFile

    return read_as(path, kind)


def with_search(statement: StudyFile, search: Mapping[str, Any]) -> StudyFile:
    """A study with what was typed as `search.trials=…` in place of what its file says.

    Raises:
        UserError: a value that the file could not have either.
    """
    given = {key: value for key, value in search.items() if value is not None}
    try:
        return StudyFile.model_validate(statement.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][:1]))
        raise UserError(f"search.{key}: {first['msg']}, got {given.get(key)!r}") from error
