"""Slow and independent: Equiformer over e3nn's tensor products and harmonics.

From the formulas of arXiv:2206.11990, Sec. 4, and of arXiv:2403.09549 for force encoding and noise.
Coefficients are as in e3nn, (rows, sum over l of C_l (2l + 1)) with channels before orders, and
sums over neighbours are loops over atoms. Weights are read from a model of ours by their names.
"""

from functools import cache

import e3nn
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from torch.nn import functional as F

from tests.models.oracles import forces_of, image_vectors


def irreps(channels):
    return o3.Irreps([(count, (degree, 1)) for degree, count in enumerate(channels)])


@cache
def depthwise(channels):
    """Every path l1 x l2 -> l3 in each channel, outputs sorted by l3."""
    l_max = len(channels) - 1
    harmonics = o3.Irreps.spherical_harmonics(l_max, p=1)
    outputs, paths = [], []
    for i, (count, ir1) in enumerate(irreps(channels)):
        for j, (_, ir2) in enumerate(harmonics):
            for ir3 in ir1 * ir2:
                if ir3.l <= l_max:
                    paths.append((i, j, len(outputs)))
                    outputs.append((count, ir3))
    order = o3.Irreps(outputs).sort()
    options, dtype = e3nn.get_optimization_defaults(), torch.get_default_dtype()
    e3nn.set_optimization_defaults(jit_script_fx=False)  # it takes seconds
    torch.set_default_dtype(torch.float64)
    try:
        return o3.TensorProduct(
            irreps(channels),
            harmonics,
            order.irreps,
            [(i, j, order.p[k], "uvu", True) for i, j, k in paths],
            irrep_normalization="component",
            path_normalization="none",
            internal_weights=False,
            shared_weights=False,
            compile_right=False,
        )
    finally:
        e3nn.set_optimization_defaults(**options)
        torch.set_default_dtype(dtype)


def smooth_leaky(x, slope=0.2):
    return x * (1 + slope) / 2 + x * (1 - slope) / 2 * (2 * torch.sigmoid(x) - 1)


silu, sigmoid = normalize2mom(F.silu), normalize2mom(torch.sigmoid)
leaky = normalize2mom(smooth_leaky)


def gate(x, channels):
    """SiLU of the first scalars; each of the others' sigmoids times one channel of l > 0."""
    start, gates = channels[0], sum(channels)
    outputs, end = [silu(x[:, :start])], gates
    for degree, count in enumerate(channels[1:], 1):
        size = count * (2 * degree + 1)
        part = x[:, end : end + size].unflatten(1, (count, -1))
        outputs.append((part * sigmoid(x[:, start : start + count, None])).flatten(1))
        start, end = start + count, end + size
    return torch.cat(outputs, 1)


