"""Pickled records as OCP writes them, made here, for the tests of the formats that hold them."""

import pickle
from unittest import mock

import lmdb
import numpy as np
import torch
from torch_geometric.data import Data


def s2ef_fields(seed, natoms=4, **changes):
    """Fields of an OC20 S2EF record, as tensors of the published types."""
    rng = np.random.default_rng(seed)
    fields = {
        "pos": torch.tensor(rng.normal(size=(natoms, 3)), dtype=torch.float32),
        "cell": 8 * torch.eye(3)[None],
        "atomic_numbers": torch.tensor([29.0] * (natoms - 1) + [8.0]),
        "natoms": natoms,
        "tags": torch.tensor([0, 1, 1, 2][:natoms]),
        "fixed": torch.tensor([1.0, 0.0, 0.0, 0.0][:natoms]),
        "force": torch.tensor(rng.normal(size=(natoms, 3)), dtype=torch.float32),
        "y": float(rng.normal()),
        "sid": seed // 3,
        "fid": seed,
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def is2re_fields(seed, **changes):
    """Fields of an OC20 IS2RE record."""
    relaxed = {
        "y_init": 1.5,
        "y_relaxed": -float(seed),
        "pos_relaxed": torch.full((4, 3), float(seed)) + torch.arange(4)[:, None],
        "sid": seed,
    }
    fields = s2ef_fields(seed, y=None, fid=None, force=None)
    return {
        name: value for name, value in {**fields, **relaxed, **changes}.items() if value is not None
    }


def as_pyg_2(fields):
    return pickle.dumps(Data(**fields), protocol=-1)


class _OldData:
    """PyG 1 kept attributes in the object, absent ones as None."""


_OldData.__module__, _OldData.__qualname__ = "torch_geometric.data.data", "Data"


def as_pyg_1(fields):
    old = _OldData()
    vars(old).update({"x": None, "edge_index": None, **fields})
    with mock.patch("torch_geometric.data.data.Data", _OldData):
        return pickle.dumps(old, protocol=2)


def write_lmdb(path, records, length=True, **extra):
    """An LMDB of the published layout; `length` may be True, False or a number that lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26)
    with env.begin(write=True) as transaction:
        for index, record in enumerate(records):
            if record is not None:
                transaction.put(str(index).encode(), record)
        if length is not False:
            number = len(records) if length is True else length
            transaction.put(b"length", pickle.dumps(number, protocol=-1))
        for key, value in extra.items():
            transaction.put(key.encode(), value)
    env.close()
    return path


def write_oc20_layout(root):
    """Three records for each folder of OC20's S2EF archives, under `root`."""
    for folder in ("2M/train", "all/train", *(f"all/val_{n}" for n in VALIDATION)):
        directory = root / "s2ef" / folder
        directory.mkdir(parents=True)
        records = [as_pyg_2(s2ef_fields(seed)) for seed in range(3)]
        write_lmdb(directory / "data.0000.lmdb", records)
    return root


VALIDATION = ("id", "ood_ads", "ood_cat", "ood_both")
