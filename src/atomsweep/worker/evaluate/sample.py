"""Structures of a run's data set as graphs, for evaluations that look at some of a split."""

import numpy as np

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import Subset
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
