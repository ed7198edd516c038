"""Devices of the ranks: which one each takes, how it sends, and what it cannot do."""

import torch
import torch.distributed as dist
from torch import nn
from torch.torch_version import TorchVersion

from atomsweep.build import UserError
from atomsweep.engine.optim import kept_statistics
from atomsweep.engine.trainer import Trainer

COMPILES = "2.9"  # torch from which on `engine/regions.py` finds what it builds on
BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}  # mps has none


def local_device(device: str, local_rank: int) -> torch.device:
    """The device of a rank: accelerators of one machine are dealt to its ranks in turn."""
    chosen = torch.device(device)
    if chosen.index is not None or chosen.type not in ("cuda", "xpu"):
        return chosen
    module = torch.get_device_module(chosen.type)
    index = local_rank % max(1, module.device_count())
    module.set_device(index)
    return torch.device(chosen.type, index)


def backend_of(device: torch.device) -> str:
    """Control and object messages always go through gloo, so they never wait for the device."""
    special = BACKENDS[device.type]
    return special if special == "gloo" else f"cpu:gloo,{device.type}:{special}"


def refusal(trainer: Trainer, model: nn.Module, ranks: int) -> str | None:
    """Why a run cannot be trained on its device, in a sentence; None where it can.

    Args:
        trainer: of the run.
        model: of the run, perhaps without memory for its weights.
        ranks: processes of the run.
    """
    if trainer.device.partition(":")[0] == "mps":
        if ranks > 1:
            return "engine.device=mps has no messages between ranks; set cluster.ranks=1"
        if any(getattr(module, "needs_double", False) for module in model.modules()):
            return (
                "engine.device=mps has no float64, in which this model's Bessel basis computes; "
                "choose engine.device=cpu"
            )
    if trainer.sharded and any(p.ndim == 0 for p in model.parameters()):
        return "engine.sharded=true needs parameters with a dimension; one of this model has none"
    return _compile_refusal(trainer, model, ranks)


def _compile_refusal(trainer: Trainer, model: nn.Module, ranks: int) -> str | None:
    several = "engine.sharded=true" if trainer.sharded else ""
    if trainer.compile != "none":
        if TorchVersion(torch.__version__) < COMPILES:
            return (
                f"engine.compile={trainer.compile} needs torch {COMPILES} or later, got "
                f"{torch.__version__}; install it, or set engine.compile=none"
            )
        why = getattr(model, "not_compiled", None)
        if why is None and getattr(model, "cutoff", 0) is None and list(model.parameters()):
            why = f"{type(model).__name__} reads no edges, by which batches get one shape"
        if why is not None:
            return f"engine.compile={trainer.compile} cannot be: {why}; set engine.compile=none"
        if several:
            return f"engine.compile={trainer.compile} and {several} exclude one another; set one"
        two_heads = any(getattr(module, "supports_dens", False) for module in model.modules())
        if ranks > 1 and two_heads and kept_statistics(model):
            return (
                f"engine.compile={trainer.compile} may sum the statistics of this model's two "
                "heads in another order on each rank; set cluster.ranks=1 or engine.compile=none"
            )
        if ranks > 1 and trainer.compile == "max" and (norm := kept_statistics(model)):
            return (
                f"engine.compile=max replays what it recorded, and the {norm} of this model sums "
                "over ranks in every step; set engine.compile=default"
            )
        if trainer.compile == "max" and torch.device(trainer.device).type != "cuda":
            return (
                "engine.compile=max records CUDA graphs, and engine.device="
                f"{trainer.device} has none; set engine.compile=default"
            )
    if trainer.batch_edges is not None and getattr(model, "cutoff", 0) is None:
        return "engine.batch_edges counts edges, and this model reads none; set it to null"
    if trainer.batch_edges is not None and ranks > 1:
        norm = kept_statistics(model)
        if norm is not None or several:
            return (
                "engine.batch_edges packs each rank's batches by itself, which "
                f"{f'the {norm} of this model' if norm else several} cannot be trained on; set "
                "engine.batch_edges=null and optim.accumulate"
            )
    return None


def missing_backend(device: torch.device) -> str | None:
    """Why ranks on a device cannot send to one another with this torch; None where they can."""
    name = BACKENDS.get(device.type)
    if name is None or not dist.is_backend_available(name):
        return (
            f"ranks on {device.type} need {name or 'a library for their messages'}, which this "
            "torch does not have; install a torch that has it, or set cluster.ranks=1"
        )
    return None


def check_device(name: str, key: str, instead: str) -> None:
    """Refuse a device that torch does not see.

    Args:
        name: of the device.
        key: what the user set it with.
        instead: what to choose where it is not there.

    Raises:
        UserError: names it.
    """
    try:
        kind = torch.device(name).type
        there = kind == "cpu" or torch.get_device_module(kind).is_available()
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"{key} must be cpu, cuda, mps or xpu, got {name!r}") from error
    if not there:
        raise UserError(f"{key} is {name}, but torch sees no such device here; choose {instead}")
