"""Structures per second and core from each format, to a structure and to a ready batch of 32.

    OMP_NUM_THREADS=1 python benchmarks/data_loading.py [--frames 2000] [--atoms 64]

The same frames are written in every format (OC20-like slabs, 64 atoms, about 40 neighbours within
6 Å, at most 50), then read in one random order in one process. All of it is in the page cache: what
is compared is the CPU's work, and a disk that is slower than it decides instead. Who has LMDBs
without edges compares the rows in which the graph is found each time; the last lines say what the
native store gains there. "plain pickle" runs the pickles (its own files) and collates PyG objects,
as OCP's reader does. "edges" says where neighbour lists come from: stored in the file, found for
each batch, or none.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase.build import add_adsorbate, fcc111, molecule
from ase.db import connect
from ase.io import write as ase_write
from torch_geometric.data import Batch, Data

from atomsweep.data.atoms import structure_from_atoms, structure_to_atoms
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.extxyz import ExtXYZReader
from atomsweep.data.formats.ocp_lmdb import S2EF
from atomsweep.data.frames import Reader
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import Structure
from atomsweep.graph.neighbors import RadiusGraph

GRAPH = RadiusGraph(6.0, 50)
BATCH = 32
METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au")


def slab(seed: int, layers: int) -> Structure:
    """A rattled fcc(111) slab of two metals with CO on it, with made-up labels."""
    rng = np.random.default_rng(seed)
    first, second = rng.choice(METALS, 2, replace=False)
    atoms = fcc111(first, (4, 4, layers), a=4.0, vacuum=8.0)
    atoms.symbols[rng.random(len(atoms)) < 0.5] = second
    add_adsorbate(atoms, molecule("CO"), height=2.0, position=(2.0, 2.0))
    atoms.pbc = True
    atoms.rattle(0.1, seed=seed)
    structure = structure_from_atoms(atoms, sid=seed, fid=0)
    structure.tags = np.minimum(structure.tags, 2)
    structure.energy, structure.forces = float(rng.normal()), rng.normal(size=(len(atoms), 3))
    structure.pos = structure.pos.astype(np.float32)
    return structure


def to_data(s: Structure, edges: bool) -> Data:
    """As OCP's preprocessing writes it."""
    data = Data(
        pos=torch.as_tensor(s.pos),
        cell=torch.as_tensor(s.cell, dtype=torch.float32)[None],
        atomic_numbers=torch.as_tensor(s.atomic_numbers, dtype=torch.float32),
        natoms=s.natoms,
        tags=torch.as_tensor(s.tags),
        fixed=torch.as_tensor(s.fixed, dtype=torch.float32),
        force=torch.as_tensor(s.forces, dtype=torch.float32),
        y=s.energy,
        sid=s.sid,
        fid=s.fid,
    )
    if edges:
        index, offsets = GRAPH(s.pos, s.cell, s.pbc)
        data.edge_index = torch.as_tensor(index)
        data.cell_offsets = torch.as_tensor(offsets.astype(np.int64))
    return data


def write_pickled(path: Path, structures: Sequence[Structure], edges: bool) -> None:
    """An LMDB of pickled PyG objects."""
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 34)
    with env.begin(write=True) as transaction:
        for index, structure in enumerate(structures):
            record = pickle.dumps(to_data(structure, edges), protocol=-1)
            transaction.put(str(index).encode(), record)
        transaction.put(b"length", pickle.dumps(len(structures)))
    env.close()


def write_store(path: Path, structures: Sequence[Structure], graph: RadiusGraph | None) -> None:
    """A native store."""
    with StoreWriter(path, graph=graph) as writer:
        for structure in structures:
            writer.add(structure)


def rate(work: Callable[[], Any], count: int) -> float:
    """Structures per CPU second: the best of three turns, each at least 0.3 s long."""
    best = 0.0
    for _ in range(3):
        start, done = time.process_time(), 0
        while (spent := time.process_time() - start) < 0.3 or not done:
            work()
            done += count
        best = max(best, done / spent)
    return best


