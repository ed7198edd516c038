"""Ghosts fill a batch up to a shape, and nothing of a real structure knows of them."""

import numpy as np
import pytest
import torch

from atomsweep import keys
from atomsweep.data.batches.ghosts import (
    Shape,
    row_weights,
    shape_of,
    with_ghosts,
    without_ghosts,
)
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.graph.edges import edge_vectors
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.nn.sync_norm import SyncBatchNorm1d, counted_rows
from tests.engine.fake_gpu_cases import structures

CUTOFF = 4.0


@pytest.fixture(scope="module")
def batch():
    data = GraphDataset(InMemoryDataset(structures(3), "slabs"), RadiusGraph(CUTOFF, None))
    batch = data.batch(np.arange(3))
    batch.places = torch.arange(3)
    return batch


def test_a_batch_without_its_ghosts_is_what_it_was(batch):
    real = shape_of(batch)
    filled = with_ghosts(batch, Shape(6, real.atoms + 11, real.edges + 50), CUTOFF)
    assert shape_of(filled) == (6, real.atoms + 11, real.edges + 50)
    back = without_ghosts(filled, real)
    assert set(back.keys()) == set(batch.keys()) | {keys.REAL, keys.FILLED}
    for name, value in batch.to_dict().items():
        assert torch.equal(back[name], value), name
        assert back[name].data_ptr() == filled[name].data_ptr(), name


def test_ghosts_are_atoms_that_see_only_their_own_images_beyond_the_cutoff(batch):
    real = shape_of(batch)
    filled = with_ghosts(batch, Shape(5, real.atoms + 7, real.edges + 20), CUTOFF)
    source, target = filled.edge_index[:, real.edges :]
    assert torch.equal(source, target)
    assert int(target.min()) >= real.atoms
    assert (edge_vectors(filled)[real.edges :].norm(dim=1) > CUTOFF).all()
    assert (filled.edge_index[1].diff() >= 0).all()
    assert filled.natoms.tolist() == [*batch.natoms.tolist(), 6, 1]
    assert filled.num_edges_per_structure.sum() == filled.edge_index.shape[1]
    assert torch.equal(torch.bincount(filled.batch), filled.natoms)
    assert torch.equal(filled.ptr.diff(), filled.natoms)
    assert torch.linalg.matrix_rank(filled.cell[-1]) == 3
    assert filled.fixed[real.atoms :].all()


@pytest.mark.parametrize("more", [(0, 4, 0), (2, 1, 0), (1, 4, -1)])
def test_a_shape_without_room_is_refused(batch, more):
    shape = Shape(*(have + extra for have, extra in zip(shape_of(batch), more, strict=True)))
    with pytest.raises(ValueError, match="cannot be filled up to"):
        with_ghosts(batch, shape, CUTOFF)


def test_a_field_of_unknown_rows_is_refused(batch):
    other = batch.clone()
    other.charges = torch.zeros(len(batch.pos))
    with pytest.raises(ValueError, match="charges"):
        with_ghosts(other, Shape(5, 99, 9999), CUTOFF)


def test_batch_norm_takes_statistics_of_real_rows(batch):
    real = shape_of(batch)
    filled = with_ghosts(batch, Shape(5, real.atoms + 7, real.edges + 20), CUTOFF)
    rows = torch.randn(real.atoms + 7, 4, generator=torch.Generator().manual_seed(0))
    plain, counted = torch.nn.BatchNorm1d(4), SyncBatchNorm1d(4)
    expected = plain(rows[: real.atoms])
    with counted_rows(row_weights(filled)):
        found = counted(rows)
        with pytest.raises(KeyError):
            counted(rows[:-1])
    torch.testing.assert_close(found[: real.atoms], expected)
    torch.testing.assert_close(counted.running_mean, plain.running_mean)
    torch.testing.assert_close(counted.running_var, plain.running_var)
    counted.eval()
    with counted_rows(row_weights(filled)):
        torch.testing.assert_close(counted(rows[:3]), counted(rows)[:3])


def test_rows_that_cannot_be_told_apart_are_refused(batch):
    real = shape_of(batch)
    filled = with_ghosts(batch, Shape(5, real.edges, real.edges), CUTOFF)
    with pytest.raises(ValueError, match="told apart"):
        row_weights(filled)
