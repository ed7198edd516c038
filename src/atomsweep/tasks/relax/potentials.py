"""What relaxations ask for forces: a potential, such as a trained model, for many at once."""

import logging
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.data.structure import Structure
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.graph.skin import MovingGraph
from atomsweep.models.base import ForceField, Prediction
from atomsweep.nn.elements import element_names
from atomsweep.transfers import sent

log = logging.getLogger(__name__)


class Forces(NamedTuple):
    """What a potential says of a batch.

    Attributes:
        energy: (B,) float64, eV; None where it predicts none.
        forces: (N, 3) float64, eV/Å, fixed atoms included.
        faults: what is wrong with a structure, by its place in the batch.
    """

    energy: Tensor | None
    forces: Tensor
    faults: dict[int, str]


class Potential(Protocol):
    """Energies and forces of a batch whose positions and cells are float64."""

    device: torch.device

    def refusal(self, structure: Structure) -> str | None:
        """Why it cannot say anything about a structure, in words, or None."""

    def __call__(self, batch: Batch) -> Forces:
        """For every structure of the batch."""


class ModelPotential:
    """A model as a potential, for structures that move a little from call to call.

    Args:
        model: in evaluation mode, on its device.
        predict: calls it in the precision that is wanted; None: plainly.
    """

    def __init__(
        self, model: ForceField, predict: Callable[[Batch], Prediction] | None = None
    ) -> None:
        self.model = model
        tensors = [*model.parameters(), *model.buffers(), torch.zeros(())]
        self.device, self.dtype = tensors[0].device, tensors[0].dtype
        self._predict = predict if predict is not None else model
        on_gpu = self.device.type == "cuda"  # and the CPU's cores would idle
        threads = min(8, len(os.sched_getaffinity(0))) if on_gpu else 1
        self._graph: MovingGraph | None = None
        if model.cutoff is not None:
            self._graph = MovingGraph(RadiusGraph(model.cutoff, model.max_neighbors), threads)
        self._of: tuple[Any, ...] = ()  # all of the last batch but its positions
        self._clouds: Any = None  # that were prepared for it
        self._most: int | None = None  # structures that fit into memory; None: not known

    def refusal(self, structure: Structure) -> str | None:
        """An element that the model has no data for."""
        found = self.model.unsupported_elements().intersection(structure.atomic_numbers.tolist())
        if not found:
            return None
        return f"the model has no input data for {element_names(found)}"

    def __call__(self, batch: Batch) -> Forces:
        """In parts, where the device's memory does not hold the whole batch.

        Raises:
            ValueError: the model predicts no forces.
        """
        size = self._most if self._most is not None else len(batch.natoms)
        while True:
            try:
                parts = [self._forces(part) for part in _parts(batch, size)]
                break
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
            size = self._most = max(1, size // 2)
            torch.cuda.empty_cache()
            log.info("out of device memory: at most %d structures at once from here on", size)
        faults: dict[int, str] = {}
        for number, part in enumerate(parts):
            faults |= {number * size + place: text for place, text in part.faults.items()}
        return Forces(
            _energies(parts),
            torch.cat([part.forces for part in parts]),
            faults,
        )

    def _forces(self, batch: Batch) -> Forces:
        faults = {} if self._graph is None else self._graph.attach(batch)
        nothing = torch.full_like(batch.pos, torch.nan)
        if len(faults) == len(batch.natoms):
            return Forces(None, nothing, faults)
        batch = self._ready(batch)
        with torch.set_grad_enabled(self.model.conservative):
            prediction = self._predict(batch)
        if prediction.forces is None:
            raise ValueError(
                f"{type(self.model).__name__} predicts no forces, so nothing can be relaxed with "
                "it; train a model with task=s2f or task=s2ef"
            )
        energy = prediction.energy
        return Forces(
            None if energy is None else energy.detach().double(),
            prediction.forces.detach().double(),
            faults,
        )

    def _ready(self, batch: Batch) -> Batch:
        """In the model's precision and prepared.

        Whose atoms have only moved since the last call keeps the members of its clouds: all else of
        its batch is the very same tensors.
        """
        fixed = tuple(
            batch.get(name, None) for name in (*PER_ATOM, *PER_STRUCTURE) if name != "pos"
        )
        batch.pos, batch.cell = batch.pos.to(self.dtype), batch.cell.to(self.dtype)
        if self._clouds is not None and all(map(operator.is_, fixed, self._of)):
            batch[keys.CLOUDS] = self._clouds
        batch = self.model.prepare(batch)
        self._of, self._clouds = fixed, batch.get(keys.CLOUDS, None)
        return batch


PER_ATOM = ("pos", "atomic_numbers", "tags", "fixed")
PER_STRUCTURE = ("cell", "pbc", "natoms", "sid", "fid")


def batch_of(structures: Sequence[Structure], device: torch.device) -> Batch:
    """A batch without edges and labels, positions and cells in float64."""

    def joined(name: str, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.concatenate([getattr(s, name) for s in structures]), dtype=dtype)

    def stacked(name: str, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.stack([np.asarray(getattr(s, name)) for s in structures])).to(
            dtype
        )

    values = {
        "pos": joined("pos", torch.float64),
        "atomic_numbers": joined("atomic_numbers", torch.int64),
        "tags": joined("tags", torch.int64),
        "fixed": joined("fixed", torch.bool),
        "cell": stacked("cell", torch.float64),
        "pbc": stacked("pbc", torch.bool),
        "natoms": stacked("natoms", torch.int64),
        "sid": stacked("sid", torch.int64),
        "fid": stacked("fid", torch.int64),
    }
    return sent(_batch(values), device)


def joined_batches(first: Batch, second: Batch) -> Batch:
    """The structures of two batches without edges, those of `first` in front."""
    names = (*PER_ATOM, *PER_STRUCTURE)
    return _batch({name: torch.cat([first[name], second[name]]) for name in names})


def part_of(batch: Batch, structures: Tensor, atoms: Tensor) -> Batch:
    """Some structures of a batch without edges, by the numbers of them and of their atoms.

    Shape: (B',), (N',).
    """
    values = {name: batch[name].index_select(0, atoms) for name in PER_ATOM}
    return _batch(values | {n: batch[n].index_select(0, structures) for n in PER_STRUCTURE})


def structures_of(batch: Batch) -> list[Structure]:
    """The structures of a batch as numpy arrays, without labels."""
    host = {name: batch[name].detach().cpu().numpy() for name in (*PER_ATOM, *PER_STRUCTURE)}
    ptr = batch.ptr.tolist()
    return [
        Structure(
            **{name: host[name][start:end] for name in PER_ATOM},
            cell=host["cell"][number],
            pbc=host["pbc"][number],
            sid=int(host["sid"][number]),
            fid=int(host["fid"][number]),
        )
        for number, (start, end) in enumerate(pairwise(ptr))
    ]


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Shallow copies of so many structures each, so that what is attached to one stays there.

    Where that is not the whole batch the host waits to know which atoms they have.
    """
    count = len(batch.natoms)
    if size >= count:
        yield copy(batch)
        return
    first = batch.ptr.tolist()
    for start in range(0, count, size):
        end = min(start + size, count)
        values = {name: batch[name][first[start] : first[end]] for name in PER_ATOM}
        yield _batch(values | {name: batch[name][start:end] for name in PER_STRUCTURE})


def _batch(values: dict[str, Tensor]) -> Batch:
    natoms = values["natoms"]
    ptr = torch.cat([natoms.new_zeros(1), natoms.cumsum(0)])
    numbers = torch.arange(len(natoms), device=natoms.device)
    structure = torch.repeat_interleave(numbers, natoms, output_size=len(values["pos"]))
    return Batch(batch=structure, ptr=ptr, **values)


def _energies(parts: Sequence[Forces]) -> Tensor | None:
    """Energies of all structures in order, NaN for those of a part that none could be made of.

    Shape: -> (B,) eV.
    """
    made = [part.energy for part in parts if part.energy is not None]
    if not made:
        return None
    return torch.cat(
        [
            made[0].new_full((len(part.faults),), torch.nan) if part.energy is None else part.energy
            for part in parts
        ]
    )
