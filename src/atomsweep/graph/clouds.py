"""Point clouds around the adsorbate: who is a centre, who is a member, and the way to each."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.draws import uniform
from atomsweep.graph.images import Lattice, lattice_of, nearest_images

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2  # tags
_STREAM = 1 << 20  # of random numbers; below it are those of denoising


class PointClouds(NamedTuple):
    """Clouds of all structures of a batch, filled up to M members. C is the number of centres.

    Attributes:
        centre: (C,), atom at the centre.
        member: (C, M), atoms of the cloud, the centre itself among them if it is a member.
        mask: (C, M), False where a place is empty; `member` is the centre there.
        offsets: (C, M, 3), cell offset of the member's image that is nearest to the centre.
        structure: (C,).
        lattice: of the structures.
    """

    centre: Tensor
    member: Tensor
    mask: Tensor
    offsets: Tensor
    structure: Tensor
    lattice: Lattice

    def moved(self, batch: Batch) -> "PointClouds":
        """The same clouds with the images that are nearest at a batch's positions.

        For a batch whose atoms have only moved. Nothing waits for a GPU.
        """
        pos = batch.pos.detach()
        difference = pos[self.member] - pos[self.centre][:, None]
        pairs = self.structure[:, None].expand_as(self.member).flatten()
        offsets = nearest_images(difference.flatten(0, 1), self.lattice, pairs)
        return self._replace(offsets=offsets.view(*self.member.shape, 3))

    def displacements(self, batch: Batch) -> Tensor:
        """From the centre to each member, Å, differentiable in `pos`; zero for empty places.

        Shape: (C * M, 3).
        """
        shift = torch.einsum(
            "cmi,cij->cmj", self.offsets.to(batch.cell.dtype), batch.cell[self.structure]
        )
        vector = batch.pos[self.member] - batch.pos[self.centre][:, None] + shift
        return (vector * self.mask[..., None]).flatten(0, 1)


def adsorbate_clouds(batch: Batch, sample_size: int, seed: int) -> PointClouds:
    """Around each adsorbate atom: adsorbate, surface and some atoms below, at their nearest images.

    Open MatSci ML Toolkit, arXiv:2210.17484, point clouds of OC20: all atoms of the adsorbate (tag
    2) and of the surface (tag 1), and as many below it (tag 0) as make up `sample_size`, drawn
    uniformly without replacement. Theirs are drawn from the first of these atoms only, and know no
    periodic images. A structure without adsorbate has a cloud around every atom.

    What is drawn is a function of the seed and of the structure's elements and tags in their order:
    the same in every epoch, batch and process, for all frames of a relaxation, wherever atoms are.

    Sizes depend on the tags, so this belongs on the CPU. On the meta device, which has no values,
    every atom is a centre, and the clouds are as large as may be.

    Args:
        batch: structures.
        sample_size: members of a cloud; more where adsorbate and surface alone are more.
        seed: of the draw.
    """
    tags = batch.tags if keys.TAGS in batch else torch.zeros_like(batch.batch)
    num_structures = len(batch.cell)
    adsorbate = tags == ADSORBATE
    with_adsorbate = _count(adsorbate, batch, num_structures) > 0
    member, filled = _members(batch, tags, sample_size, seed)
    central = adsorbate | ~with_adsorbate[batch.batch]
    if central.is_meta:
        centre = torch.arange(len(central), device=central.device)
    else:
        centre = central.nonzero().flatten()
    structure = batch.batch[centre]
    mask = filled[structure]
    member = torch.where(mask, member[structure], centre[:, None])  # (C, M)
    lattice = lattice_of(batch.cell.detach(), batch.pbc)
    nowhere = torch.zeros_like(member)[..., None].expand(-1, -1, 3)
    return PointClouds(centre, member, mask, nowhere, structure, lattice).moved(batch)


def _members(batch: Batch, tags: Tensor, sample_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Members of each structure's clouds, and which places are filled. Shape: (B, M), (B, M)."""
    num_structures, num_atoms = len(batch.cell), len(tags)
    place = torch.arange(num_atoms, device=tags.device) - batch.ptr[batch.batch]
    kinds = uniform(seed, _STREAM, place, batch.atomic_numbers, tags)
    name = torch.zeros_like(batch.natoms)  # (B,), of integers, so that no order of adding matters
    name = name.index_add_(0, batch.batch, (kinds * (1 << 40)).long())
    drawn = uniform(seed, _STREAM + 1, name[batch.batch], place)  # (N,), in (0, 1)
    rank = torch.where(tags == SUBSURFACE, drawn, -tags.double())
    order = torch.argsort(rank, stable=True)
    order = order[torch.argsort(batch.batch[order], stable=True)]  # by structure, then by rank
    always = _count(tags != SUBSURFACE, batch, num_structures)
    size = torch.minimum(always.clamp(min=sample_size), batch.natoms)  # (B,)
    width = min(num_atoms, max(sample_size, 1)) if size.is_meta else int(size.max())
    column = torch.arange(width, device=tags.device)
    filled = column < size[:, None]
    first = batch.ptr[:-1, None] + column
    return order[torch.where(filled, first, batch.ptr[:-1, None])], filled


def _count(chosen: Tensor, batch: Batch, num_structures: int) -> Tensor:
    """How many atoms of each structure are chosen. Shape: (N,) -> (B,)."""
    return torch.zeros_like(batch.natoms).index_add_(0, batch.batch, chosen.to(batch.natoms.dtype))
