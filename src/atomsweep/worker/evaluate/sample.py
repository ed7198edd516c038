"""Structures of a run's data set as graphs, for evaluations that look at some of a split."""

import numpy as np
from torch_geometric.data import Batch

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.tensors import to_device
from atomsweep.data.dataset import Subset
from atomsweep.data.structure import Array
from atomsweep.engine.batches import ready
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.worker.trained import TrainedModel


def sample(model: TrainedModel, split: str, count: int, seed: int) -> GraphDataset:
    """At most `count` structures of a split, drawn without replacement.

    Raises:
        ValueError: the data set has no such split, or a structure cannot be used.
    """
    source = model.source()
    source.prepare()
    dataset = source.split(split)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    network = model.model
    graph = None if network.cutoff is None else RadiusGraph(network.cutoff, network.max_neighbors)
    return GraphDataset(
        Subset(dataset, np.sort(chosen)),
        graph,
        on_error=source.on_error,
        unsupported=network.unsupported_elements(),
    )


def batch_of(model: TrainedModel, data: GraphDataset, places: Array) -> Batch:
    """Structures of a sample on the model's device and in its precision, ready for its forward.

    Shape: (B,).
    """
    batch = to_device(ready(data, model.model, places, model.device), model.device)
    batch.pos, batch.cell = batch.pos.to(model.dtype), batch.cell.to(model.dtype)
    return batch
