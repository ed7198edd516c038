"""What can be evaluated after a training, and with which settings. Starts without torch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomsweep.build import UserError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Settings of an evaluation: part of its result, and what decides whether it is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rotation(Settings):
    """Stability of forces under rotation; ForceNet, arXiv:2103.01436, Table 2.

    Attributes:
        split: structures are taken from it.
        structures: how many at most, drawn with `seed`.
        rotations: of each structure.
        about: z, the normal of the surface, or any axis.
        seed: of structures and rotations.
        batch_size: structures in one forward.
    """

    split: str = "val_id"
    structures: Count = 1000
    rotations: Annotated[int, Field(ge=2)] = 100
    about: Literal["z", "any"] = "z"
    seed: int = 0
    batch_size: Count = 32


class Cost(Settings):
    """Time of inference at the largest batch that fits; ForceNet, Table 1.

    Attributes:
        split: structures are taken from it, again and again where it is small.
        max_batch: most structures in a batch.
        max_seconds: a larger batch is not tried once a forward takes longer.
        memory_gib: on a CPU, what a forward may take beyond what the process has.
        warm_up: forwards before the clock starts.
        repeats: forwards that are timed; the median counts.
    """

    split: str = "val_id"
    max_batch: Count = 4096
    max_seconds: Positive = 10.0
    memory_gib: Positive = 2.0
    warm_up: Count = 2
    repeats: Count = 5


class Relax(Settings):
    """Relaxed structures from initial ones (IS2RS); ForceNet, App. E and Table 8.

    Attributes:
        splits: whose relaxations are made again.
        systems: of each split, at most; None takes all.
        fmax: eV/Å.
        steps: most of one system.
        maxstep: of L-BFGS, Å, as the next three.
        memory: pairs kept.
        damping: factor on steps.
        alpha: first curvature, eV/Å².
        batch_size: systems relaxed at once.
        paths: split → IS2RE files (LMDB), for a data set without relaxations of its own.
        trajectories: keep every step of every system, as ASE trajectories.
    """

    splits: Annotated[list[str], Field(min_length=1)] = [
        "val_id",
        "val_ood_ads",
        "val_ood_cat",
        "val_ood_both",
    ]
    systems: Count | None = None
    fmax: Annotated[float, Field(ge=0.0)] = 0.01
    steps: Annotated[int, Field(ge=0)] = 200
    maxstep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    memory: Count = 100
    damping: Positive = 1.0
    alpha: Positive = 70.0
    batch_size: Count = 32
    paths: dict[str, str] = {}
    trajectories: bool = False


KINDS: Mapping[str, type[Settings]] = {"rotation": Rotation, "cost": Cost, "relax": Relax}
SCALE = "scale"


def settings_of(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an evaluation as plain JSON, defaults filled in.

    Raises:
        UserError: unknown kind or setting, or a value out of its range.
    """
    if kind not in KINDS:
        raise UserError(f"there is no evaluation {kind}; there are {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(dict(given)).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(KINDS[kind].model_fields)
            raise UserError(f"{kind} has no setting {key}; it has {known}") from None
        text = first["msg"]
        raise UserError(
            f"{kind}.{key}: {text[0].lower()}{text[1:]}, got {first['input']!r}"
        ) from None


def evaluations_at(
    stated: Sequence[str] | Mapping[str, Mapping[str, Any] | None], scale: str | None
) -> dict[str, dict[str, Any]]:
    """Kind → settings of what a sweep file says, at one of its scales.

    Args:
        stated: kinds, or kind → settings; `scale: {laptop: {…}}` among them holds at that scale.
        scale: None where the file has none.

    Raises:
        UserError: see `settings_of`.
    """
    found = {}
    for kind in stated:
        given = dict((stated[kind] or {}) if isinstance(stated, Mapping) else {})
        own = (given.pop(SCALE, None) or {}).get(scale, {})
        found[kind] = settings_of(kind, {**given, **own})
    return found


def check_evaluations(stated: Any, scales: Sequence[str]) -> None:
    """Check what a sweep file says, at each of its scales.

    Raises:
        UserError: see `settings_of`; or a scale that the file does not have.
    """
    if isinstance(stated, Mapping):
        for kind, given in stated.items():
            if unknown := sorted(set((given or {}).get(SCALE, {})) - set(scales)):
                raise UserError(f"{kind}: the file has no scale {unknown[0]}")
    for scale in [*scales, None]:
        evaluations_at(stated, scale)
