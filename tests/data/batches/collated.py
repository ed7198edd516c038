"""PyG's own collation: slow, and the oracle of batches that are cut out of flat arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from atomsweep.data.structure import Structure
from atomsweep.graph.neighbors import RadiusGraph


def structures_to_batch(structures: Sequence[Structure], graph: RadiusGraph | None) -> Batch:
    """A batch by PyG's own collation, a `Data` for each structure: slow, the oracle of `batch`."""
    has_energy = all(s.energy is not None for s in structures)
    has_forces = all(s.forces is not None for s in structures)

    def row(value: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.array(value), dtype=dtype)[None]

    items = []
    for s in structures:
        data = Data(
            pos=torch.as_tensor(s.pos.astype(np.float32)),
            atomic_numbers=torch.as_tensor(s.atomic_numbers.astype(np.int64)),
            tags=torch.as_tensor(s.tags.astype(np.int64)),
            fixed=torch.as_tensor(np.array(s.fixed, dtype=bool)),
            cell=row(s.cell, torch.float32),
            pbc=row(s.pbc, torch.bool),
            natoms=row(s.natoms, torch.int64),
            sid=row(s.sid, torch.int64),
            fid=row(s.fid, torch.int64),
        )
        if has_forces:
            assert s.forces is not None
            data.forces = torch.as_tensor(s.forces.astype(np.float32))
        if has_energy:
            data.energy = row(s.energy, torch.float64)
        if graph is not None:
            index, offsets = graph(s.pos.astype(np.float32), s.cell, s.pbc)
            data.edge_index = torch.as_tensor(index)
            data.cell_offsets = torch.as_tensor(offsets.astype(np.int16))
            data.num_edges_per_structure = row(index.shape[1], torch.int64)
        items.append(data)
    return Batch.from_data_list(items)
