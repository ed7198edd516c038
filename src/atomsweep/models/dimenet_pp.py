"""DimeNet++: energies from messages between edges and the angles between them (arXiv:2011.14115).

Forces are -dE/dx. Built on torch_geometric's DimeNet++ blocks, with their parameters and
initialisation; edges come from the batch, so cells are periodic. No triplet k→j→i is ever listed:
the basis of an angle is a sum of products of spherical harmonics of its two edges, so that the sum
over k is a sum over the edges of j (`_Interaction`). Nothing has a size that depends on values, and
collinear edges, where an angle has no derivative, are no special case.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.models.dimenet import (
    BesselBasisLayer,
    EmbeddingBlock,
    InteractionPPBlock,
    OutputPPBlock,
)

from atomsweep.graph.blocks import EdgeBlocks
from atomsweep.graph.edges import reverse_edges
from atomsweep.models.base import EnergyForceField, require_positive
from atomsweep.nn.basis import ActFactory, needed_act
from atomsweep.nn.bessel import SphericalBesselBasis
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum
from atomsweep.nn.so3.harmonics import spherical_harmonics

NUM_EMBEDDINGS = 95  # of torch_geometric's EmbeddingBlock


class DimeNetPlusPlus(EnergyForceField):
    """Messages of edges j→i are updated by those of k→j, their lengths and the angle between them.

    arXiv:2011.14115, Sec. 4, and arXiv:2003.03123. k→j→i is left out where k is i in the same
    image, as in the Open Catalyst code.

    Args:
        act: factory of the activation.
        hidden_channels: channels of a message.
        num_layers: number of interaction blocks.
        triplet_channels: channels of a message while angles act on it.
        basis_channels: channels between the two linear layers on a basis.
        output_channels: channels of the output blocks.
        num_spherical: degrees of the basis of angles.
        num_radial: radial functions, of each degree.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        envelope_exponent: of the polynomial that fades edges out at the cutoff.
        num_before_skip: residual layers in front of an interaction's skip connection.
        num_after_skip: residual layers behind it.
        num_output_layers: hidden layers of the output blocks.
        output_initializer: of the last layers; "zeros" starts with an energy of zero.
        detached_angles: no gradient goes through the angles, as in the Open Catalyst code: forces
            are then not quite -dE/dx.
        lin_up_bias: the output blocks' `lin_up` has a bias, as in that code.

    Raises:
        ValueError: there is no activation, or a size is not positive.
    """

    def __init__(
        self,
        act: ActFactory | None,
        hidden_channels: int,
        num_layers: int,
        triplet_channels: int,
        basis_channels: int,
        output_channels: int,
        num_spherical: int,
        num_radial: int,
        cutoff: float,
        max_neighbors: int | None,
        envelope_exponent: int,
        num_before_skip: int,
        num_after_skip: int,
        num_output_layers: int,
        output_initializer: Literal["zeros", "glorot_orthogonal"],
        detached_angles: bool = False,
        lin_up_bias: bool = False,
    ) -> None:
        super().__init__()
        act = needed_act(act, "DimeNet++", "swish")
        require_positive(
            hidden_channels=hidden_channels,
            num_layers=num_layers,
            triplet_channels=triplet_channels,
            basis_channels=basis_channels,
            output_channels=output_channels,
            num_spherical=num_spherical,
            num_radial=num_radial,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
            envelope_exponent=envelope_exponent,
        )
        self.cutoff: float = cutoff
        self.max_neighbors = max_neighbors
        self.detached_angles = detached_angles
        self.rbf = BesselBasisLayer(num_radial, cutoff, envelope_exponent)
        self.sbf = SphericalBesselBasis(num_spherical, num_radial, cutoff, envelope_exponent)
        scale, at_pi = _scales(num_spherical)
        self.register_buffer("scale", scale, persistent=False)  # (L²,)
        self.register_buffer("at_pi", at_pi, persistent=False)  # (L,)
        self.scale: Tensor
        self.at_pi: Tensor
        self.emb = EmbeddingBlock(num_radial, hidden_channels, act())
        self.interaction_blocks = nn.ModuleList(
            _Interaction(
                hidden_channels,
                triplet_channels,
                basis_channels,
                num_spherical,
                num_radial,
                num_before_skip,
                num_after_skip,
                act(),
            )
            for _ in range(num_layers)
        )
        self.output_blocks = nn.ModuleList(
            OutputPPBlock(
                num_radial,
                hidden_channels,
                output_channels,
                1,
                num_output_layers,
                act(),
                output_initializer,
            )
            for _ in range(num_layers + 1)
        )
        if lin_up_bias:  # at torch's own initialisation, as there
            bound = hidden_channels**-0.5
            for block in self.output_blocks:
                bias = torch.empty(output_channels).uniform_(-bound, bound)
                block.get_submodule("lin_up").register_parameter("bias", nn.Parameter(bias))

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding."""
        return frozenset(range(NUM_EMBEDDINGS, MAX_ATOMIC_NUMBER + 1))

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,) eV."""
        source, target = batch.edge_index
        num_atoms = batch.pos.shape[0]
        with full_precision(batch.pos):
            dist = torch.linalg.vector_norm(edge_vec, dim=-1)  # (E,)
            rbf = self.rbf(dist)  # (E, K)
            direction = edge_vec / dist[:, None]
            if self.detached_angles:
                direction = direction.detach()
            harmonics = spherical_harmonics(direction, len(self.sbf.zeros) - 1)
            by_target, by_source = EdgeBlocks(target, num_atoms), EdgeBlocks(source, num_atoms)
            edges = _Edges(
                target,
                num_atoms,
                rbf,
                self.sbf(dist),
                by_target,
                by_target.fill(harmonics),
                by_source,
                by_source.fill(harmonics * self.scale),
                self.at_pi,
                *reverse_edges(batch.edge_index, batch.cell_offsets, num_atoms),
            )
        message = self.emb(batch.atomic_numbers, rbf, target, source)  # (E, C)
        atoms = self._read(self.output_blocks[0], message, edges)
        for interaction, output in zip(
            self.interaction_blocks, self.output_blocks[1:], strict=True
        ):
            message = interaction(message, edges)
            atoms = atoms + self._read(output, message, edges)
        return segment_sum(atoms, batch.batch, batch.cell.shape[0]).squeeze(-1)

    def _read(self, output: nn.Module, message: Tensor, edges: "_Edges") -> Tensor:
        """Energies of the atoms (N, 1), from the messages that reach them."""
        with full_precision(message):
            return output(message, edges.rbf, edges.target, edges.num_atoms)


def _scales(num_spherical: int) -> tuple[Tensor, Tensor]:
    """What Y_lm Y_lm is multiplied by to give Y_l0, (L²,), and Y_l0 at the angle π, (L,)."""
    degree = torch.arange(num_spherical, dtype=torch.get_default_dtype())
    at_zero = ((2 * degree + 1) / (4 * math.pi)).sqrt()  # Y_l0 at the angle 0, over P_l
    each = (at_zero / (2 * degree + 1)).repeat_interleave(
        2 * torch.arange(num_spherical) + 1, output_size=num_spherical**2
    )
    return each, at_zero * (-1) ** degree


class _Edges(NamedTuple):
    """What the interactions share; L degrees, K radial functions.

    Attributes:
        target: (E,).
        num_atoms: N.
        rbf: (E, K), the radial basis.
        radial: (L, E, K), the radial part of the basis of angles.
        by_target: edges by the atom that they reach.
        incoming: (blocks, edges, L²), harmonics of their directions, component normalisation.
        by_source: edges by the atom that they leave.
        outgoing: (blocks, edges, L²), their harmonics times Y_l0 / Y_l · Y_l of parallel vectors.
        at_pi: (L,), Y_l0 at the angle π.
        reverse: (E,), the way back of each edge.
        has_reverse: (E,), whether there is one.
    """

    target: Tensor
    num_atoms: int
    rbf: Tensor
    radial: Tensor
    by_target: EdgeBlocks
    incoming: Tensor
    by_source: EdgeBlocks
    outgoing: Tensor
    at_pi: Tensor
    reverse: Tensor
    has_reverse: Tensor


class _Interaction(InteractionPPBlock):
    """torch_geometric's interaction block, its sum over triplets turned into sums over edges.

    That block sums, over all k→j for j→i, x_kj ⊙ sum_l Y_l0(angle) f_l(d_kj). By the addition
    theorem Y_l0(angle) = sqrt(4π / (2l+1)) sum_m Y_lm(kj) Y_lm(ji): the sum over k is made once for
    each atom j, degree and order, and read by the edges j→i. What the way back i→j has added is
    taken out; there every angle is π. The result is that of the triplets up to rounding, at the
    cost of L² terms for an edge instead of one for each of its triplets. Edges lie in blocks, so
    that both sums are matrix products and nothing of size E L² T is held.

    The two linear layers on the basis, which have nothing between them, are multiplied first.
    """

    def forward(self, message: Tensor, edges: _Edges) -> Tensor:
        """Shape: (E, C) -> (E, C)."""
        own = self.act(self.lin_ji(message))
        sent = self.act(self.lin_kj(message)) * self.lin_rbf2(self.lin_rbf1(edges.rbf))
        sent = self.act(self.lin_down(sent))  # (E, T)
        with full_precision(message):
            received = self._over_angles(sent.to(edges.rbf.dtype), edges)
        h = own + self.act(self.lin_up(received))
        for layer in self.layers_before_skip:
            h = layer(h)
        h = self.act(self.lin(h)) + message
        for layer in self.layers_after_skip:
            h = layer(h)
        return h

    def _over_angles(self, sent: Tensor, edges: _Edges) -> Tensor:
        """Sum over k of what k→j sends to j→i. Shape: (E, T) -> (E, T)."""
        degrees, _, functions = edges.radial.shape
        inner = self.lin_sbf1.weight.view(-1, degrees, functions)
        weight = torch.einsum("tb,blk->lkt", self.lin_sbf2.weight, inner)
        values = torch.bmm(edges.radial, weight) * sent  # (L, E, T)
        blocks = edges.by_target.fill(values.transpose(0, 1).flatten(1)).chunk(degrees, dim=-1)
        sums = torch.cat(
            [
                torch.bmm(edges.incoming[..., degree**2 : (degree + 1) ** 2].mT, block)
                for degree, block in enumerate(blocks)
            ],
            dim=1,
        )  # (blocks, L², T)
        at_atom = segment_sum(sums.flatten(1), edges.by_target.atom, edges.num_atoms)
        read = at_atom.index_select(0, edges.by_source.atom).view(
            len(edges.outgoing), degrees**2, -1
        )
        received = edges.by_source.read(torch.bmm(edges.outgoing, read))
        back = torch.einsum("l,let->et", edges.at_pi, values)
        return received - edges.has_reverse[:, None] * back.index_select(0, edges.reverse)
