"""OC20 and OC22 as published in LMDB: pickled PyG records, read without executing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from atomsweep.data.formats.find import BRING
from atomsweep.data.formats.lmdb_files import check_shards, count_keys, get
from atomsweep.data.formats.unpickle import decode_plain, decode_record
from atomsweep.data.frames import Frame, Labels, Reader, check_labels, identifier, set_tags
from atomsweep.data.normalizer import load_references
from atomsweep.data.npz import read_npz
from atomsweep.data.structure import Array, DataError, Structure

_ODD = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_NOT_RECORDS = (b"length", b"origin_file", b"origin_indices")
_ENERGY, _FORCES = ("energy", "y"), ("forces", "force")  # new names, old names


class OcpReader(Reader):
    """What the readers of S2EF and IS2RE share: files, keys, and all but the labels.

    Records may be written by PyG 1 or 2, with old or new field names. Keys are 0 ... n-1, read in
    the order of the numbers, not of the text. `length` may be there or not; a `length` that does
    not fit and a missing shard are errors. `metadata.npz` beside the files may be there or not.
    """

    suffixes = (".lmdb",)
    linear_references: str | None

    def check_files(self, files: Sequence[Path]) -> None:
        """No shard is missing, and `metadata.npz` fits."""
        check_shards(files)
        for folder in dict.fromkeys(file.parent for file in files):
            metadata = folder / "metadata.npz"
            there = sorted(folder.glob("*.lmdb"))
            if not metadata.is_file() or not set(there) <= set(files):
                continue
            natoms = read_npz(metadata, ("natoms",))["natoms"]
            total = sum(self.count(file) for file in there)
            if natoms.shape != (total,):
                raise DataError(
                    f"{metadata} tells the sizes of {len(natoms)} structures, but the files beside "
                    f"it hold {total}; fetch both again or remove it"
                )

    def count(self, file: Path) -> int:
        """Number of records."""
        count = count_keys(file, _NOT_RECORDS)
        if (length := get(file, b"length")) is not None:
            try:
                said = decode_plain(length)
            except DataError as error:
                raise DataError(f"{file}: its key length {error}") from None
            if type(said) is not int or said != count:
                shown = repr(said) if isinstance(said, int | str) else f"a {type(said).__name__} of"
                raise DataError(
                    f"{file}: its key length says {shown:.60} records, but it holds {count}; "
                    "fetch the file again"
                )
        return count

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Frames by number, less linear references; those that cannot be used are marked."""
        references = None
        if self.linear_references is not None:
            references = load_references(Path(self.linear_references))
        for frame in self._frames(file, number, start, stop):
            yield frame if references is None else self._referenced(frame, references)

    def _referenced(self, frame: Frame, references: Array) -> Frame:
        """The frame with the linear references subtracted from every energy."""
        if frame.structure is None:
            return frame
        for structure in (frame.structure, *frame.ends):
            numbers = structure.atomic_numbers
            if structure.energy is None:
                continue
            if numbers.min() < 1 or numbers.max() >= len(references):
                fault = f"{self.linear_references} has no energy for one of its elements"
                return Frame(frame.index, None, fault=fault)
            structure.energy -= float(references[numbers].sum())
        return frame

    def _frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Frames as they are stored."""
        for index in range(start, stop if stop is not None else self.count(file)):
            record = get(file, str(index).encode())
            if record is None:
                yield Frame(index, None, fault=f"the file has no key {index}")
                continue
            try:
                fields = decode_record(record)
                numbered = identifier(fields.get("sid")) is None
                frame = self.frame(index, fields, number)
                frame.numbered = numbered
                yield frame
            except DataError as error:
                yield Frame(index, None, fault=f"the record {error}")
            except _ODD as error:
                yield Frame(index, None, fault=f"the record holds what it should not: {error}")

    def frame(self, index: int, fields: dict[str, Any], number: int) -> Frame:
        """One frame from the fields of a record."""
        raise NotImplementedError


@dataclass(frozen=True)
class S2EF(OcpReader):
    """Structures with energy and forces, of OC20 or OC22.

    Attributes:
        labels: what every frame must carry.
        linear_references: file with an energy for each element, that is subtracted: `.npz` with
            `coeff` indexed by atomic number as OC22's, or what `fit-normalizer` wrote. None
            subtracts nothing.
        dynamics: folder whose files are of molecular dynamics, as OC20's `s2ef_md`: their `fid` is
            made -1 - fid, which tells them from frames of relaxations. None: no file is.
    """

    relaxed_energy: ClassVar[bool] = False
    labels: Labels = ("energy", "forces")
    linear_references: str | None = None
    dynamics: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))
        if self.linear_references is not None:
            if not Path(self.linear_references).is_file():
                told = f"no linear references at {self.linear_references}; {BRING}"
                raise FileNotFoundError(told)
            load_references(Path(self.linear_references))

    def settings(self) -> dict[str, Any]:
        """With the references' values in place of their file; `dynamics` where there are any."""
        values = None
        if self.linear_references is not None:
            values = load_references(Path(self.linear_references)).tolist()
        told = {**super().settings(), "linear_references": values}
        del told["dynamics"]
        return told if self.dynamics is None else {**told, "dynamics": True}

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Frames by number; those of dynamics get numbers of their own."""
        moving = self.dynamics is not None and Path(self.dynamics).expanduser() in file.parents
        for frame in super().frames(file, number, start, stop):
            if moving and frame.structure is not None:
                frame.structure.fid = -1 - frame.structure.fid
            yield frame

    def frame(self, index: int, fields: dict[str, Any], number: int) -> Frame:
        """Energy from `energy` or `y`, forces from `forces` or `force`."""
        energy, forces = _first(fields, _ENERGY), _first(fields, _FORCES)
        structure = _structure(fields, number, index)
        structure.energy = _number(energy) if "energy" in self.labels else None
        structure.forces = (
            np.asarray(forces) if forces is not None and "forces" in self.labels else None
        )
        for label, names in (("energy", _ENERGY), ("forces", _FORCES)):
            if label in self.labels and getattr(structure, label) is None:
                raise DataError(_missing(label, names, fields))
        return Frame(index, structure, set_tags(structure))


@dataclass(frozen=True)
class IS2RE(OcpReader):
    """Initial structures with the energy of the relaxed ones, and both ends of each relaxation.

    Attributes:
        labels: [energy] asks for `y_relaxed`; [] reads test files without it.
        linear_references: as of `S2EF`.
    """

    version = 2  # records without a sid are systems of their own
    relaxed_energy: ClassVar[bool] = True
    labels: Labels = ("energy",)
    linear_references: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))

    def settings(self) -> dict[str, Any]:
        """With the references' values in place of their file, where there is one."""
        told = super().settings()
        del told["linear_references"]
        if self.linear_references is None:
            return told
        values = load_references(Path(self.linear_references)).tolist()
        return {**told, "linear_references": values}

    @property
    def relaxations(self) -> bool:  # type: ignore[override]
        """Test files have no relaxed ends."""
        return bool(self.labels)

    def frame(self, index: int, fields: dict[str, Any], number: int) -> Frame:
        """The initial structure, its energy is `y_relaxed`."""
        fields.setdefault("fid", 0)  # one record for each system
        if fields.get("sid") is None:  # a system of its own, apart from those of other files
            fields["sid"] = (number << 32) + index
        structure = _structure(fields, number, 0)
        rule = set_tags(structure)
        if not self.labels:
            return Frame(index, structure, rule)
        relaxed_energy = _first(fields, ("energy_relaxed", "y_relaxed"))
        if relaxed_energy is None:
            raise DataError(_missing("relaxed energy", ("y_relaxed",), fields))
        structure.energy = _number(relaxed_energy)
        ends = []
        if (pos := fields.get("pos_relaxed")) is not None:
            initial, relaxed = _structure(fields, number, 0), _structure(fields, number, 1)
            initial.tags = relaxed.tags = structure.tags
            relaxed.fid = 1
            relaxed.pos = pos
            relaxed.energy = structure.energy
            initial.energy = _number(_first(fields, ("energy_initial", "y_init")))
            initial.forces = _first(fields, _FORCES)
            ends = [initial, relaxed]
        return Frame(index, structure, rule, ends=ends)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _missing(label: str, names: Sequence[str], fields: Mapping[str, Any]) -> str:
    return (
        f"carries no {label} (named {' or '.join(names)}); there is {', '.join(sorted(fields))}. "
        "Leave it out of data.reader.labels if that is right"
    )


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise DataError(f"has an energy of shape {value.shape}")
        return float(value.item())
    return float(value)


