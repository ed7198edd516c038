"""How much a micro-batch may hold, and the few shapes that compiled ones are filled up to."""

import math

import numpy as np

from atomsweep.data.batches.ghosts import Shape
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.mapped import give_back
from atomsweep.data.structure import Array

ROOM = 1.5  # times the structures and atoms that usually come with so many edges
SPREAD = 5.0  # standard deviations of a sum above its mean that a shape has room for
LOOKED_AT = 1 << 16  # structures whose sizes tell those of all
STEPS = 8  # a batch that is too large for a shape gets one larger by this part of it


def limits(data: GraphDataset, batch_edges: int) -> tuple[tuple[Array, Array], Array]:
    """Atoms and edges of each structure, and what a micro-batch of at most `batch_edges` holds.

    Structures and atoms are limited too, to `ROOM` times what usually comes with so many edges, so
    that batches of a fixed shape exist.

    Raises:
        ValueError: neighbours are found for each batch, so that nobody knows how many there are; or
            a structure has more than `batch_edges`.

    Shape: -> ((num,), (num,)), (3,): structures, atoms, edges.
    """
    edges, natoms = data.num_edges, data.natoms
    if edges is None:
        raise ValueError(
            "engine.batch_edges needs the number of edges of each structure, which is known where "
            "neighbours are stored (`atomsweep data convert --neighbors`) or fit engine.cache_gib"
        )
    largest = int(edges.max())
    if largest > batch_edges:
        raise ValueError(
            f"engine.batch_edges={batch_edges} is less than the largest structure has, {largest}; "
            "raise it to that at least"
        )
    mean = float(edges.mean())
    structures = max(1, math.ceil(ROOM * batch_edges / mean))
    atoms = max(int(natoms.max()), math.ceil(ROOM * batch_edges * float(natoms.mean()) / mean))
    give_back(edges)
    give_back(natoms)
    return (natoms, edges), np.array([structures, atoms, batch_edges])


def usual_shape(data: GraphDataset, num_edges: Array | None, structures: int) -> Shape:
    """One that nearly every batch of so many structures fits into, with a ghost.

    Args:
        data: training split.
        num_edges: of each of its structures; where nobody knows, the first structure tells how many
            an atom has.
        structures: of a micro-batch.
    """
    atoms = _usual_sum(data.natoms, structures)
    if num_edges is None:
        one = data.batch([0])
        edges = math.ceil(one.edge_index.shape[1] / len(one.pos) * atoms)
    else:
        edges = _usual_sum(num_edges, structures)
    return _told_apart(Shape(structures + 1, atoms + 1, edges))


def shape_of_limits(limits: Array) -> Shape:
    """One that every batch within the limits fits into, with its ghosts."""
    structures, atoms, edges = (int(limit) for limit in limits)
    return _told_apart(Shape(structures + 1, atoms + structures, edges))


def filled_shape(real: Shape, usual: Shape) -> Shape:
    """What a batch is filled up to: `usual`, or what is larger by as few eighths of it as it takes.

    So a run has one shape, or a few where a batch is unusually large.
    """
    structures = _enough(real.structures + 1, usual.structures)
    atoms = _enough(real.atoms + structures - real.structures, usual.atoms)
    return _told_apart(Shape(structures, atoms, _enough(real.edges, usual.edges)))


def _usual_sum(sizes: Array, count: int) -> int:
    sample = np.asarray(sizes[:: -(-len(sizes) // LOOKED_AT)], dtype=np.float64)
    spread = SPREAD * sample.std() * count**0.5
    return math.ceil(min(sample.mean() * count + spread, float(sample.max()) * count))


def _enough(needed: int, usual: int) -> int:
    step = max(1, usual // STEPS)
    return usual + max(0, -(-(needed - usual) // step)) * step


def _told_apart(shape: Shape) -> Shape:
    """Rows of atoms, edges and structures are known by their number (`nn.sync_norm`)."""
    structures, atoms, edges = shape
    atoms += atoms == structures
    while edges in (structures, atoms):
        edges += 1
    return Shape(structures, atoms, edges)
