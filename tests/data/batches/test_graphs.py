import multiprocessing

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.data.batches import arrays, graphs
from atomsweep.data.batches.graphs import GraphDataset, atoms_to_batch, eval_batches
from atomsweep.data.batches.sampler import EpochSampler
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError, Structure
from atomsweep.graph.edges import edge_vectors
from atomsweep.graph.neighbors import RadiusGraph
from tests.contracts.params import on_gpu
from tests.data.batches.collated import structures_to_batch

FIELDS = {
    keys.POS: torch.float32,
    keys.ATOMIC_NUMBERS: torch.int64,
    keys.CELL: torch.float32,
    keys.PBC: torch.bool,
    keys.NATOMS: torch.int64,
    keys.BATCH: torch.int64,
    keys.PTR: torch.int64,
    keys.TAGS: torch.int64,
    keys.FIXED: torch.bool,
    keys.ENERGY: torch.float64,
    keys.FORCES: torch.float32,
    keys.EDGE_INDEX: torch.int64,
    keys.CELL_OFFSETS: torch.int16,
    keys.NUM_EDGES: torch.int64,
    keys.SID: torch.int64,
    keys.FID: torch.int64,
}
GRAPH = RadiusGraph(5.0, 20)


def random_structure(seed, natoms=None, labels=True):
    rng = np.random.default_rng(seed)
    n = natoms if natoms is not None else int(rng.integers(2, 9))
    cell = 6.0 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    return Structure(
        atomic_numbers=rng.integers(1, 90, n),
        pos=(rng.random((n, 3)) @ cell).astype(np.float32),
        cell=cell,
        pbc=np.array([True, True, bool(seed % 2)]),
        tags=rng.integers(0, 3, n),
        fixed=rng.random(n) < 0.4,
        forces=rng.normal(size=(n, 3)).astype(np.float32) if labels else None,
        energy=float(rng.normal()) if labels else None,
        sid=seed,
        fid=10 + seed,
    )


def lonely(seed):
    structure = random_structure(seed, natoms=1)
    structure.pbc = np.zeros(3, dtype=bool)
    return structure


@pytest.fixture
def structures():
    return [random_structure(seed) for seed in range(12)]


def assert_equal(a, b):
    assert set(a.keys()) == set(b.keys())
    for key in a.keys():  # noqa: SIM118 (a batch iterates over pairs)
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("indices", [[0], [3, 1, 7], list(range(12)), [5, 5, 2]])
@pytest.mark.parametrize("graph", [GRAPH, None])
def test_gathering_equals_collating_one_object_for_each_structure(structures, indices, graph):
    dataset = GraphDataset(InMemoryDataset(structures), graph)
    assert_equal(
        dataset.batch(indices), structures_to_batch([structures[i] for i in indices], graph)
    )


def test_reading_for_each_batch_equals_gathering(structures):
    kept = GraphDataset(InMemoryDataset(structures), GRAPH)
    read = GraphDataset(InMemoryDataset(structures), GRAPH, budget=0)
    assert kept.in_memory
    assert not read.in_memory
    assert_equal(kept.batch([4, 2, 9]), read.batch([4, 2, 9]))


def test_a_batch_has_the_documented_fields_and_types(structures):
    batch = GraphDataset(InMemoryDataset(structures), GRAPH).batch(np.arange(5))
    assert {key: batch[key].dtype for key in batch.keys()} == FIELDS  # noqa: SIM118
    assert isinstance(batch, Batch)
    assert batch.num_graphs == 5
    assert batch.num_nodes == int(batch.natoms.sum())
    assert batch.cell.shape == (5, 3, 3)
    assert batch.num_edges == int(batch.num_edges_per_structure.sum())