def _structure(fields: Mapping[str, Any], number: int, index: int) -> Structure:
    """All but the labels. Atoms without `fixed` are free; 3D periodic unless `pbc` says else."""
    if missing := [name for name in ("pos", "atomic_numbers", "cell") if name not in fields]:
        raise DataError(f"has no {missing[0]}; there is {', '.join(sorted(fields))}")
    pos, numbers = np.asarray(fields["pos"]), np.asarray(fields["atomic_numbers"])
    n = len(numbers)
    if int(_number(fields.get("natoms", n)) or 0) != n or pos.shape[0] != n:
        raise DataError(
            f"says natoms {fields.get('natoms')}, but has {n} atomic numbers and {len(pos)} "
            "positions"
        )
    sid, fid = identifier(fields.get("sid")), identifier(fields.get("fid"))
    return Structure(
        atomic_numbers=_integers("atomic_numbers", numbers),
        pos=pos,
        cell=np.asarray(fields["cell"], dtype=np.float64).reshape(3, 3),
        pbc=np.asarray(fields.get("pbc", [True] * 3), dtype=bool).reshape(3),
        tags=_integers("tags", np.asarray(fields.get("tags", np.zeros(n)))),
        fixed=np.asarray(fields.get("fixed", np.zeros(n))).astype(bool),
        sid=sid if sid is not None else number,
        fid=fid if fid is not None else index,
    )


def _integers(name: str, values: Array) -> Array:
    """Whole numbers that may be stored as floats."""
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise DataError(f"has {name} that are not whole numbers")
    return values.astype(np.int64)
