import io
import os
import pickle
import subprocess
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from atomsweep.data.formats.unpickle import RefusedPickle, decode_plain, decode_record
from atomsweep.data.structure import DataError
from tests.data.formats.pyg_records import as_pyg_1, as_pyg_2, s2ef_fields


@pytest.mark.parametrize("pickled", [as_pyg_1, as_pyg_2, lambda f: pickle.dumps(f, protocol=4)])
def test_fields_are_what_was_pickled(pickled):
    fields = s2ef_fields(3)
    decoded = decode_record(pickled(fields))
    assert set(decoded) == set(fields)
    for name, value in fields.items():
        if isinstance(value, torch.Tensor):
            assert decoded[name].dtype == value.numpy().dtype
            assert np.array_equal(decoded[name], value.numpy())
        else:
            assert decoded[name] == value


TYPES = "float32 float64 float16 int64 int32 int16 int8 uint8 bool"


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in TYPES.split()])
def test_every_plain_type_of_tensor_is_decoded(dtype):
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    decoded = decode_record(pickle.dumps({"a": tensor, "t": tensor.T, "s": tensor[1:, 1:]}))
    assert np.array_equal(decoded["a"], tensor.numpy())
    assert np.array_equal(decoded["t"], tensor.T.numpy())
    assert np.array_equal(decoded["s"], tensor[1:, 1:].numpy())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_arrays_and_scalars_are_decoded(protocol):
    fields = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype="i4").reshape(2, 3)),
        "x": np.float64(1.5),
        "n": np.int64(7),
        "empty": np.zeros((0, 3)),
    }
    decoded = decode_record(pickle.dumps(fields, protocol=protocol))
    for name, value in fields.items():
        assert np.array_equal(decoded[name], value), name
        assert np.shape(decoded[name]) == np.shape(value)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path, call=os.system):
        self.path, self.call = path, call

    def __reduce__(self):
        return self.call, (f"touch {self.path}",)


def nested(payload):
    """A record one of whose tensors is a pickle of its own that runs `payload`."""

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(payload),)

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, (1,), (1,), False, OrderedDict())

    return {"pos": Tensor()}


def zipped(payload):
    """The same in PyTorch's newer format."""
    buffer = io.BytesIO()
    torch.save({"a": payload}, buffer)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (buffer.getvalue(),)

    return {"pos": Storage()}


def inside_data(payload):
    return Data(pos=torch.zeros(1, 3), extra=payload)


@pytest.mark.parametrize("hide", [lambda p: p, lambda p: {"y": p}, nested, zipped, inside_data])
def test_a_malicious_record_does_nothing(tmp_path, hide):
    mark = tmp_path / "mark"
    record = pickle.dumps(hide(Touch(mark)))
    with pytest.raises(RefusedPickle):
        decode_record(record)
    assert not mark.exists()
    with suppress(Exception):
        pickle.loads(record)  # the record is one that does harm where it is executed
    assert mark.exists()


@pytest.mark.parametrize(
    ("call", "named"),
    [(os.system, "posix.system"), (eval, "builtins.eval"), (subprocess.call, "subprocess.call")],
)
def test_what_is_refused_is_named(tmp_path, call, named):
    with pytest.raises(RefusedPickle, match=f"names {named}, .* nothing was executed"):
        decode_record(pickle.dumps({"y": Touch(tmp_path / "mark", call)}))
    with pytest.raises(RefusedPickle, match=f"names {named}"):
        decode_record(pickle.dumps(nested(Touch(tmp_path / "mark", call))))


def test_dotted_names_do_not_lead_out_of_the_list():
    record = b"\x80\x04\x8c\x07_codecs\x94\x8c\x0fencode.__self__\x94\x93."
    with pytest.raises(RefusedPickle, match=r"_codecs.encode.__self__"):
        decode_record(record)


def test_a_pickle_cannot_alter_the_decoder():
    data = b"\x80\x02ctorch_geometric.data.data\nData\n"
    slots = data + b"N}X\x01\x00\x00\x00xK\x01s\x86b."  # BUILD with (None, {"x": 1}): setattr
    with pytest.raises(DataError):
        decode_record(slots)
    call = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00xK\x01s\x86b."
    with pytest.raises(DataError):
        decode_record(call)
    assert set(decode_record(as_pyg_2(s2ef_fields(1)))) == set(s2ef_fields(1))


class Reduced:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (9,), (1,)), (5, (4,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (9, 1)), (0, (99,), (0,))],
)
def test_a_tensor_cannot_reach_outside_its_storage(offset, size, stride):
    storage = torch.zeros(8).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    record = Reduced(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )
    with pytest.raises(RefusedPickle, match="storage"):
        decode_record(pickle.dumps({"pos": record}))


def test_python_objects_in_numpy_arrays_are_refused():
    with pytest.raises(RefusedPickle, match="type 'O8'"):
        decode_record(pickle.dumps({"a": np.array([1, "x"], dtype=object)}))


@pytest.mark.parametrize("cut", [0, 1, 50, 500, -1])
def test_a_record_cut_off_is_an_error(cut):
    record = as_pyg_2(s2ef_fields(1))
    with pytest.raises(DataError, match="no readable pickle"):
        decode_record(record[:cut])


def test_noise_is_an_error_and_nothing_else():
    rng = np.random.default_rng(0)
    record = bytearray(as_pyg_2(s2ef_fields(1)))
    for _ in range(300):
        damaged = bytearray(record)
        damaged[rng.integers(len(record))] = rng.integers(256)
        with suppress(DataError):
            decode_record(bytes(damaged))


def test_plain_values_need_no_names():
    assert decode_plain(pickle.dumps({"random1": (1, 2.5, "a")})) == {"random1": (1, 2.5, "a")}
    with pytest.raises(RefusedPickle, match="numpy"):
        decode_plain(pickle.dumps(np.float64(1)))


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
def test_a_pickle_cannot_ask_for_memory_that_it_does_not_fill(put):
    with pytest.raises(RefusedPickle, match="numbers more objects than it holds"):
        decode_record(b"\x80\x02}" + put + b".")
    tensor = {"pos": Reduced(torch.storage._load_from_bytes, b"\x80\x02}" + put + b".")}
    with pytest.raises(RefusedPickle, match="numbers more objects than it holds"):
        decode_record(pickle.dumps(tensor))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_storage_in_any_protocol_is_decoded(protocol):
    buffer = io.BytesIO()
    torch.save(
        torch.arange(3.0).storage(),
        buffer,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=False,
    )
    storage = Reduced(torch.storage._load_from_bytes, buffer.getvalue())
    record = Reduced(torch._utils._rebuild_tensor_v2, storage, 0, (3,), (1,), False, OrderedDict())
    assert decode_record(pickle.dumps({"pos": record}))["pos"].tolist() == [0, 1, 2]
    cut = Reduced(torch.storage._load_from_bytes, buffer.getvalue()[:-1])
    with pytest.raises(RefusedPickle, match="size is not that of its data"):
        decode_record(pickle.dumps({"pos": cut}))


@pytest.mark.parametrize("field", ["pos", "sid", "cell"])
def test_shared_lists_cannot_become_more_than_the_pickle_holds(field):
    shared = [0.0] * 10
    for _ in range(12):
        shared = [shared] * 10
    data = pickle.dumps({**s2ef_fields(3), field: shared})
    with pytest.raises(RefusedPickle, match="come to more than its size"):
        decode_record(data)


def test_plain_lists_are_still_decoded():
    fields = {"pos": [[0.0, 1.0, 2.0]] * 9, "tags": [1] * 300}
    assert decode_record(pickle.dumps(fields)) == fields
