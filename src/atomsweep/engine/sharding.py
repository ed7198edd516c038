"""Weights, gradients and optimiser state in shards, one a rank: for models too large for a device.

torch's `fully_shard` (FSDP2): a block's weights are gathered for its forward and its backward and
freed in between. What is written is whole, so a checkpoint of a sharded run is like any other.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from atomsweep.models.base import ForceField


def shard(model: nn.Module, device: torch.device, conservative: bool) -> None:
    """Shard a model over all ranks in place; its weights end on `device`, its gradients are sums.

    Each repeated block is a unit of its own. Forces that are a gradient need the weights of all
    blocks until their own backward, which runs through every block a second time: such a model is
    one unit, whole on a rank for the length of a step and in shards between steps, as its
    gradients, optimiser state and average are.

    A parameter that has no gradient on a rank gets zeros there, since ranks must send as much as
    one another; unlike in unsharded training, weight decay then moves one that nobody uses.

    Args:
        model: with the same weights on all ranks; may lie in the memory of the host.
        device: of this rank.
        conservative: forces are a gradient, taken inside the forward.
    """
    everyone = dist.group.WORLD
    assert everyone is not None  # ranks have joined
    mesh = DeviceMesh.from_group(everyone, device.type)
    for unit in [*([] if conservative else _blocks(model)), model]:
        # The root too is freed after a forward: what is averaged and saved are shards
        sharded = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_reduce_scatter_unused_params(True, recurse=False)
    model.to(device)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """What a force field repeats: members of its own module lists, sharing no parameter."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        block
        for part in model.modules()
        if isinstance(part, ForceField)
        for blocks in part.children()
        if isinstance(blocks, nn.ModuleList)
        for block in blocks
        if any(True for _ in block.parameters())
        and all(uses[id(p)] == 1 for _, p in block.named_parameters(remove_duplicate=False))
    ]


def whole(state: Any, keep: bool = True) -> Any:
    """A state with every sharded tensor made whole on the host. All ranks call it together.

    Args:
        state: containers of tensors and values.
        keep: whether this rank wants the result; another only sends its part.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, Mapping):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value, keep) for value in state)
    return state


def load_weights(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a whole state into a module, sharded or not."""
    own = module.state_dict()
    if any(isinstance(value, DTensor) for value in own.values()):
        state = {name: _like(value, own.get(name)) for name, value in state.items()}
    module.load_state_dict(state)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole state into an optimiser of sharded parameters, or of others.

    How it computes is a matter of the device that it is on now, not of the one that it was on.
    """
    groups = [
        {**group, **{name: own[name] for name in ("foreach", "fused") if name in own}}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {
        index: {name: _like(value, parameters[index]) for name, value in slot.items()}
        for index, slot in state["state"].items()
    }
    optimizer.load_state_dict({**state, "param_groups": groups, "state": slots})


def _like(value: Any, own: Any) -> Any:
    """This rank's shard of a whole tensor that belongs to a sharded one."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    mesh, placements = own.device_mesh, own.placements
    there = value.to(own.device)
    return distribute_tensor(there, mesh, placements, src_data_rank=None)
