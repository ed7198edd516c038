"""What the choices of basis, activation and ablation do to ForceNet; sizes that no model has."""

from itertools import cycle

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from atomsweep.build import UserError, build
from tests.contracts.compose import CONF, build_model, compose, model_config
from tests.contracts.graphs import make_batch, random_atoms

SMALL = ["model.hidden_channels=8", "model.num_layers=1", "model.decoder_channels=8"]


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def pairs():
    """Every basis once; every activation behind one without weights, and inside the one with."""
    acts = [act for act in options("act") if act != "none"]
    varied = [(basis, act) for basis in ("sph", "linact") for act in acts]
    others = [basis for basis in options("basis") if basis not in ("sph", "linact")]
    return varied + list(zip(others, cycle(acts)))


@pytest.mark.parametrize(("basis", "act"), pairs())
def test_every_basis_and_every_activation_trains(basis, act):
    torch.manual_seed(0)
    model = build_model(["model=forcenet", *SMALL, f"basis={basis}", f"act={act}"])
    batch = make_batch([random_atoms(1)], model.cutoff, 12, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(batch).forces - batch.forces).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("ablation", options("ablation"))
def test_every_ablation_changes_only_the_model(ablation):
    chosen, full = (
        OmegaConf.to_container(compose(["model=forcenet", *extra]))
        for extra in ([f"ablation={ablation}"], [])
    )
    allowed = {"model", "basis"} if ablation == "only_dist" else {"model"}
    changed = {key for key in full if chosen[key] != full[key]}
    assert changed <= allowed
    assert (changed == set()) == (ablation == "none")
    assert chosen.keys() == full.keys()


@pytest.mark.long
def test_forward_and_backward_compile_into_one_graph_each():
    torch.manual_seed(0)
    model = build_model(["model=forcenet", *SMALL])
    batch = make_batch([random_atoms(1)], model.cutoff, 12, dtype=torch.float32)

    def gradients(network):
        forces = network(batch).forces
        return forces, *torch.autograd.grad(forces.abs().sum(), list(model.parameters()))

    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for eager, fused in zip(gradients(model.eval()), gradients(compiled), strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "model", ["forcenet_small", "gns", "schnet", "dimenet_pp", "egnn_72k", "megnet_986k"]
)
@pytest.mark.parametrize(
    "wrong", ["num_layers=-1", "cutoff=-1.0", "cutoff=.inf", "max_neighbors=0"]
)
def test_sizes_that_make_no_network_are_refused_by_name(model, wrong):
    config = model_config([f"model={model}"])
    key, value = wrong.split("=")
    assert key in config
    config[key] = yaml.safe_load(value)
    with pytest.raises(UserError, match=rf"model\.{key} must be (positive|a finite number), got "):
        build(config, "model")