class Reference:
    """The network of `model` in double precision, built from its config section."""

    def __init__(self, model, config):
        self.cfg, self.state = config, dict(model.named_parameters())
        self.channels = list(config.channels)
        self.l_max = len(self.channels) - 1
        self.product = depthwise(tuple(self.channels))

    def __call__(self, batch):
        """Energies, forces and, with `dens`, noise."""
        cfg, pos = self.cfg, batch.pos.clone().requires_grad_()
        vec = image_vectors(batch, pos)
        dist = vec.norm(dim=1)
        harmonics = o3.Irreps.spherical_harmonics(self.l_max, p=1)
        self.sphere = o3.spherical_harmonics(harmonics, vec, True, "component")
        self.radial = self.smearing(dist)
        self.source, self.target = batch.edge_index
        self.num_atoms = len(pos)
        x = self.edge_degree()
        width = self.channels[0]
        elements = self.state["embedding.weight"][batch.atomic_numbers]
        x = torch.cat([x[:, :width] + elements + self.state["embedding_bias"], x[:, width:]], 1)
        if cfg.dens:
            x = x + self.linear("force_encoding", self.encoded(batch), [1] * len(self.channels))
        channels = self.channels
        for index in range(cfg.num_layers):
            x, channels = self.block(f"blocks.{index}", x)
        x = self.norm("norm", x, channels)
        hidden = self.linear("energy_head.0", x[:, : channels[0]], channels[:1])
        energies = self.linear("energy_head.1", silu(hidden), [hidden.shape[1]])[:, 0]
        total = torch.stack([energies[batch.batch == s].sum() for s in range(len(batch.cell))])
        total = total / cfg.mean_natoms**0.5
        noise = self.attention("noise_head", x, channels) if cfg.dens else None
        return total, forces_of(total, pos), noise

    def smearing(self, dist):
        """f(d) exp(-β (exp(-5 d / c) - μ)²) with f the cosine cutoff."""
        cutoff, count = self.cfg.cutoff, self.cfg.num_basis
        lowest = torch.tensor(-cutoff, dtype=torch.float64).exp()
        means = lowest + (1 - lowest) * torch.arange(count) / (count - 1)
        beta = (2 / count * (1 - lowest)) ** -2
        fade = (torch.cos(torch.pi * dist / cutoff) + 1) / 2
        return fade[:, None] * torch.exp(
            -beta * (torch.exp(-5 * dist / cutoff)[:, None] - means) ** 2
        )

    def encoded(self, batch):
        """|f| / sqrt(3) Y(f / |f|) of the masked forces, zero for the others."""
        rows = torch.zeros(len(batch.pos), (self.l_max + 1) ** 2, dtype=torch.float64)
        harmonics = o3.Irreps.spherical_harmonics(self.l_max, p=1)
        for atom in batch.dens_mask.nonzero().flatten():
            force = batch.dens_forces[atom]
            rows[atom] = o3.spherical_harmonics(harmonics, force, True, "component")
            rows[atom] *= force.norm() / 3**0.5
        return rows

    def linear(self, name, x, channels):
        """One matrix for each degree, a bias for l = 0; degrees without a result are left out."""
        outputs, start = [], 0
        for degree, count in enumerate(channels):
            if f"{name}.weights.{degree}" not in self.state:
                break
            size = count * (2 * degree + 1)
            part = x[:, start : start + size].unflatten(1, (count, 2 * degree + 1))
            start += size
            out = torch.einsum("oi,nim->nom", self.state[f"{name}.weights.{degree}"], part)
            if degree == 0 and f"{name}.bias" in self.state:
                out = out + self.state[f"{name}.bias"][:, None]
            outputs.append(out.flatten(1))
        return torch.cat(outputs, 1)

    def weights(self, name):
        """Linear, LayerNorm, SiLU, twice, and Linear, of the radial basis."""
        h = self.radial
        for first in (0, 3):
            h = h @ self.state[f"{name}.hidden.{first}.weight"].T
            h = h + self.state[f"{name}.hidden.{first}.bias"]
            h = (h - h.mean(1, keepdim=True)) / (h.var(1, False, keepdim=True) + 1e-5).sqrt()
            norm = f"{name}.hidden.{first + 1}"
            h = F.silu(h * self.state[f"{norm}.weight"] + self.state[f"{norm}.bias"])
        return h @ self.state[f"{name}.last.weight"].T + self.state[f"{name}.last.bias"]

    def wide(self):
        """Channels of each degree of the depth-wise product."""
        return [
            sum(count for count, ir in self.product.irreps_out if ir.l == degree)
            for degree in range(self.l_max + 1)
        ]

    def scattered(self, message):
        """Sum over the edges into each atom."""
        return torch.stack([message[self.target == atom].sum(0) for atom in range(self.num_atoms)])

    def edge_degree(self):
        constant = self.state["edge_degree.constant"] + self.state["edge_degree.constant_bias"]
        rows = torch.zeros(len(self.radial), irreps(self.channels).dim, dtype=torch.float64)
        rows[:, : self.channels[0]] = constant
        message = self.product(rows, self.sphere, self.weights("edge_degree.radial"))
        message = self.linear("edge_degree.project", message, self.wide())
        return self.scattered(message) / self.cfg.mean_degree**0.5

    def norm(self, name, x, channels):
        """Every degree over its root mean square over channels and orders; l = 0 without mean."""
        if not self.cfg.layer_norm:
            return x
        outputs, start, first = [], 0, 0
        for degree, count in enumerate(channels):
            size = count * (2 * degree + 1)
            part = x[:, start : start + size].unflatten(1, (count, 2 * degree + 1))
            if degree == 0:
                part = part - part.mean(1, keepdim=True)
            power = (part**2).mean((1, 2), keepdim=True)
            gain = self.state[f"{name}.gain"][first : first + count, None]
            part = part / (power + 1e-5).sqrt() * gain
            if degree == 0:
                part = part + self.state[f"{name}.bias"][:, None]
            outputs.append(part.flatten(1))
            start, first = start + size, first + count
        return torch.cat(outputs, 1)

    def attention(self, name, x, channels):
        """Merge, product, gate, product, softmax over incoming edges, sum, project."""
        cfg, state = self.cfg, self.state
        source = self.linear(f"{name}.source", x, channels)[self.source]
        target = self.linear(f"{name}.target", x, channels)[self.target]
        wide = self.product(source + target, self.sphere, self.weights(f"{name}.radial"))
        value = gate(self.linear(f"{name}.linear1", wide, self.wide()), self.channels)
        shared = state[f"{name}.weights2"].expand(len(value), -1)
        value = self.product(value, self.sphere, shared)
        value = self.linear(f"{name}.linear2", value, self.wide())
        per_head = [int(count) for count in cfg.head_channels]
        values = [count * cfg.num_heads for count in per_head]
        if not cfg.attention:
            total = self.scattered(value) / cfg.mean_degree**0.5
            return self.linear(f"{name}.project", total, values)
        scalars = wide[:, : self.wide()[0]]
        alpha = self.linear(f"{name}.alpha", scalars, self.wide()[:1])
        alpha = leaky(alpha).unflatten(1, (cfg.num_heads, per_head[0]))
        alpha = torch.exp((alpha * state[f"{name}.alpha_dot"]).sum(2))  # (E, heads)
        alpha = alpha / self.scattered(alpha)[self.target]
        blocks, start = [], 0
        for degree, count in enumerate(per_head):
            size = cfg.num_heads * count * (2 * degree + 1)
            part = value[:, start : start + size].unflatten(1, (cfg.num_heads, -1))
            blocks.append((alpha[:, :, None] * part).flatten(1))
            start += size
        return self.linear(f"{name}.project", self.scattered(torch.cat(blocks, 1)), values)

    def block(self, name, x):
        """Attention and feed-forward network, and the channels of the result."""
        ffn = list(self.cfg.ffn_channels)
        normed = self.norm(f"{name}.attention_norm", x, self.channels)
        x = x + self.attention(f"{name}.attention", normed, self.channels)
        hidden = self.norm(f"{name}.ffn_norm", x, self.channels)
        hidden = gate(self.linear(f"{name}.ffn1", hidden, self.channels), ffn)
        update = self.linear(f"{name}.ffn2", hidden, ffn)
        out = [len(self.state[f"{name}.ffn2.weights.{d}"]) for d in range(self.l_max + 1)]
        if f"{name}.shortcut.weights.0" in self.state:
            x = self.linear(f"{name}.shortcut", x, self.channels)
        return x + update, out