def test_edges_are_sorted_by_target_and_stay_within_their_structure(structures):
    batch = GraphDataset(InMemoryDataset(structures), GRAPH).batch([8, 3, 3, 1])
    source, target = batch.edge_index
    assert (target.diff() >= 0).all()
    assert torch.equal(batch.batch[source], batch.batch[target])
    assert (edge_vectors(batch).norm(dim=1) < 5.001).all()


def test_a_batch_separates_into_the_structures_it_was_made_of(structures):
    batch = GraphDataset(InMemoryDataset(structures), GRAPH).batch([2, 6])
    items = batch.to_data_list()
    again = structures_to_batch([structures[2], structures[6]], GRAPH).to_data_list()
    for mine, theirs in zip(items, again, strict=True):
        for key in theirs.keys():  # noqa: SIM118
            assert torch.equal(mine[key], theirs[key]), key
    assert_equal(Batch.from_data_list(items), batch)


def test_unlabelled_structures_make_batches_without_labels():
    dataset = GraphDataset(
        InMemoryDataset([random_structure(s, labels=False) for s in range(3)]), GRAPH
    )
    batch = dataset.batch([0, 1])
    assert "energy" not in batch
    assert "forces" not in batch


def test_energies_are_kept_in_double_precision():
    structure = random_structure(0)
    structure.energy = -76543.123456789
    dataset = GraphDataset(InMemoryDataset([structure]), GRAPH)
    assert FlatStructures.collect([structure], True, False).energy.tolist() == [-76543.123456789]
    assert dataset.batch([0]).energy.tolist() == [-76543.123456789]


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_a_structure_without_edges_is_named_or_skipped(structures, budget, caplog):
    mixed = InMemoryDataset([*structures[:2], lonely(50), *structures[2:4]], "mixed")
    with pytest.raises(
        DataError, match=r"structure 2 of mixed \(sid 50, fid 60\) has no edges within 5.0"
    ):
        GraphDataset(mixed, GRAPH, budget=budget).batch([0, 2])
    dataset = GraphDataset(mixed, GRAPH, on_error="skip", budget=budget)
    batch = dataset.batch(np.arange(len(dataset)))
    assert batch.sid.tolist() == [0, 1, 2, 3]
    assert len(dataset.skipped) == 1
    assert "skipped 1 of 5" in caplog.text
    assert GraphDataset(mixed, None).batch([2]).num_nodes == 1


def test_a_bad_structure_is_named_or_skipped(structures, caplog):
    structures[3].forces[1, 1] = np.inf
    data = InMemoryDataset(structures, "set")
    with pytest.raises(
        DataError, match=r"structure 3 of set \(sid 3, fid 13\): forces of atom 1 is NaN"
    ):
        GraphDataset(data, GRAPH)
    dataset = GraphDataset(data, GRAPH, on_error="skip")
    assert len(dataset) == 11
    assert dataset.indices.tolist() == [0, 1, 2, *range(4, 12)]
    assert dataset.natoms.tolist() == [structures[i].natoms for i in dataset.indices]
    assert dataset.batch([3]).sid.tolist() == [4]


def test_atoms_on_one_spot_are_named():
    structure = random_structure(7, natoms=3)
    structure.pos[2] = structure.pos[0]
    with pytest.raises(DataError, match=r"structure 0 of memory \(sid 7, fid 17\): atoms"):
        GraphDataset(InMemoryDataset([structure]), GRAPH)


@pytest.mark.parametrize(
    ("indices", "error"),
    [([], ValueError), ([12], IndexError), ([-1], IndexError), ([[0]], ValueError)],
)
def test_senseless_indices_are_refused(structures, indices, error):
    with pytest.raises(error):
        GraphDataset(InMemoryDataset(structures), GRAPH).batch(indices)


def write(path, structures):
    with StoreWriter(path, "print-1") as writer:
        for structure in structures:
            writer.add(structure)
    return StoreDataset(path)


def made(tmp_path):
    return [path.parent for path in tmp_path.glob("arrays/*/arrays.json")]


