"""Gala: geometric algebra attention over point clouds around the adsorbate's atoms.

Spellings, arXiv:2110.02393, as the Open MatSci ML Toolkit uses it, arXiv:2210.17484. The cloud is
`graph/clouds.py`, the algebra `nn/geometric_algebra.py`.
"""

from copy import copy
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.graph.clouds import PointClouds, adsorbate_clouds
from atomsweep.models.base import ForceField, Prediction, energy_and_forces, require_positive
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.geometric_algebra import (
    NUM_COMPONENTS,
    NUM_INVARIANTS,
    geometric_product,
    invariants,
    inverse_length,
    multivector,
    product_table,
)
from atomsweep.nn.precision import full_precision
from atomsweep.nn.running_norm import RunningNorm
from atomsweep.nn.scatter import segment_sum
from atomsweep.transfers import read, sent

NUM_ELEMENTS = 100
# Numbers in one hidden layer over pairs that exist at once: on a CPU so few that they lie in its
# cache; on a GPU so many that a kernel takes longer than its launch
CHUNK, CHUNK_OF_DEVICE = 1 << 22, 1 << 26
# What clouds are made of
READ = ("pos", "cell", "pbc", "batch", "ptr", "natoms", "atomic_numbers", "tags")

Combine = Literal["concat", "mean"]
Products = Literal["single", "partial", "full"]
_NUM_PRODUCTS = {"single": 1, "partial": 2, "full": 3}  # the first of r_j r_k, r_j, r_k


