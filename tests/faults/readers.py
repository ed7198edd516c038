"""A good file of every kind that the program reads, and how it is read."""

import gzip
import io
import lzma
import pickle
import shutil
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from atomsweep.build import UserError
from atomsweep.cli.main import main
from atomsweep.data.formats.describe import describe
from atomsweep.data.formats.files import FileSource
from atomsweep.data.formats.known import open_files
from atomsweep.data.formats.mapping import read_mapping
from atomsweep.data.formats.md17 import MD17
from atomsweep.data.formats.store import NativeStore
from atomsweep.data.normalizer import load_references
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError, structure_fault
from atomsweep.engine import checkpoint
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.report.read.directories import read_directories
from atomsweep.sweep.study import read_statement
from atomsweep.tracking.find import find_runs
from tests.places import REPOSITORY

LABELS = ("energy", "forces")
KEPT = Path(__file__).parents[1] / "kept" / "version_1" / "runs"
STOPPED = next(path.parents[1] for path in KEPT.glob("*/checkpoints/last.pt"))
SWEEPS = REPOSITORY / "sweeps"
GRAPH = RadiusGraph(3.0, 5)


def read_files(path, turn):
    """As `describe` and, every fourth time, as a conversion does."""
    reader, found = open_files(str(path), LABELS)
    described = describe(reader, found.files)
    for energy, _ in (described.energies.least, described.energies.largest):
        assert described.energies.count == 0 or np.isfinite(energy)
    if described.faults.counts:
        assert path.name in described.faults.first
    if turn % 4 == 0:
        converted(reader, path, ["raise", "skip"][turn // 4 % 2])


def converted(reader, path, on_error):
    source = FileSource(
        reader, str(path), str(path.parent / "root"), val_fraction=0.0, workers=1, on_error=on_error
    )
    split = source.split("train")
    for index in range(len(split)):
        assert structure_fault(split[index]) is None


def read_store(path, turn):
    """One by one, many at once, and as a data set."""
    store = StoreDataset(path)
    fine = 0
    for index in range(len(store)):
        try:
            assert structure_fault(store[index]) is None
            fine += 1
        except DataError as error:
            if path.name not in str(error):
                raise
    if fine == len(store):
        store.flat(range(len(store)), store.graph is not None)
    root = str(path.parent / "root")
    source = NativeStore(str(path), root, val_fraction=0.5, on_error="skip")
    source.split("train")
    assert source.describe()["provenance"]
    if turn % 4 == 0:
        read_files(path, turn)


def read_md17(path, turn):
    source = MD17(str(path), "aspirin", "original", str(path.parent), 1, 3, 1)
    source.on_error = ["raise", "skip"][turn % 2]
    for name in source.splits():
        split = source.split(name)
        for index in range(len(split)):
            assert structure_fault(split[index]) is None


def frames(count=6):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        atoms = Atoms("CuCuO", rng.uniform(0, 5, (3, 3)), cell=[5, 5, 9], pbc=True, tags=[0, 1, 2])
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-float(seed), forces=rng.normal(size=(3, 3))
        )
        atoms.info = {"sid": seed // 2, "fid": seed}
        found.append(atoms)
    return found


def make_extxyz(folder):
    import ase.io

    ase.io.write(folder / "a.extxyz", frames(), format="extxyz")
    return folder / "a.extxyz"


def make_gz(folder):
    path = folder / "b.extxyz.gz"
    path.write_bytes(gzip.compress(make_extxyz(folder).read_bytes(), mtime=0))
    (folder / "a.extxyz").unlink()
    return path


def make_xz(folder):
    path = folder / "c.extxyz.xz"
    path.write_bytes(lzma.compress(make_extxyz(folder).read_bytes()))
    (folder / "a.extxyz").unlink()
    return path


def make_traj(folder):
    import ase.io

    ase.io.write(folder / "a.traj", frames())
    return folder / "a.traj"


def make_db(folder):
    from ase.db import connect

    with connect(folder / "a.db") as database:
        for atoms in frames():
            database.write(atoms, data=atoms.info)
    return folder / "a.db"


def make_aselmdb(folder):
    from tests.data.formats.test_ase_db import aselmdb, row_of

    return aselmdb(folder / "a.aselmdb", [row_of(seed) for seed in range(6)])


def make_s2ef(folder):
    from tests.data.formats.pyg_records import as_pyg_2, s2ef_fields, write_lmdb

    edges = torch.zeros(2, 300)  # so long that some lie in pages of their own
    fields = [s2ef_fields(i, edge_index=edges[:, : 60 * i]) for i in range(6)]
    return write_lmdb(folder / "a.lmdb", [as_pyg_2(one) for one in fields])


def make_is2re(folder):
    from tests.data.formats.pyg_records import as_pyg_2, is2re_fields, write_lmdb

    return write_lmdb(folder / "i.lmdb", [as_pyg_2(is2re_fields(i)) for i in range(6)])


def make_store(folder, graph=None):
    from tests.data.store.test_dataset import random_structure

    with StoreWriter(folder / "s.lmdb", "abc", graph=graph) as writer:
        for seed in range(8):
            writer.add(random_structure(seed, 3 + 40 * seed))
    return folder / "s.lmdb"


def make_edges(folder):
    return make_store(folder, GRAPH)


def flat_arrays():
    rng = np.random.default_rng(0)
    return {
        "sys_sid": np.array([4, 9]),
        "sys_numbers": np.array([29, 29, 8, 28, 1]),
        "sys_fixed": np.array([True, False, False, True, False]),
        "sys_tags": np.array([0, 1, 2, 1, 2]),
        "sys_offset": np.array([0, 3, 5]),
        "sys_cell": np.stack([np.eye(3) * 8, np.eye(3) * 9]),
        "sid": np.array([4, 9, 4]),
        "fid": np.array([0, 0, 1]),
        "energy": rng.normal(size=3),
        "pos": rng.uniform(0, 5, (8, 3)),
        "forces": rng.normal(size=(8, 3)),
    }


def make_npz(folder):
    np.savez(folder / "a.npz", **flat_arrays())
    return folder / "a.npz"


def md17_arrays():
    rng = np.random.default_rng(0)
    return {
        "z": np.array([6, 8, 1], dtype="u1"),
        "R": rng.normal(size=(6, 3, 3)),
        "E": rng.normal(size=(6, 1)),
        "F": rng.normal(size=(6, 3, 3)),
    }


def make_md17(folder):
    np.savez(folder / "m.npz", **md17_arrays())
    return folder / "m.npz"


def make_mapping(folder):
    records = {f"random{i}": {"ads_id": i, "bulk_id": f"mp-{i}"} for i in range(5)}
    (folder / "map.pkl").write_bytes(pickle.dumps(records, 2))
    return folder / "map.pkl"


def make_references(folder):
    (folder / "r.json").write_text('{"linear_references": [0.0, -3.5, 1e-3], "frames": 12}')
    return folder / "r.json"


def make_coefficients(folder):
    np.savez(folder / "r.npz", coeff=np.linspace(0, 1, 100))
    return folder / "r.npz"


def make_sweep(name):
    def make(folder):
        return Path(shutil.copy(SWEEPS / name, folder / "table.yaml"))

    return make


def make_runs(folder):
    return Path(shutil.copytree(KEPT, folder / "runs"))


def read_runs(path, turn):
    """The report, and `status`; what cannot be read is told and the rest goes on."""
    runs = read_directories(path)
    assert len(runs.df) + len(runs.problems) >= 3
    if turn % 4 == 0:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert main(["status", "--root", str(path)]) in (0, 1)
    for run in find_runs(path):
        with suppress(ValueError, UserError):
            run.config()


def make_best(folder):
    return _of_kept(folder, "best.pt")


def make_last(folder):
    return _of_kept(folder, "last.pt")


def _of_kept(folder, name):
    return Path(shutil.copy(STOPPED / "checkpoints" / name, folder / name))


def read_checkpoint(path, turn):
    """As a run that goes on, or as a model to use, does."""
    state = checkpoint.load_of(STOPPED.name[-12:], path)
    network = nn.Linear(2, 2)  # any: what does not fit is told
    with suppress(ValueError), checkpoint.fitting(path):
        network.load_state_dict(state["model"])


READERS = {
    "table": (make_sweep("forcenet/table5.yaml"), lambda path, turn: read_statement(path)),
    "study": (make_sweep("hpo/forcenet.yaml"), lambda path, turn: read_statement(path)),
    "runs": (make_runs, read_runs),
    "best": (make_best, read_checkpoint),
    "last": (make_last, read_checkpoint),
    "extxyz": (make_extxyz, read_files),
    "gz": (make_gz, read_files),
    "xz": (make_xz, read_files),
    "traj": (make_traj, read_files),
    "db": (make_db, read_files),
    "aselmdb": (make_aselmdb, read_files),
    "s2ef": (make_s2ef, read_files),
    "is2re": (make_is2re, read_files),
    "store": (make_store, read_store),
    "edges": (make_edges, read_store),
    "npz": (make_npz, read_files),
    "md17": (make_md17, read_md17),
    "mapping": (make_mapping, lambda path, turn: read_mapping(path)),
    "references": (make_references, lambda path, turn: load_references(path)),
    "coefficients": (make_coefficients, lambda path, turn: load_references(path)),
}
