import json

import numpy as np
import pytest

from atomsweep.cli.data import main
from atomsweep.data.batches import statistics as module
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.statistics import label_statistics
from atomsweep.data.dataset import InMemoryDataset, Subset
from atomsweep.data.normalizer import LabelStatistics
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError
from atomsweep.graph.neighbors import RadiusGraph
from tests.data.store.test_dataset import random_structure

TOTAL = {1: -13.6, 8: -2041.8, 29: -45_000.7}


def frames(count=300):
    """Totals of 10⁵ eV with a spread of 0.3 eV behind an energy of each element."""
    rng = np.random.default_rng(0)
    made = []
    for seed in range(count):
        one = random_structure(seed)
        one.atomic_numbers = rng.choice([1, 8, 29], len(one.atomic_numbers))
        one.energy = sum(TOTAL[z] for z in one.atomic_numbers.tolist()) + rng.normal(0, 0.3)
        made.append(one)
    return made


def write(path, structures, fingerprint="print-1"):
    with StoreWriter(path, fingerprint) as writer:
        for structure in structures:
            writer.add(structure)
    return StoreDataset(path)


def in_one_piece(structures):
    """As all labels at once give it."""
    energy = np.array([s.energy for s in structures])
    table = np.array([np.bincount(s.atomic_numbers, minlength=119) for s in structures], float)
    references = np.linalg.lstsq(table.T @ table, table.T @ energy, rcond=1e-10)[0]
    rest = energy - table @ references
    free = np.concatenate([s.forces[~s.fixed].ravel() for s in structures]).astype(float)
    return energy, references, rest, np.sqrt((free**2).mean())


@pytest.mark.parametrize("part", [1, 7, 64, 1000])
def test_the_parts_give_what_all_labels_at_once_give(monkeypatch, part):
    monkeypatch.setattr(module, "PART", part)
    monkeypatch.setattr(module, "LARGE", 1 << 40)
    structures = frames()
    found = label_statistics(InMemoryDataset(structures))
    energy, references, rest, forces = in_one_piece(structures)
    assert found["structures"] == 300
    assert found["energy"]["mean"] == pytest.approx(energy.mean(), rel=1e-14)
    assert found["energy"]["std"] == pytest.approx(energy.std(), rel=1e-12)
    np.testing.assert_allclose(found["linear_references"], references, rtol=1e-10, atol=0)
    assert found["energy_minus_references"]["std"] == pytest.approx(rest.std(), rel=1e-8)
    assert found["energy_minus_references"]["mean"] == pytest.approx(rest.mean(), abs=1e-9)
    assert found["forces"]["std"] == pytest.approx(forces, rel=1e-12)
    assert found["energy_spacing"] == 0.0


def test_one_chunk_has_the_same_bits_as_before():
    energy = np.random.default_rng(0).normal(-3.0, 2.0, 4000)
    statistics = LabelStatistics()
    statistics.add_energies(energy, np.ones(4000, dtype=int), np.ones(4000, dtype=int))
    found = statistics.result()["energy"]
    assert (found["mean"], found["std"]) == (energy.mean(), energy.std())


def test_they_are_taken_once_for_a_data_set_and_by_other_processes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 50)
    store = write(tmp_path / "train.lmdb", frames())
    first = label_statistics(store)  # six parts, in processes of their own
    monkeypatch.setattr(module, "LARGE", 1 << 40)
    assert label_statistics(InMemoryDataset(frames())) == first

    def never(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_flat", never)
    again = GraphDataset(StoreDataset(tmp_path / "train.lmdb"), RadiusGraph(4.0), budget=0)
    assert again.label_statistics() == first
    for other in (Subset(store, np.arange(299)), Subset(store, np.arange(1, 300))):
        with pytest.raises(AssertionError, match="read again"):
            label_statistics(other)


def test_no_graph_is_made_for_them(tmp_path, monkeypatch):
    store = write(tmp_path / "train.lmdb", frames(20))
    monkeypatch.setattr(RadiusGraph, "__call__", None)
    dataset = GraphDataset(store, RadiusGraph(4.0), budget=0)
    assert dataset.label_statistics()["structures"] == 20


def test_one_that_is_stopped_leaves_its_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 50)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0})
    store = write(tmp_path / "train.lmdb", frames())
    of_part, read = module._of_part, []

    def stopped(part, *rest):
        read.append(int(part.indices[0]))
        if len(read) == 4:
            raise KeyboardInterrupt
        return of_part(part, *rest)

    monkeypatch.setattr(module, "_of_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        label_statistics(store)
    found = label_statistics(store)
    assert read == [0, 50, 100, 150, 150, 200, 250]
    monkeypatch.setattr(module, "LARGE", 1 << 40)
    assert found == label_statistics(InMemoryDataset(frames()))


def test_what_is_damaged_is_taken_again(tmp_path, caplog):
    store = write(tmp_path / "train.lmdb", frames(20))
    first = label_statistics(store)
    (kept,) = tmp_path.glob("statistics/*/labels.json")
    kept.write_text(kept.read_text()[:-5])
    assert label_statistics(store) == first
    assert "is damaged" in caplog.text
    assert json.loads(kept.read_text()) == first


def test_beside_a_store_that_cannot_be_written_they_lie_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = write(tmp_path / "data" / "train.lmdb", frames(20))
    (tmp_path / "data" / "statistics").write_text("a file where the folder should be")
    first = label_statistics(store)
    assert list(tmp_path.glob("cache/atomsweep/statistics/*/labels.json"))
    monkeypatch.setattr(module, "read_flat", None)
    assert label_statistics(store) == first


def test_fit_normalizer_takes_them_for_the_runs_that_come_after(tmp_path, monkeypatch):
    store = write(tmp_path / "train.lmdb", frames(40))
    assert main(["fit-normalizer", str(tmp_path / "train.lmdb")]) == 0
    told = json.loads((tmp_path / "train.normalizer.json").read_text())
    monkeypatch.setattr(module, "read_flat", None)
    found = label_statistics(store)
    assert {**told, **found} == told
    assert told["frames"] == 40


def test_a_set_of_unknown_content_keeps_nothing_and_a_bad_frame_is_named(tmp_path):
    structures = frames(6)
    label_statistics(write(tmp_path / "a.lmdb", structures, fingerprint=""))
    assert not (tmp_path / "statistics").exists()
    structures[3].energy = float("nan")
    with pytest.raises(DataError, match="structure 3 of memory"):
        label_statistics(InMemoryDataset(structures))
    assert label_statistics(InMemoryDataset(structures), "skip")["structures"] == 5
