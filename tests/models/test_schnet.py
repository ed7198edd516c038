import pytest
import torch
from torch_geometric.nn import SchNet as PublicSchNet

from tests.contracts.compose import build_model, num_parameters
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry
from tests.models.oracles import forces_of, image_vectors

SMALL = ["model.hidden_channels=16", "model.num_filters=8", "model.num_layers=2"]


class TestSchNet(ModelContract):
    overrides = ["model=schnet", *SMALL, "model.num_gaussians=20"]
    rotation = Symmetry.EXACT
    conservative = True


def test_published_size():
    assert num_parameters("model=schnet") == 9_088_513


@pytest.mark.parametrize("periodic", [False, True])
def test_outputs_are_those_of_torch_geometric_with_the_same_weights(periodic):
    """On molecules and on cells, over edges whose vectors are made in the test."""
    torch.manual_seed(0)
    model = build_model(["model=schnet", *SMALL]).double()
    graph = {}
    public = PublicSchNet(
        hidden_channels=16,
        num_filters=8,
        num_interactions=2,
        num_gaussians=200,
        cutoff=6.0,
        interaction_graph=lambda pos, structure: (graph["pairs"], graph["lengths"]),
    ).double()
    public.load_state_dict(renamed(model.state_dict(), public.state_dict()))
    pbc = (periodic, periodic, False)
    batch = make_batch([random_atoms(seed, pbc=pbc) for seed in (1, 2)], 6.0, 50)

    pos = batch.pos.clone().requires_grad_()
    lengths = torch.linalg.vector_norm(image_vectors(batch, pos), dim=-1)
    graph |= {"pairs": batch.edge_index, "lengths": lengths}
    energy = public(batch.atomic_numbers, pos, batch.batch).squeeze(-1)

    prediction = model(batch)
    torch.testing.assert_close(prediction.energy, energy, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prediction.forces, forces_of(energy, pos), rtol=1e-6, atol=1e-7)


def renamed(ours, theirs):
    """Our weights under torch_geometric's names; what is no weight stays as it is."""
    names = {
        "embedding.weight": "embedding.weight",
        "decoder.0.weight": "lin1.weight",
        "decoder.0.bias": "lin1.bias",
        "decoder.2.weight": "lin2.weight",
        "decoder.2.bias": "lin2.bias",
    }
    for block in range(2):
        for mine, public in [
            ("filter_mlp.0", "mlp.0"),
            ("filter_mlp.2", "mlp.2"),
            ("source_linear", "conv.lin1"),
            ("node_mlp.0", "conv.lin2"),
            ("node_mlp.2", "lin"),
        ]:
            for part in ("weight", "bias"):
                if f"blocks.{block}.{mine}.{part}" in ours:
                    names[f"blocks.{block}.{mine}.{part}"] = f"interactions.{block}.{public}.{part}"
    assert set(names) == set(ours)
    found = {public: ours[mine] for mine, public in names.items()}
    for block in range(2):  # the same filter under its second name
        for layer in (0, 2):
            for part in ("weight", "bias"):
                name = f"interactions.{block}.mlp.{layer}.{part}"
                found[name.replace("mlp", "conv.nn")] = found[name]
    return {**theirs, **found}