@pytest.fixture
def small_parts(monkeypatch):
    """Twelve structures are four parts, made in this process."""
    monkeypatch.setattr(arrays, "PART", 3)


def test_arrays_are_made_once_and_mapped_by_whoever_comes_later(
    tmp_path, structures, monkeypatch, small_parts
):
    store = write(tmp_path / "train.lmdb", structures)
    first = GraphDataset(store, GRAPH).batch(np.arange(12))
    assert_equal(first, structures_to_batch(structures, GRAPH))
    assert len(made(tmp_path)) == 1

    def fail(*_):
        raise AssertionError("built again")

    monkeypatch.setattr("atomsweep.data.store.flat.FlatEdges.build", fail)
    monkeypatch.setattr(StoreDataset, "flat", fail)
    again = GraphDataset(StoreDataset(tmp_path / "train.lmdb"), GRAPH)
    assert_equal(again.batch(np.arange(12)), first)
    assert_equal(again.batch([7, 2]), structures_to_batch([structures[7], structures[2]], GRAPH))
    with pytest.raises(AssertionError, match="built again"):
        GraphDataset(store, RadiusGraph(4.5, 20))


def test_arrays_that_were_stopped_go_on_after_the_last_part(
    tmp_path, structures, monkeypatch, small_parts
):
    monkeypatch.setattr(arrays, "NOTES", 0)
    store, build, calls = write(tmp_path / "train.lmdb", structures), FlatEdges.build, []

    def stopped(*arguments):
        calls.append(len(arguments[0].natoms))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return build(*arguments)

    monkeypatch.setattr(FlatEdges, "build", stopped)
    with pytest.raises(KeyboardInterrupt):
        GraphDataset(store, GRAPH)
    (partial,) = tmp_path.glob("arrays/*.partial")
    with (partial / "source.bin").open("ab") as file:  # half a part, before it was counted
        file.write(b"half")
    batch = GraphDataset(store, GRAPH).batch(np.arange(12))
    assert len(calls) == 5
    assert_equal(batch, structures_to_batch(structures, GRAPH))


@pytest.mark.parametrize("lost", ["cut", "gone"])
def test_arrays_that_a_power_cut_shortened_are_begun_anew(
    tmp_path, structures, monkeypatch, small_parts, lost
):
    monkeypatch.setattr(arrays, "NOTES", 0)
    store, append = write(tmp_path / "train.lmdb", structures), arrays._Files.append

    def stopped(files, part):
        if files.done == 2:
            raise KeyboardInterrupt
        append(files, part)

    monkeypatch.setattr(arrays._Files, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        GraphDataset(store, GRAPH)
    monkeypatch.setattr(arrays._Files, "append", append)
    (partial,) = tmp_path.glob("arrays/*.partial")
    for name in ("pos.bin", "atomic_numbers.bin"):
        if lost == "cut":
            with (partial / name).open("r+b") as file:
                file.truncate(1)
        else:
            (partial / name).unlink()
    batch = GraphDataset(store, GRAPH).batch(np.arange(12))
    assert_equal(batch, structures_to_batch(structures, GRAPH))


def test_structures_left_out_are_told_at_each_start(tmp_path, structures, caplog, small_parts):
    store = write(tmp_path / "train.lmdb", [*structures[:5], lonely(50), *structures[5:]])
    for _ in range(2):
        caplog.clear()
        dataset = GraphDataset(store, GRAPH, on_error="skip")
        assert dataset.indices.tolist() == [0, 1, 2, 3, 4, *range(6, 13)]
        assert_equal(dataset.batch(np.arange(12)), structures_to_batch(structures, GRAPH))
        assert "skipped 1 of 13 structures; first: structure 5 of" in caplog.text
    with pytest.raises(DataError, match="structure 5 of .* has no edges within 5.0"):
        GraphDataset(store, GRAPH)


def test_damaged_arrays_are_made_again(tmp_path, structures, caplog):
    store = write(tmp_path / "train.lmdb", structures)
    first = GraphDataset(store, GRAPH).batch(np.arange(12))
    (place,) = made(tmp_path)
    for name, content in [
        ("arrays.json", b""), ("arrays.json", b"garbage"), ("pos.bin", b"short"), ("pos.bin", None)
    ]:  # fmt: skip
        caplog.clear()
        if content is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(content)
        assert_equal(GraphDataset(store, GRAPH).batch(np.arange(12)), first)
        assert "is damaged" in caplog.text


def test_an_image_far_away_makes_the_arrays_wider(tmp_path):
    structure = random_structure(3, natoms=3)
    structure.pos[1] = structure.pos[1] + 200 * structure.cell[0].astype("f4")
    store = write(tmp_path / "train.lmdb", [random_structure(4), structure])
    batch = GraphDataset(store, GRAPH).batch([0, 1])
    assert int(batch.cell_offsets.abs().max()) >= 199
    assert_equal(batch, structures_to_batch([random_structure(4), structure], GRAPH))


def test_where_nothing_can_be_kept_arrays_are_made_in_memory(tmp_path, structures, monkeypatch):
    store = write(tmp_path / "train.lmdb", structures)
    expected = structures_to_batch(structures, GRAPH)
    (tmp_path / "arrays").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert_equal(GraphDataset(store, GRAPH).batch(np.arange(12)), expected)
    assert len(made(tmp_path / "cache" / "atomsweep")) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "train.lmdb"))
    assert_equal(GraphDataset(store, GRAPH).batch(np.arange(12)), expected)