class Gala(ForceField):
    """Attention over pairs (j, k) of the members of a cloud, with products of their vectors.

    Around each centre i, member j has v_j, from the elements of i and j, and the multivector r_j,
    at first x_j - x_i. With p = r_j r_k and its invariants q, a block makes

        v_jk = J(V(q), M(v_j, v_k)),   w_jk = softmax_k S(v_jk),
        v'_j = Σ_k w_jk v_jk,          r'_j = Σ_k w_jk R(v_jk) Σ_n α_n p_n.

    The last block takes its softmax over all pairs of the cloud. The energy is the sum over centres
    of a linear layer on what is left.

    Rotations, translations and the choice of images leave the energy as it is. Reflections do not:
    a trivector, which the products have as soon as r' is in them, changes its sign. With
    `equivariant: none` r stays x_j - x_i, and a reflection changes nothing either. Vectors go to
    the nearest image, so the energy jumps where an atom passes half a cell from a centre.

    Args:
        hidden_channels: channels of v.
        num_layers: blocks before the last one.
        dilation: channels of the perceptrons' hidden layers over `hidden_channels`.
        merge: M: a matrix for each of v_j and v_k and their sum, or the average.
        join: J, likewise.
        invariant_products: products whose invariants V reads: r_j r_k alone; r_j too; or all three.
        equivariant_products: likewise, p_n.
        normalised_products: the products over their lengths are read as well.
        equivariant: "tied": v' and r' share their attention; "separate": each has its own; "none":
            there is no r'.
        residual: v and r are added to v' and r'.
        invariant_norm: of q and of the last perceptron's input.
        equivariant_norm: of r'.
        value_norm: in V and the perceptrons on v'.
        score_norm: in S and R.
        block_norm: of v'.
        sample_size: members of a cloud; more where adsorbate and surface alone are more.
        sample_seed: of the atoms below the surface that are members.

    Raises:
        ValueError: a size is not positive.
    """

    conservative = True
    equivariant = True
    cutoff: float | None = None
    max_neighbors: int | None = None
    not_compiled = "Gala reads point clouds, of which every batch has another number"

    def __init__(
        self,
        hidden_channels: int,
        num_layers: int,
        dilation: float,
        merge: Combine,
        join: Combine,
        invariant_products: Products,
        equivariant_products: Products,
        normalised_products: bool,
        equivariant: Literal["tied", "separate", "none"],
        residual: bool,
        invariant_norm: Literal["momentum", "none"],
        equivariant_norm: Literal["momentum_layer", "none"],
        value_norm: Literal["layer", "none"],
        score_norm: Literal["layer", "none"],
        block_norm: Literal["layer", "none"],
        sample_size: int,
        sample_seed: int,
    ) -> None:
        super().__init__()
        require_positive(
            hidden_channels=hidden_channels,
            num_layers=num_layers,
            dilation=dilation,
            sample_size=sample_size,
        )
        self.sample_size, self.sample_seed = sample_size, sample_seed
        self.residual, self.block_norm = residual, block_norm == "layer"
        wide = max(1, int(dilation * hidden_channels))
        self.up_project = nn.Linear(2 * NUM_ELEMENTS, hidden_channels)
        self.blocks = nn.ModuleList()
        for number in range(num_layers + 1):
            last = number == num_layers
            attentions = [
                _Attention(
                    hidden_channels,
                    wide,
                    merge,
                    join,
                    _NUM_PRODUCTS[invariant_products],
                    _NUM_PRODUCTS[equivariant_products],
                    normalised_products,
                    gives=part,
                    reduce=last,
                    invariant_norm=invariant_norm == "momentum",
                    value_norm=value_norm == "layer",
                    score_norm=score_norm == "layer",
                )
                for part in _parts(equivariant, last)
            ]
            self.blocks.append(nn.ModuleList(attentions))
        self.perceptrons = nn.ModuleList(
            _perceptron(hidden_channels, wide, hidden_channels, value_norm == "layer")
            for _ in range(num_layers + 1)
        )
        self.equivariant_norms = nn.ModuleList(
            RunningNorm(NUM_COMPONENTS, centred=False)
            for _ in range(num_layers)
            if equivariant != "none" and equivariant_norm == "momentum_layer"
        )
        self.final_norm = RunningNorm(hidden_channels) if invariant_norm == "momentum" else None
        self.final = _perceptron(hidden_channels, wide, hidden_channels, value_norm == "layer")
        self.energy_projection = nn.Linear(hidden_channels, 1, bias=False)

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the one-hot features, and the empty one."""
        return frozenset({0, *range(NUM_ELEMENTS, MAX_ATOMIC_NUMBER + 1)})

    def prepare(self, batch: Batch) -> Batch:
        """With its point clouds, whose sizes hang on tags and elements: made on the CPU.

        Clouds that are there keep their members. Their images are searched anew where the batch is,
        so atoms of a GPU may move without a wait.
        """
        prepared = copy(batch)
        if keys.CLOUDS in batch:
            prepared[keys.CLOUDS] = batch[keys.CLOUDS].moved(batch)
            return prepared
        host = batch
        if not batch.pos.is_meta:
            names = [name for name in READ if name in batch]
            host = Batch(**dict(zip(names, read(*(batch[n] for n in names)), strict=True)))
        made = Batch(clouds=adsorbate_clouds(host, self.sample_size, self.sample_seed))
        prepared[keys.CLOUDS] = sent(made, batch.pos.device).clouds
        return prepared

    def forward(self, batch: Batch) -> Prediction:
        """Energy (B,) eV and forces (N, 3) eV/Å."""
        self.check_elements_on_cpu(batch.atomic_numbers)
        if keys.CLOUDS not in batch:
            batch = self.prepare(batch)
        clouds: PointClouds = batch[keys.CLOUDS]
        return energy_and_forces(
            lambda vectors: self.energy(batch, clouds, vectors),
            clouds.displacements(batch),
            clouds.member.flatten(),
            clouds.centre.repeat_interleave(clouds.member.shape[1]),
            len(batch.pos),
            self.forces_wanted,
        )

    def energy(self, batch: Batch, clouds: PointClouds, vectors: Tensor) -> Tensor:
        """Energy (B,) eV from the vectors (C * M, 3) Å from each centre to its members."""
        mask = clouds.mask[..., None]  # (C, M, 1)
        r = multivector(vectors.view(*clouds.member.shape, 3))  # (C, M, 8)
        v = self._features(batch.atomic_numbers, clouds) * mask
        for number, (block, perceptron) in enumerate(
            zip(self.blocks, self.perceptrons, strict=True)
        ):
            last = number == len(self.blocks) - 1
            made = [
                _in_chunks(cast(_Attention, attention), r, v, clouds.mask)
                for attention in block.children()
            ]
            turned = made[0][0]
            new = perceptron(made[-1][1])
            v = v + new if self.residual and not last else new
            if self.block_norm:
                v = F.layer_norm(v, v.shape[-1:])
            if turned is not None:
                with full_precision(r):
                    r = (turned + r if self.residual else turned) * mask
                    if len(self.equivariant_norms):
                        norm = cast(RunningNorm, self.equivariant_norms[number])
                        norm.update(r.detach(), mask)
                        r = norm(r)
        if self.final_norm is not None:
            self.final_norm.update(v.detach(), torch.ones_like(v[:, :1]))
            v = self.final_norm(v)
        v = self.final(v)
        with full_precision(batch.pos):
            summed = segment_sum(v.to(batch.pos.dtype), clouds.structure, len(batch.cell))
            return self.energy_projection(summed).squeeze(-1)

    def _features(self, atomic_numbers: Tensor, clouds: PointClouds) -> Tensor:
        """A linear layer on the sum and the difference of two one-hot vectors, by look-up.

        Shape: (C, M, H).
        """
        summed, subtracted = self.up_project.weight.T.chunk(2)  # (100, H) each
        centre = (summed + subtracted)[atomic_numbers[clouds.centre]]
        member = (summed - subtracted)[atomic_numbers[clouds.member]]
        return centre[:, None] + member + self.up_project.bias


def _parts(equivariant: str, last: bool) -> tuple[Literal["vectors", "values", "both"], ...]:
    """Attentions of a block; nothing reads the vectors of the last one."""
    if last or equivariant == "none":
        return ("values",)
    return ("both",) if equivariant == "tied" else ("vectors", "values")


def _in_chunks(attention: "_Attention", r: Tensor, v: Tensor, mask: Tensor) -> list[Tensor | None]:
    """An attention, over some centres at a time; what is made for pairs is made again backwards.

    Pairs of 80 members with 256 channels are 6.5 MB for each centre and layer, so all of them for
    all blocks at once would be gigabytes.
    """
    attention.take_statistics(r, mask)
    pairs = r.shape[1] ** 2 * attention.wide
    size = max(1, (CHUNK if r.device.type == "cpu" else CHUNK_OF_DEVICE) // max(pairs, 1))
    parts = [
        checkpoint(attention, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(r.split(size), v.split(size), mask.split(size), strict=True)
    ]
    return [None if made[0] is None else torch.cat(made) for made in zip(*parts, strict=True)]


def _perceptron(in_dim: int, wide: int, out_dim: int, norm: bool) -> nn.Sequential:
    layers = [nn.LayerNorm(wide, elementwise_affine=False)] if norm else []
    return nn.Sequential(nn.Linear(in_dim, wide), *layers, nn.SiLU(), nn.Linear(wide, out_dim))


class _Slots(nn.Module):
    """Σ_n x_n W_n, or the average of x_n; each term alone, since it is linear."""

    def __init__(self, kind: Combine, channels: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        scale = (2.0 / (slots * channels)) ** 0.5
        self.kernels = nn.ParameterList(
            scale * torch.randn(channels, channels) for _ in range(slots) if kind == "concat"
        )

    def forward(self, slot: int, x: Tensor) -> Tensor:
        """Term of one slot. Shape: (..., H) -> (..., H)."""
        return x @ self.kernels[slot] if len(self.kernels) else x / self.slots


class _Attention(nn.Module):
    """v' and, if asked, r' of some centres. See `Gala`.

    Shape: r (C, M, 8), v (C, M, H), mask (C, M) -> r' (C, M, 8) or None, v' (C, M, H), or (C, H) of
    the block that reduces.
    """

    def __init__(
        self,
        channels: int,
        wide: int,
        merge: Combine,
        join: Combine,
        num_read: int,
        num_made: int,
        normalised: bool,
        *,
        gives: Literal["vectors", "values", "both"],
        reduce: bool,
        invariant_norm: bool,
        value_norm: bool,
        score_norm: bool,
    ) -> None:
        super().__init__()
        self.wide, self.gives, self.reduce = wide, gives, reduce
        self.num_read, self.num_made, self.normalised = num_read, num_made, normalised
        num_invariants = NUM_INVARIANTS * num_read * (2 if normalised else 1)
        self.norm = RunningNorm(num_invariants) if invariant_norm else None
        self.value_net = _perceptron(num_invariants, wide, channels, value_norm)
        self.score_net = _perceptron(channels, wide, 1, score_norm)
        self.register_buffer("table", product_table(), persistent=False)
        self.table: Tensor
        self.merge, self.join = _Slots(merge, channels, 2), _Slots(join, channels, 2)
        if gives != "values":
            self.scale_net = _perceptron(channels, wide, 1, score_norm)
            self.weights = nn.Parameter(0.05 * torch.randn(num_made * (2 if normalised else 1)))

    @torch.no_grad()
    def take_statistics(self, r: Tensor, mask: Tensor) -> None:
        """Let the norm of the invariants take in a batch, in training."""
        if self.norm is not None and self.training:
            with full_precision(r):
                read = self._invariants(self._products(r.detach()))
                self.norm.update(read, _pairs(mask)[..., None])

    def forward(self, r: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """See the class."""
        with full_precision(r):
            products = self._products(r)
            read = self._invariants(products)  # (C, M, M, Q)
            read = read if self.norm is None else self.norm(read)
        value = self._values(read, v)  # (C, M, M, H)
        score = self.score_net(value).squeeze(-1).to(r.dtype)
        pairs = _pairs(mask)
        score = torch.where(pairs, score, torch.finfo(score.dtype).min)
        if self.reduce:
            weight = score.flatten(1).softmax(-1).view_as(score)
            return None, torch.einsum("cjk,cjkh->ch", weight, value.to(r.dtype))
        weight = score.softmax(-1) * pairs
        turned = new = None
        if self.gives != "values":
            scale = self.scale_net(value).squeeze(-1).to(r.dtype)
            with full_precision(r):
                turned = torch.einsum("cjk,cjka->cja", weight * scale, self._combined(products))
        if self.gives != "vectors":
            new = torch.einsum("cjk,cjkh->cjh", weight, value.to(r.dtype))
        return turned, new

    def _values(self, read: Tensor, v: Tensor) -> Tensor:
        """J(V(q), M(v_j, v_k)); the last layer of V and the first matrix of J are one product."""
        *inner, outer = self.value_net
        for layer in inner:
            read = layer(read)
        with full_precision(v):
            weight = self.join(0, outer.weight.T).T
            bias = self.join(0, outer.bias)
        left, right = (self.join(1, self.merge(slot, v)) for slot in (0, 1))
        return F.linear(read, weight, bias) + left[:, :, None] + right[:, None]

    def _products(self, r: Tensor) -> list[Tensor]:
        """r_j r_k, r_j and r_k, over pairs. Shape: (C, M, M, 8), (C, M, 1, 8), (C, 1, M, 8)."""
        return [geometric_product(r, r, self.table), r[:, :, None], r[:, None]]

    def _invariants(self, products: list[Tensor]) -> Tensor:
        """Shape: (C, M, M, Q)."""
        shape = products[0].shape[:-1]
        plain = [invariants(p).expand(*shape, NUM_INVARIANTS) for p in products[: self.num_read]]
        if self.normalised:
            plain += [
                q * inverse_length(p)
                for q, p in zip(plain.copy(), products[: self.num_read], strict=True)
            ]
        return torch.cat(plain, dim=-1)

    def _combined(self, products: list[Tensor]) -> Tensor:
        """Σ_n α_n p_n. Shape: (C, M, M, 8)."""
        total = torch.zeros_like(products[0])
        for number, product in enumerate(products[: self.num_made]):
            factor: Tensor = self.weights[number]
            if self.normalised:
                factor = factor + self.weights[self.num_made + number] * inverse_length(product)
            total = total + factor * product
        return total


def _pairs(mask: Tensor) -> Tensor:
    """Shape: (C, M) -> (C, M, M)."""
    return mask[:, :, None] & mask[:, None]
