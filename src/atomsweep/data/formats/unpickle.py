"""Pickled records of PyTorch Geometric 1 and 2, decoded without executing anything. No torch.

A pickle is a program that names functions to call. Here every name is looked up in a fixed list of
inert stand-ins that only build numpy arrays, and any other name is refused. Tensors are pickles of
their own inside the pickle; the same list decodes them, so `torch.load` is never called.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from atomsweep.data.structure import Array, DataError

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_CODES = frozenset({"b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


# What `torch.save` wrote before 1.6 for one storage, up to its count and data: type and key
_STORAGE_HEADER = re.compile(
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.\x80\x02M\xe9\x03\."
    rb"\x80\x02}q\x00\(X\x10\0\0\0protocol_versionq\x01M\xe9\x03X\r\0\0\0little_endianq\x02\x88"
    rb"X\n\0\0\0type_sizesq\x03}q\x04\(X\x05\0\0\0shortq\x05K\x02X\x03\0\0\0intq\x06K\x04"
    rb"X\x04\0\0\0longq\x07K.uu\."
    rb"\x80\x02\(X\x07\0\0\0storageq\x00ctorch\n(\w+)\nq\x01X.\0\0\0(\d+)q\x02"
    rb"X.\0\0\0[a-z]+(?::\d+)?q\x03(?:K.|M..|J....)Ntq\x04Q\."
    rb"\x80\x02]q\x00X.\0\0\0\2q\x01a\.",
    re.DOTALL,
)
_STOP, _LONG_BINPUT, _PUT = (ord(code) for code in ".rp")
_TWO_LINES = {ord("c"), ord("i")}
_ARGUMENTS = {ord(op.code): op.arg.n if op.arg is not None else 0 for op in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class RefusedPickle(DataError):
    """A pickle names something that no data record needs; nothing of it was executed."""


class _Sealed(type):
    """Classes that a pickle cannot alter."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise RefusedPickle("tries to alter a class")


class _Record(metaclass=_Sealed):
    """Stands for a class of PyG: takes whatever attributes its pickle sets."""


class _Dtype(metaclass=_Sealed):
    """Stands for a numpy dtype of plain numbers."""

    __slots__ = ("code",)
    code: str

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|", "="):
            raise RefusedPickle(f"holds numbers of byte order {state[1]!r}")


class _Array(metaclass=_Sealed):
    """Stands for a numpy array that is filled after it was made."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _plain_array(data, dtype, shape, "F" if fortran else "C")


class _Call:
    """A function of the list, without attributes that a pickle could set."""

    __slots__ = ()


class _RebuildTensor(_Call):
    def __call__(
        self, storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Array:
        if type(storage) is not np.ndarray or storage.ndim != 1 or len(size) != len(stride):
            raise RefusedPickle("holds a tensor without a storage")
        if math.prod(size) == 0:
            return np.zeros(size, storage.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride, 0) < 0 or last >= len(storage):
            raise RefusedPickle("holds a tensor that reaches outside its storage")
        if math.prod(size) > len(storage):
            raise RefusedPickle("holds a tensor larger than its storage")
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


class _LoadStorage(_Call):
    """Stands for `torch.storage._load_from_bytes`: PyTorch's format before 1.6, kept in pickles."""

    def __call__(self, data: bytes) -> Array:
        if header := _STORAGE_HEADER.match(data):  # the usual one, ten times as fast
            dtype = _STORAGE_TYPES.get(("torch", header[1].decode()))
            if dtype is None:
                raise RefusedPickle(f"holds a tensor of type {header[1].decode()}")
            return self._numbers(data, header.end(), dtype)
        at, reader = 0, _StorageUnpickler(io.BytesIO(data))

        def load() -> Any:
            nonlocal at
            at = _check_memo(data, at)
            return reader.load()

        if data[:2] == b"PK" or load() != _TORCH_MAGIC:
            raise RefusedPickle("holds a tensor in a format that pickled records do not use")
        load()  # version of the format
        if load().get("little_endian") is not True:
            raise RefusedPickle("holds a tensor of a machine with another byte order")
        (dtype, key, count, view), keys = load(), load()
        storage = self._numbers(data, at, dtype)
        if keys != [key] or (view is None and count != len(storage)):
            raise RefusedPickle("holds a tensor whose size is not that of its data")
        if view is not None:
            _, start, length = view
            storage = storage[start : start + length]
        return storage

    def _numbers(self, data: bytes, at: int, dtype: np.dtype[Any]) -> Array:
        count = int.from_bytes(data[at : at + 8], "little")
        if len(data) - at - 8 != count * dtype.itemsize:
            raise RefusedPickle("holds a tensor whose size is not that of its data")
        return np.frombuffer(data, dtype, count, at + 8)


class _Encode(_Call):
    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RefusedPickle("asks for an encoding other than latin1")
        return text.encode("latin1")


class _EmptyDict(_Call):
    def __call__(self) -> dict[str, Any]:
        return {}


class _EmptyBytes(_Call):
    def __call__(self) -> bytes:
        return b""


class _MakeDtype(_Call):
    def __call__(self, code: str, *_: Any) -> _Dtype:
        if type(code) is not str or code not in _CODES:
            shown = repr(code) if type(code) is str else f"a {type(code).__name__}"
            raise RefusedPickle(f"holds numpy values of type {shown}")
        dtype = _Dtype()
        dtype.code = code
        return dtype