@pytest.mark.parametrize(
    ("stored", "budget", "told"), [(False, 1, True), (False, 1 << 30, False), (True, 1, False)]
)
def test_a_set_over_the_budget_says_that_neighbours_are_found_for_each_batch(
    tmp_path, structures, caplog, stored, budget, told
):
    with StoreWriter(tmp_path / "a.lmdb", "f", graph=GRAPH if stored else None) as writer:
        for structure in structures:
            writer.add(structure)
    dataset = GraphDataset(StoreDataset(tmp_path / "a.lmdb"), GRAPH, budget=budget)
    assert_equal(dataset.batch(np.arange(12)), structures_to_batch(structures, GRAPH))
    message = "found anew for each batch, which is several times slower; store them by `atomsweep"
    assert (message in caplog.text) is told
    assert bool(made(tmp_path)) is (budget > 1)


def edges_of(path):
    return GraphDataset(StoreDataset(path), GRAPH).batch(np.arange(12)).edge_index.shape[1]


@pytest.mark.long
def test_processes_that_start_together_get_the_same_lists(tmp_path, structures):
    write(tmp_path / "train.lmdb", structures)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.map(edges_of, [tmp_path / "train.lmdb"] * 4)
    assert len(set(counts)) == 1
    assert len(made(tmp_path)) == 1


