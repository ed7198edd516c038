"""One binary record of a native store: a structure, perhaps with its edges, under a checksum."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from atomsweep.data.store.flat import FlatEdges
from atomsweep.data.structure import Array, DataError, Structure

VERSION = 1
WITH_EDGES = 2  # version of records and stores with neighbour lists, otherwise the same
GROUPED = 3  # version of stores whose records lie in groups
GROUP = 16  # records: LMDB gives a value whole pages of 4 KiB, of which one record fills half
MAGIC = b"ASWP"
HEADER = struct.Struct("<4sBBBxI4xqqd")  # magic, version, flags, pbc, natoms, sid, fid, energy
_SID, _ENERGY = 16, 32  # where they are in it
COUNT = struct.Struct("<I")
META = b"meta"  # key of a store besides those of its records
INDEX = {"natoms": "<u4", "sid": "<i8", "fid": "<i8", "num_edges": "<u4"}
"""Arrays over all structures: keys of a store, or one behind the other at its end."""
HAS_ENERGY, HAS_FORCES, HAS_EDGES = 1, 2, 4
PBC = np.array([[bool(bits >> axis & 1) for axis in range(3)] for bits in range(8)])
PBC.setflags(write=False)
_CRC = struct.Struct("<I")

Buffer = bytes | memoryview


def key_of(index: int) -> bytes:
    """Key of a record. Big-endian: LMDB's order is the order of the data set."""
    return struct.pack(">Q", index)


def grouped(records: Sequence[bytes]) -> bytes:
    """Records as one value: the size of each as u4, then they themselves."""
    return b"".join([struct.pack(f"<{len(records)}I", *map(len, records)), *records])


def member(group: Buffer, count: int, place: int) -> Buffer:
    """A record of `count` that are grouped; empty where it is missing.

    Raises:
        DataError: the group is truncated.
    """
    if len(group) < 4 * count:
        raise DataError(f"lies in a group that is truncated: {len(group)} bytes")
    sizes = struct.unpack_from(f"<{count}I", group)
    start = 4 * count + sum(sizes[:place])
    return group[start : start + sizes[place]]


def encode(structure: Structure, edges: FlatEdges | None = None) -> bytes:
    """One record: header, cell, pos, forces, atomic_numbers, tags, fixed, edges, CRC-32 of all.

    Args:
        structure: what to store.
        edges: its neighbour list, of this one structure.

    Raises:
        DataError: the neighbour list does not fit the layout: too many atoms, or far images.
    """
    n = structure.natoms
    flags = 0
    if structure.energy is not None:
        flags |= HAS_ENERGY
    parts = [
        np.ascontiguousarray(structure.cell, "<f8").tobytes(),
        np.ascontiguousarray(structure.pos, "<f4").tobytes(),
    ]
    if structure.forces is not None:
        flags |= HAS_FORCES
        parts.append(np.ascontiguousarray(structure.forces, "<f4").tobytes())
    parts.append(np.ascontiguousarray(structure.atomic_numbers, "u1").tobytes())
    parts.append(np.ascontiguousarray(structure.tags, "i1").tobytes())
    parts.append(np.ascontiguousarray(structure.fixed, "?").tobytes())
    if edges is not None:
        if n > np.iinfo("u2").max or (len(edges.offsets) and np.abs(edges.offsets).max() > 127):
            raise DataError(
                f"{n} atoms, or neighbours over 127 cells away, are too many for a stored "
                "neighbour list; convert without it"
            )
        flags |= HAS_EDGES
        parts.append(COUNT.pack(len(edges.source)))
        parts.append(edges.degree.astype("<u2").tobytes())
        parts.append(edges.source.astype("<u2").tobytes())
        parts.append(edges.offsets.astype("i1").tobytes())
    pbc = sum(1 << axis for axis in range(3) if structure.pbc[axis])
    energy = structure.energy if structure.energy is not None else 0.0
    version = WITH_EDGES if edges is not None else VERSION
    header = HEADER.pack(MAGIC, version, flags, pbc, n, structure.sid, structure.fid, energy)
    body = b"".join([header, *parts])
    return body + _CRC.pack(zlib.crc32(body))