def batches(order: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The order in pieces of `BATCH`."""
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4, help="of 16 atoms each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    structures = [slab(seed, options.layers) for seed in range(options.frames)]
    order = np.random.default_rng(0).permutation(len(structures))
    rows: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        rows += pickled(where, structures, order)
        rows += readers(where, structures)
        rows += native(where, structures, order)
    base = next(value for name, _, value in rows if name == "plain pickle, ready batch")
    print(f"{len(structures)} frames of {structures[0].natoms} atoms, batches of {BATCH}, 1 thread")
    print(f"{'what':<38} {'edges':<14} {'structures/s':>12} {'× pickle':>9}")
    for name, edges, value in rows:
        print(f"{name:<38} {edges:<14} {value:>12.0f} {value / base:>9.2f}")
    rates = {name: value for name, _, value in rows}
    found = rates["plain pickle, graph found each time"]
    print("All of it was in the page cache: a disk that is slower than this decides instead.")
    print(
        "Who has LMDBs without edges and a model that needs them gains "
        f"{rates['native store, graph found each time'] / found:.1f} × by the native store alone, "
        f"{rates['native store, ready batch'] / found:.1f} × once it stores the lists."
    )


def pickled(
    where: Path, structures: Sequence[Structure], order: np.ndarray[Any, Any]
) -> list[tuple[str, str, float]]:
    """The usual way: run the pickle, collate objects."""
    rows = []
    for edges in (False, True):
        path = where / f"pickled_{edges}.lmdb"
        write_pickled(path, structures, edges)
        env = lmdb.open(str(path), subdir=False, lock=False, readonly=True)
        chosen = batches(order[: min(len(order), 512)])

        def load(indices: np.ndarray[Any, Any], env: Any = env) -> list[Data]:
            with env.begin() as transaction:
                return [pickle.loads(transaction.get(str(i).encode())) for i in indices]

        def found(indices: np.ndarray[Any, Any], load: Any = load) -> Batch:
            items = load(indices)
            for data in items:
                index, offsets = GRAPH(data.pos.numpy(), data.cell[0].numpy(), [True] * 3)
                data.edge_index = torch.as_tensor(index)
                data.cell_offsets = torch.as_tensor(offsets)
            return Batch.from_data_list(items)

        count = sum(map(len, chosen))
        label = "stored" if edges else "none"
        rows.append(
            ("plain pickle, read", label, rate(lambda c=chosen: [load(i) for i in c], count))
        )
        name = "plain pickle, ready batch" if edges else "plain pickle, batch without edges"
        rows.append(
            (name, label, rate(lambda c=chosen: [Batch.from_data_list(load(i)) for i in c], count))
        )
        if not edges:
            few = chosen[:4]
            value = rate(lambda f=few: [found(i) for i in f], 4 * BATCH)
            rows.append(("plain pickle, graph found each time", "found", value))
        env.close()
    return rows


def readers(where: Path, structures: Sequence[Structure]) -> list[tuple[str, str, float]]:
    """This package's readers of foreign files, which `convert` uses once; and ASE itself."""
    from ase.io import read

    few = list(structures[:256])
    atoms = [structure_to_atoms(s) for s in few]
    ase_write(where / "a.extxyz", atoms)
    ase_write(where / "a.traj", atoms)
    with connect(where / "a.db") as database:
        for one in atoms:
            database.write(one)
    text = ExtXYZReader("energy", "forces", ("energy", "forces"))
    kinds: list[tuple[str, Reader, str]] = [
        ("decoder of pickled LMDB (executes none)", S2EF(), "pickled_False.lmdb"),
        ("reader of extxyz", text, "a.extxyz"),
        ("reader of .traj", text, "a.traj"),
        ("reader of ASE .db", AseDb(), "a.db"),
    ]
    rows = []
    for name, reader, file in kinds:
        path = where / file
        value = rate(lambda r=reader, p=path: list(r.frames(p, 0, 0, len(few))), len(few))
        rows.append((name, "none", value))
    for file in ("a.extxyz", "a.traj"):
        value = rate(lambda f=file: read(where / f, index=":"), len(few))
        rows.append((f"ASE's own read of {Path(file).suffix}", "none", value))
    return rows


def native(
    where: Path, structures: Sequence[Structure], order: np.ndarray[Any, Any]
) -> list[tuple[str, str, float]]:
    """The native store: read for each batch, and gathered from memory."""
    write_store(where / "plain.lmdb", structures, None)
    write_store(where / "edges.lmdb", structures, GRAPH)
    chosen, few = batches(order), batches(order)[:4]
    plain = StoreDataset(where / "plain.lmdb")
    stored = StoreDataset(where / "edges.lmdb")
    rows = [
        (
            "native store, read one by one",
            "none",
            rate(lambda: [plain[int(i)] for i in order], len(order)),
        )
    ]
    cases = [
        ("native store, batch without edges", "none", plain, None, chosen, 0),
        ("native store, graph found each time", "found", plain, GRAPH, few, 0),
        ("native store, ready batch", "stored", stored, GRAPH, chosen, 0),
        ("native store in memory, ready batch", "in memory", stored, GRAPH, chosen, 1 << 34),
    ]
    for name, edges, store, graph, work, budget in cases:
        dataset = GraphDataset(store, graph, budget=budget)
        count = sum(map(len, work))
        rows.append((name, edges, rate(lambda d=dataset, w=work: [d.batch(i) for i in w], count)))
    first = GraphDataset(stored, GRAPH, budget=0).batch(few[0])
    again = GraphDataset(InMemoryDataset([structures[i] for i in few[0]]), GRAPH).batch(
        range(BATCH)
    )
    assert torch.equal(first.edge_index, again.edge_index)  # what is timed is right
    return rows


if __name__ == "__main__":
    main()