def test_each_epoch_is_a_permutation_without_the_rest():
    sampler = EpochSampler(10, 3, seed=1)
    assert sampler.steps_per_epoch == 3
    epochs = [np.concatenate([sampler.indices(3 * e + s) for s in range(3)]) for e in range(4)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    assert len({(set(range(10)) - set(epoch.tolist())).pop() for epoch in epochs}) > 1


def test_the_order_depends_on_seed_and_step_alone():
    forward = [EpochSampler(10, 4, 5).indices(step).tolist() for step in range(7)]
    sampler = EpochSampler(10, 4, 5)
    backward = [sampler.indices(step).tolist() for step in reversed(range(7))]
    assert forward == backward[::-1]
    assert forward != [EpochSampler(10, 4, 6).indices(step).tolist() for step in range(7)]


def test_a_set_smaller_than_the_batch_is_one_batch():
    sampler = EpochSampler(5, 8, 0)
    assert sampler.steps_per_epoch == 1
    assert sorted(sampler.indices(3).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least 1"):
        EpochSampler(0, 8, 0)


def test_evaluation_visits_every_structure_once_in_order(structures):
    dataset = GraphDataset(InMemoryDataset(structures), GRAPH)
    batches = list(eval_batches(dataset, 5))
    assert [b.num_graphs for b in batches] == [5, 5, 2]
    assert torch.cat([b.sid for b in batches]).tolist() == list(range(12))


def test_ase_atoms_become_a_batch():
    slab = fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True)
    slab.set_tags([1] * 4 + [0] * 8)
    slab.set_constraint(FixAtoms(range(4, 12)))
    add_adsorbate(slab, "O", 1.5, "fcc")
    molecule = Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.1]])
    batch = atoms_to_batch([slab, molecule], RadiusGraph(4.0, None))
    assert batch.natoms.tolist() == [13, 2]
    assert batch.fixed.nonzero().flatten().tolist() == list(range(4, 12))
    assert batch.sid.tolist() == [0, 1]
    assert torch.allclose(batch.pos[:13], torch.as_tensor(slab.positions).float())
    assert (batch.batch[batch.edge_index[1]] == 1).sum() == 2
    assert "forces" not in batch


def test_the_embedded_set_batches_like_its_structures(mini_oc_tiny):
    split = mini_oc_tiny.split("val_ood_both")
    dataset = GraphDataset(split, RadiusGraph())
    assert_equal(dataset.batch([7, 2]), structures_to_batch([split[7], split[2]], RadiusGraph()))
    assert (
        dataset.num_edges.tolist()
        == dataset.batch(range(len(dataset))).num_edges_per_structure.tolist()
    )


@on_gpu
def test_batches_are_cut_out_on_the_device(structures):
    dataset = GraphDataset(InMemoryDataset(structures), GRAPH)
    expected = dataset.batch([3, 1])
    batch = dataset.to("cuda").batch([3, 1])
    assert all(batch[key].is_cuda for key in batch.keys())  # noqa: SIM118
    assert_equal(batch.cpu(), expected)


def test_an_element_that_the_model_lacks_is_named_with_its_structure_or_skipped():
    items = [random_structure(seed) for seed in range(4)]
    items[2].atomic_numbers[0] = 85
    dataset = InMemoryDataset(items, "val")
    with pytest.raises(DataError, match=r"structure 2 of val \(sid 2, fid 12\) holds At"):
        GraphDataset(dataset, GRAPH, unsupported=frozenset({85}))
    kept = GraphDataset(dataset, GRAPH, on_error="skip", unsupported=frozenset({85}))
    assert kept.indices.tolist() == [0, 1, 3]
    assert len(kept.skipped) == 1


def test_the_size_of_a_large_set_is_told_by_few_runs_of_its_structures(monkeypatch):
    """A mapped index of 134 M frames is not read through to decide how its batches are made."""
    monkeypatch.setattr(graphs, "_RUNS", 4)
    monkeypatch.setattr(graphs, "_RUN", 8)
    asked = []

    class Sizes(np.ndarray):
        def __getitem__(self, places):
            asked.append(np.asarray(super().__getitem__(places)))
            return asked[-1]

    sizes = np.arange(1000).view(Sizes)
    assert graphs._mean(sizes) == pytest.approx(499.5, abs=1)
    assert [len(run) for run in asked] == [8] * 4
    assert graphs._mean(np.arange(32)) == 15.5
    assert graphs._mean(np.arange(0)) == 0.0


def test_elements_are_those_of_all_structures_where_they_are_in_memory(tmp_path):
    structures = [random_structure(seed) for seed in range(4)]
    write(tmp_path / "a.lmdb", structures)
    there = {int(z) for one in structures for z in one.atomic_numbers}
    assert GraphDataset(StoreDataset(tmp_path / "a.lmdb"), None).elements() == there
    assert GraphDataset(StoreDataset(tmp_path / "a.lmdb"), None, budget=0).elements() is None
