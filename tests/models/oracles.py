"""Slow and independent: vectors of periodic edges and triplets of edges, by Python loops."""

import torch


def image_vectors(batch, pos):
    """Vectors from centre to neighbour (E, 3), edge by edge."""
    rows = []
    for edge in range(batch.edge_index.shape[1]):
        source, target = batch.edge_index[:, edge].tolist()
        cell = batch.cell[batch.batch[target]]
        image = sum(int(n) * row for n, row in zip(batch.cell_offsets[edge], cell, strict=True))
        rows.append(pos[source] + image - pos[target])
    return torch.stack(rows)


def forces_of(energy, pos):
    return -torch.autograd.grad(energy.sum(), pos)[0]


def triplets(edge_index, cell_offsets):
    """Pairs of edges (k→j, j→i) but those that go back to the same image of i. Two lists."""
    pairs = edge_index.T.tolist()
    offsets = cell_offsets.tolist()
    into = {}
    for edge, (_, target) in enumerate(pairs):
        into.setdefault(target, []).append(edge)
    first, second = [], []
    for ji, (j, i) in enumerate(pairs):
        for kj in into.get(j, []):
            k = pairs[kj][0]
            shift = [a + b for a, b in zip(offsets[kj], offsets[ji], strict=True)]
            if k == i and not any(shift):
                continue
            first.append(kj)
            second.append(ji)
    return torch.tensor(first, dtype=torch.long), torch.tensor(second, dtype=torch.long)
