"""E(n)-GNN: the contract, its sizes, and its equations by loops over atoms."""

import numpy as np
import pytest
import torch

from atomsweep.build import UserError, build
from tests.contracts.compose import build_model, model_config, num_parameters
from tests.contracts.graphs import make_batch, random_atoms, turned
from tests.contracts.model_contract import ModelContract, Symmetry, assert_close
from tests.models.slabs import slab, wrapped

TINY = [
    "model=egnn_72k",
    "model.hidden_channels=8",
    "model.message_channels=[12,10]",
    "model.node_channels=[9]",
    "model.position_channels=[7]",
    "model.projection_channels=[8,6]",
    "model.output_channels=[5]",
]
MOVING = 300.0  # times the first weights of what moves atoms, so that it matters


class TestEGNN(ModelContract):
    overrides = [*TINY, "act=swish"]
    rotation = Symmetry.EXACT
    conservative = True
    smooth_cutoff = False  # its messages have no cutoff weight

    def make_model(self):
        return moving(super().make_model())


class TestEGNNOfTheSummedAtoms(TestEGNN):
    overrides = [*TestEGNN.overrides, "model.readout=structure"]
    extensive = False
    local = False


@pytest.mark.long
class TestEGNN72k(ModelContract):
    overrides = ["model=egnn_72k", "act=swish"]
    rotation = Symmetry.EXACT
    conservative = True
    smooth_cutoff = False


@pytest.mark.long
class TestEGNN629k(TestEGNN72k):
    overrides = ["model=egnn_629k", "act=swish"]


def moving(model):
    with torch.no_grad():
        for layer in model.layers:
            layer.position_mlp[-1].weight *= MOVING
    return model


def made(overrides):
    torch.manual_seed(0)
    return moving(build_model(overrides).double()).eval()


@pytest.mark.parametrize(("name", "count"), [("egnn_72k", 72_481), ("egnn_629k", 629_025)])
@pytest.mark.parametrize("readout", ["atoms", "structure"])
def test_size_is_that_of_the_preset_whatever_is_read_out(name, count, readout):
    assert num_parameters(f"model={name}", f"model.readout={readout}") == count


@pytest.mark.parametrize("readout", ["atoms", "structure"])
def test_energy_is_that_of_loops_over_atoms_that_move(readout):
    model = made([*TINY, f"model.readout={readout}"])
    structures = [random_atoms(1), random_atoms(2, repeats=(1, 2, 2))]
    found = model(make_batch(structures, 4.0)).energy
    for atoms, energy in zip(structures, found, strict=True):
        expected = energy_by_loops(model, make_batch([atoms], 4.0), readout)
        assert abs(energy.item() - expected) < 1e-9 * abs(expected)


def test_atoms_move_and_it_matters():
    model, batch = made(TINY), make_batch([random_atoms(1)], 4.0)
    before = model(batch).energy
    with torch.no_grad():
        for layer in model.layers:
            layer.position_mlp[-1].weight.zero_()
    assert (model(batch).energy - before).abs() > 1e-3 * before.abs()


@pytest.mark.parametrize("act", ["relu", "swish"])
def test_a_slab_shifted_across_the_cell_and_wrapped_is_the_same(act):
    model, atoms = made([*TINY, f"act={act}"]), slab()
    before = model(make_batch([atoms], 4.0))
    after = model(make_batch([wrapped(atoms, [2.9, 1.7, 0.0])], 4.0))
    assert_close(after.energy, before.energy)
    assert_close(after.forces, before.forces)


def test_a_mirror_image_has_the_same_energy_and_mirrored_forces():
    model, atoms = made(TINY), random_atoms(1)
    mirror = np.diag([1.0, 1.0, -1.0])
    before = model(make_batch([atoms], 4.0))
    after = model(make_batch([turned(atoms, mirror)], 4.0))
    assert_close(after.energy, before.energy)
    assert_close(after.forces, before.forces @ torch.tensor(mirror))


@pytest.mark.parametrize(
    "override",
    [
        "hidden_channels=0",
        "num_layers=0",
        "cutoff=-1.0",
        "cutoff=nan",
        "max_neighbors=0",
        "message_channels=[]",
        "output_channels=[8,0]",
        "readout=atom",
    ],
)
def test_a_size_that_makes_no_network_is_refused_by_name(override):
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"^model\.{key} must be") as error:
        build(model_config(["model=egnn_72k", f"model.{override}"]), "model")
    assert "\n" not in str(error.value)


def dense(weights, name, x, act_last=False):
    """A stack of linear layers with ReLU between them, `name`.0, `name`.2, ..."""
    layers = sorted(
        int(key[len(name) + 1 :].split(".")[0])
        for key in weights
        if key.startswith(name + ".") and key.endswith("weight")
    )
    for layer in layers:
        x = weights[f"{name}.{layer}.weight"] @ x + weights.get(f"{name}.{layer}.bias", 0.0)
        if act_last or layer != layers[-1]:
            x = np.maximum(x, 0.0)
    return x


def energy_by_loops(model, batch, readout):
    """Of one structure: atoms hold coordinates of their own, and edges name images."""
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    cell, x = batch.cell[0].numpy(), batch.pos.numpy().copy()
    h = [
        weights["embedding.weight"][:, 0] * (number - 30) / 20 + weights["embedding.bias"]
        for number in batch.atomic_numbers.tolist()
    ]
    edges = list(zip(batch.edge_index.T.tolist(), batch.cell_offsets.numpy(), strict=True))
    for number in range(len(model.layers)):
        if number:
            h = [np.maximum(row, 0.0) for row in h]
        prefix = f"layers.{number}"
        new_h, new_x = [], x.copy()
        for i in range(len(x)):
            total = np.zeros(model.layers[number].node_mlp[0].in_features - len(h[i]))
            for (j, target), offset in edges:
                if target != i:
                    continue
                d = x[j] + offset @ cell - x[i]
                pair = np.concatenate([[d @ d], h[j], h[i]])
                first = weights[f"{prefix}.pair_linear.weight"] @ pair
                message = np.maximum(first + weights[f"{prefix}.pair_linear.bias"], 0.0)
                message = dense(weights, f"{prefix}.message_mlp", message, act_last=True)
                total += message
                step = np.tanh(dense(weights, f"{prefix}.position_mlp", message))
                new_x[i] += step * d / (np.linalg.norm(d) + 0.1)
            update = dense(weights, f"{prefix}.node_mlp", np.concatenate([h[i], total]))
            new_h.append(h[i] + update)
        h, x = new_h, new_x
    atoms = [dense(weights, "projection", row) for row in h]
    if readout == "structure":
        return dense(weights, "output", sum(atoms)).item()
    return sum(dense(weights, "output", atom).item() for atom in atoms)
