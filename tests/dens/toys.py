"""A small equivariant network that encodes forces and predicts noise, and settings of DeNS."""

from dataclasses import replace

import torch
from torch import nn

from atomsweep.dens.objective import Denoising
from atomsweep.graph.edges import edge_vectors
from atomsweep.models.base import ForceField, Prediction
from atomsweep.nn.scatter import segment_sum
from atomsweep.tasks.normalize import Normalizer
from atomsweep.tasks.s2ef import S2EF
from tests.contracts.graphs import make_batch, random_atoms

DENS = Denoising(
    prob=0.5,
    ratio=0.5,
    sigma_high=0.1,
    sigma_low=None,
    num_sigmas=1,
    coin="structure",
    encode_fixed=False,
    max_force=None,
    max_ratio=None,
    coefficient=10.0,
    decay="none",
    reduction="joint",
    noise_norm="sigma_high",
    noise_loss="l2",
    corrupted_energy=True,
    encode_forces=True,
    sigma_encoding=False,
    force_scale=1.0,
    graph="rebuild",
)
STRUCTURES = [random_atoms(seed, repeats=(2, 2, 1 + seed % 2)) for seed in range(8)]
SEED = 11


def dens(**changes):
    return replace(DENS, **changes)


def s2ef(energy=2.0, forces=100.0, normalizer=None, **options):
    normalizer = Normalizer(0.0, 1.0, 1.0) if normalizer is None else normalizer
    return S2EF(normalizer, energy, forces, **options)


def batch_of(structures=None, cutoff=4.0, dtype=torch.float64):
    return make_batch(STRUCTURES if structures is None else structures, cutoff, dtype=dtype)


class Toy(ForceField):
    """Sums over neighbours of learned radial functions times unit vectors; forces add to them."""

    equivariant = True
    supports_dens = True
    supports_sigma = True

    def __init__(self, cutoff=4.0, conservative=False, channels=8):
        super().__init__()
        self.cutoff, self.max_neighbors = cutoff, None
        self.conservative = conservative
        self.radial = nn.Sequential(nn.Linear(2, channels), nn.SiLU(), nn.Linear(channels, 3))
        self.encode = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, batch):
        if not self.conservative:
            return self.predict(batch)
        with torch.enable_grad():
            batch = batch.clone()
            batch.pos = batch.pos.detach().requires_grad_()
            out = self.predict(batch)
            grad = torch.autograd.grad(out.energy.sum(), batch.pos, create_graph=self.training)
        return out._replace(forces=-grad[0])

    def predict(self, batch):
        vec = edge_vectors(batch)
        dist = vec.norm(dim=-1, keepdim=True)
        source, target = batch.edge_index
        charge = batch.atomic_numbers[source, None].to(vec.dtype) / 30
        fade = (1 - dist / self.cutoff).clamp(min=0) ** 2
        weight = self.radial(torch.cat([dist, charge], -1)) * fade  # (E, 3)
        atoms = len(batch.pos)
        forces = batch.dens_forces if "dens_forces" in batch else torch.zeros_like(batch.pos)
        scale = 1 + batch.dens_sigma[:, None] if "dens_sigma" in batch else 1.0
        seen = forces.square().sum(-1, keepdim=True)
        energy = segment_sum(weight[:, :1], target, atoms) + self.encode[2] * seen
        unit = vec / dist
        push = segment_sum(weight[:, 1:2] * unit, target, atoms) + self.encode[0] * forces
        noise = segment_sum(weight[:, 2:] * unit, target, atoms) + self.encode[1] * forces * scale
        total = segment_sum(energy, batch.batch, len(batch.cell)).squeeze(-1)
        return Prediction(total, push, noise)