class _Scalar(_Call):
    def __call__(self, dtype: _Dtype, data: bytes) -> Any:
        return _plain_array(data, dtype, (), "C").item()


class _Reconstruct(_Call):
    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _FromBuffer(_Call):
    def __call__(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Array:
        return _plain_array(data, dtype, shape, order)


def _plain_array(data: bytes, dtype: Any, shape: Any, order: Any) -> Array:
    if type(dtype) is not _Dtype or not isinstance(data, (bytes, bytearray)) or order not in "CF":
        raise RefusedPickle("holds a numpy array that is not of plain numbers")
    return np.frombuffer(data, dtype.code).reshape(shape, order=order)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_geometric.data.data", "Data"): _Record,
    ("torch_geometric.data.data", "DataEdgeAttr"): _Record,
    ("torch_geometric.data.data", "DataTensorAttr"): _Record,
    ("torch_geometric.data.storage", "GlobalStorage"): _Record,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch.storage", "_load_from_bytes"): _LoadStorage(),
    ("collections", "OrderedDict"): _EmptyDict(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _EmptyBytes(),
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy", "ndarray"): _Call(),
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Scalar()
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Reconstruct()
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()
_STORAGE_TYPES = {("torch", name): np.dtype(code) for name, code in _STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    allowed = _ALLOWED

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise RefusedPickle(
                f"names {module}.{name}, which no data record needs; nothing was executed"
            ) from None


class _StorageUnpickler(_Unpickler):
    allowed = {}  # noqa: RUF012 (nothing is called inside a tensor)

    def find_class(self, module: str, name: str) -> Any:
        found = _STORAGE_TYPES.get((module, name))
        return _StorageType(found) if found is not None else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> tuple[np.dtype[Any], str, int, Any]:
        kind, storage_type, key, _location, count, *view = pid
        if kind != "storage" or type(storage_type) is not _StorageType:
            raise RefusedPickle(f"holds a tensor of {kind!r}, not of a storage")
        return storage_type.dtype, key, count, view[0] if view else None


class _StorageType:
    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype


class _PlainUnpickler(_Unpickler):
    allowed = {}  # noqa: RUF012


def decode_record(data: bytes) -> dict[str, Any]:
    """Attributes of a pickled `Data` of PyG 1 or 2, or of a pickled dict.

    Tensors and numpy arrays become read-only numpy arrays, numpy scalars Python numbers. Attributes
    that are None are left out.

    Raises:
        RefusedPickle: it names a function or class that is not on the list; none is ever called.
        DataError: it is no pickle, is cut off or damaged.
    """
    loaded = _load(_Unpickler, data)
    if type(loaded) is _Record:
        loaded = vars(loaded)
        if type(store := loaded.get("_store")) is _Record:  # PyG 2; PyG 1 keeps them in the object
            loaded = vars(store).get("_mapping")
    if type(loaded) is not dict:
        raise DataError(f"is a pickled {type(loaded).__name__}, not a record of a structure")
    fields = {}
    for name, value in loaded.items():
        if type(value) is _Array:
            value = getattr(value, "value", None)
        if value is not None:
            fields[name] = value
    return fields


def decode_plain(data: bytes) -> Any:
    """A pickle of numbers, text, lists, tuples and dicts; any name in it is refused.

    Raises:
        RefusedPickle: it names a function or class.
        DataError: it is no pickle, is cut off or damaged.
    """
    return _load(_PlainUnpickler, data)


def _check_memo(data: bytes, at: int = 0) -> int:
    """Walk over one pickle; where it ends.

    Raises:
        RefusedPickle: it numbers an object beyond its own length, for which the unpickler would set
            aside that much memory.
    """
    while (code := data[at]) != _STOP:
        size = _ARGUMENTS[code]
        at += 1
        if size >= 0:
            if code == _LONG_BINPUT and int.from_bytes(data[at : at + 4], "little") > len(data):
                raise RefusedPickle("numbers more objects than it holds")
            at += size
        elif size == pickletools.UP_TO_NEWLINE:
            end = data.index(b"\n", at)
            if code == _PUT and int(data[at:end]) > len(data):
                raise RefusedPickle("numbers more objects than it holds")
            at = (data.index(b"\n", end + 1) if code in _TWO_LINES else end) + 1
        else:
            width = _LENGTHS[size]
            at += width + int.from_bytes(data[at : at + width], "little")
    return at + 1


def _check_expanded(loaded: Any, limit: int) -> None:
    """Lists within lists, shared by reference, do not come to more values than a pickle has bytes.

    Raises:
        RefusedPickle: they do: an array made of them would not fit into memory.
    """
    waiting, count, records = [loaded], 0, set()
    while waiting:
        value = waiting.pop()
        if type(value) is _Record:
            if id(value) in records:
                continue
            records.add(id(value))
            value = vars(value)
        if type(value) is dict:
            value = list(value.values())
        if type(value) in (list, tuple, set, frozenset):
            count += len(value)
            if count > limit:
                raise RefusedPickle("holds lists within lists that come to more than its size")
            waiting.extend(value)


def _load(unpickler: type[_Unpickler], data: bytes) -> Any:
    try:
        _check_memo(data)
        loaded = unpickler(io.BytesIO(data)).load()
        _check_expanded(loaded, len(data))
        return loaded
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(
            f"is no readable pickle ({len(data)} bytes): {type(error).__name__}: {error}"
        ) from error
