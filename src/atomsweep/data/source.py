"""What a source of data promises: splits, provenance and a fingerprint. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from atomsweep.data.dataset import OnError, StructureDataset
from atomsweep.data.structure import Array, Structure


@dataclass(frozen=True)
class Provenance:
    """Where data come from, under which licence, and what a reader of results must know."""

    source: str
    licence: str
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        """As plain JSON."""
        return asdict(self)


class DataSource(ABC):
    """A data set with its splits. Config instantiates one; `prepare` makes or checks what it needs.

    Attributes:
        name: short name for reports.
        on_error: "raise" stops at the first unusable structure; "skip" drops, counts and logs it.
        skipped: what was dropped, a list of messages for each split or file.
        relaxed_energy: energies are those of the relaxed structures (IS2RE); None: not known.
        kinds: kinds of frames whose force errors are told apart, by their first frame id.
        small: a pass over all of it takes seconds, so that a launch may make its Median unasked.
    """

    name: str
    on_error: OnError = "raise"
    skipped: dict[str, list[str]]
    relaxed_energy: bool | None = False
    kinds: Mapping[str, int] = MappingProxyType({})
    small: ClassVar[bool] = False

    def label_names(self) -> frozenset[str] | None:
        """Which of energy and forces every structure carries; None: not known before reading."""
        return frozenset(("energy", "forces"))

    @abstractmethod
    def prepare(self, progress: bool = True) -> None:
        """Build or check what reading needs. Idempotent; of two processes one works, one waits."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of what the data are, not of where they lie or how they were built.

        Cheap; may be called before `prepare`.
        """

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` first."""

    @abstractmethod
    def split(self, name: str) -> StructureDataset:
        """One split, prepared if need be.

        Raises:
            ValueError: there is no such split; names those that exist.
        """

    def relaxations(self, name: str) -> StructureDataset:
        """Both ends of every relaxation of a split: even indices initial, odd ones relaxed.

        Raises:
            ValueError: the data set holds none.
        """
        raise ValueError(f"{self.name} holds no relaxed structures; choose an IS2RE data set")

    def oracle(self) -> Callable[[Structure], tuple[float, Array]] | None:
        """The potential that made the labels: energy (eV) and forces (eV/Å); None: not at hand."""
        return None

    @property
    @abstractmethod
    def provenance(self) -> Provenance:
        """Origin and licence."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Counts and remarks for the report, as plain JSON."""


def check_split(name: str, splits: Sequence[str], source: str) -> None:
    """Raise ValueError naming the known splits unless `name` is one of them."""
    if name not in splits:
        raise ValueError(f"{source} has the splits {', '.join(splits)}; got {name!r}")
