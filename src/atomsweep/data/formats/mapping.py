"""OC20's and OC22's mapping from a system to its adsorbate and catalyst, read, never executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from atomsweep.data.formats.unpickle import decode_plain
from atomsweep.data.frames import identifier
from atomsweep.data.structure import DataError

# Field by what is not divided; OC22 names its adsorbates by symbol alone
FIELDS = {"adsorbate": ("ads_id", "ads_symbols"), "catalyst": ("bulk_id",)}


def read_mapping(path: Path) -> dict[int, Mapping[str, Any]]:
    """Records of `oc20_data_mapping.pkl` or OC22's by system id.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no pickle of plain records, or an id is no number; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no mapping at {path}; set data.mapping")
    try:
        content = decode_plain(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: the mapping {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected records by system id")
    mapping = {}
    for key, record in content.items():
        sid = identifier(key)
        if sid is None or not isinstance(record, Mapping):
            raise DataError(
                f"{path}: expected a record under random<id>, got {record!r} at {key!r}"
            )
        mapping[sid] = record
    return mapping


def groups_of(path: Path, sids: Iterable[int], split_by: str) -> dict[int, str]:
    """Adsorbate or catalyst of systems, as the mapping has it.

    Raises:
        DataError: a system is not in the mapping, or its record lacks the field; names both.
    """
    mapping, fields = read_mapping(path), FIELDS[split_by]
    groups = {}
    for sid in sids:
        record = mapping.get(sid)
        if record is None:
            raise DataError(f"system {sid} is not in the mapping {path}; it is of another data set")
        value = next((record[field] for field in fields if field in record), None)
        if value is None:
            raise DataError(f"{path}: system {sid} has no {' or '.join(fields)}")
        groups[sid] = str(value)
    return groups