def check_record(record: Buffer) -> tuple[int, int, int, int, int, float]:
    """Flags, pbc bits, natoms, sid, fid and energy of a record whose length and checksum fit.

    Raises:
        DataError: the record is not one of these versions, is truncated or was altered.
    """
    if len(record) < HEADER.size + _CRC.size or record[:4] != MAGIC:
        raise DataError(f"is no record of this store ({len(record)} bytes)")
    _, version, flags, pbc, n, sid, fid, energy = HEADER.unpack_from(record)
    if version not in (VERSION, WITH_EDGES):
        raise DataError(
            f"has record version {version}, this program reads version {VERSION} and {WITH_EDGES}"
        )
    expected = edges_at(flags, n) + _CRC.size
    if flags & HAS_EDGES and len(record) >= expected:
        expected += COUNT.size + 2 * n + 5 * COUNT.unpack_from(record, expected - _CRC.size)[0]
    if len(record) != expected:
        raise DataError(f"is truncated: {len(record)} bytes, {expected} expected for {n} atoms")
    if zlib.crc32(record[: -_CRC.size]) != _CRC.unpack_from(record, expected - _CRC.size)[0]:
        raise DataError("is corrupt: its checksum does not match")
    return flags, pbc, n, sid, fid, energy


def with_sid(record: bytes, sid: int) -> bytes:
    """A record under another system id."""
    body = bytearray(record[: -_CRC.size])
    struct.pack_into("<q", body, _SID, sid)
    return bytes(body) + _CRC.pack(zlib.crc32(body))


def digests(record: bytes) -> tuple[int, int]:
    """Hashes of a whole record, 64 bits each: of all but ids and edges, and of its composition."""
    _, _, flags, _, n, *_ = HEADER.unpack_from(record)
    end = edges_at(flags, n)
    numbers = np.sort(np.frombuffer(record, "u1", n, end - 3 * n))
    return _digest(record[:_SID] + record[_ENERGY:end]), _digest(numbers.tobytes())


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def edges_at(flags: int, natoms: int) -> int:
    """Bytes of a record before its neighbour list."""
    return HEADER.size + 72 + natoms * (12 * (1 + bool(flags & HAS_FORCES)) + 3)


def cut(record: Buffer, flags: int, natoms: int, edges: bool) -> list[Buffer]:
    """Bytes of each array of a checked record, without copying.

    Cell, pos, forces (empty without), atomic_numbers, tags, fixed; with `edges` also degree, source
    and offsets of the stored neighbour list.
    """
    n, at = natoms, HEADER.size
    sizes = [72, 12 * n, 12 * n if flags & HAS_FORCES else 0, n, n, n]
    parts = []
    for size in sizes:
        parts.append(record[at : at + size])
        at += size
    if edges:
        count = COUNT.unpack_from(record, at)[0]
        at += COUNT.size
        for size in (2 * n, 2 * count, 3 * count):
            parts.append(record[at : at + size])
            at += size
    return parts


def decode(record: bytes) -> Structure:
    """The structure of a record. Arrays are read-only views of it.

    Raises:
        DataError: the record is not one of these versions, is truncated or was altered.
    """
    flags, pbc, n, sid, fid, energy = check_record(record)
    has_forces = bool(flags & HAS_FORCES)
    at = HEADER.size

    def take(dtype: str, count: int) -> Array:
        nonlocal at
        array = np.frombuffer(record, dtype, count, at)
        at += array.nbytes
        return array

    return Structure(
        cell=take("<f8", 9).reshape(3, 3),
        pos=take("<f4", 3 * n).reshape(n, 3),
        forces=take("<f4", 3 * n).reshape(n, 3) if has_forces else None,
        atomic_numbers=take("u1", n),
        tags=take("i1", n),
        fixed=take("?", n),
        pbc=PBC[pbc],
        energy=energy if flags & HAS_ENERGY else None,
        sid=sid,
        fid=fid,
    )
