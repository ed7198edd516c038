"""Many processes that train one run: sums over ranks, and decisions that all take together.

Plain torch.distributed: gloo on the CPU, the device's own library for its tensors. There is no
wrapper around the model. A step sums all gradients in one flat buffer, after the last micro-batch:
accumulation, a count that all share and parameters without a gradient need no special case then,
and the sum is taken once a step however many micro-batches there are. It does not overlap with
the backward pass.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from atomsweep.engine.devices import backend_of, missing_backend
from atomsweep.engine.ranks import JOIN_S, POLL_S, RankLost, Ranks, invitation, invite
from atomsweep.tasks.base import Mean
from atomsweep.transfers import sent

log = logging.getLogger(__name__)

SILENCE_S = 1800.0  # a rank that is alive and does not answer for so long is lost
ERROR = "error"  # key under which the first rank that fails leaves its message


class RankFailed(RuntimeError):
    """Another rank raised; the message is its own."""


Key = TypeVar("Key")  # of a sum


class World:
    """The processes of a run; alone, every sum is what it was and nothing is sent.

    Attributes:
        rank: of this process.
        size: number of processes.
        local_rank: of this process on its machine.
        waited: seconds of the host in messages of the training, those of others included.
    """

    waited: float = 0.0

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def first(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            self._reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Sum every gradient over ranks in place, and the loss; all in one message.

        A parameter that no rank has a gradient for keeps None, so that weight decay does not move
        it; one that some rank has a gradient for has one everywhere afterwards.

        Returns:
            The loss () of all ranks.
        """
        if self.size == 1:
            return loss
        present = [p.grad is not None for p in parameters]
        there = torch.ones(len(present), device=loss.device)
        if not all(present):
            there = sent(torch.tensor(present, dtype=torch.float32), loss.device)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.flatten() for g in grads), there, loss.reshape(1)])
        self._reduce(flat)
        sizes = [g.numel() for g in grads]
        *summed, there, loss = flat.split([*sizes, len(present), 1])
        found = present if all(present) else (there > 0).tolist()
        for parameter, gradient, has in zip(parameters, summed, found, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if has else None
        return loss.reshape(())

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. Does not wait for the device."""
        if self.size == 1:
            return flag
        told = torch.tensor([int(flag)])
        self._reduce(told)
        return int(told) > 0

    def _reduce(self, tensor: Tensor) -> None:
        start = time.perf_counter()
        dist.all_reduce(tensor)
        self.waited += time.perf_counter() - start

    def of_first(self, value: float) -> float:
        """What rank 0 has measured."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, src=0)
        return float(told)

    def tell(self, value: Any) -> Any:
        """What rank 0 has, on all ranks."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def share(self, model: nn.Module) -> None:
        """Give all ranks the weights and buffers of rank 0."""
        if self.size > 1:
            state = {name: value.cpu() for name, value in model.state_dict().items()}
            model.load_state_dict(self.tell(state))

    def merge(self, sums: Mapping[Key, Mean]) -> dict[Key, Mean]:
        """Sums of all ranks, on the host, added in the order of the ranks; a rank may have none."""
        if self.size == 1:
            return dict(sums)
        mine = {name: (mean.total, mean.count) for name, mean in sums.items()}
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, mine)
        merged: dict[Key, Mean] = {}
        for part in every:
            for name, pair in part.items():
                mean = Mean(*pair)
                merged[name] = merged[name] + mean if name in merged else mean
        return merged


ALONE = World()


@contextmanager
def join(
    ranks: Ranks, directory: Path, device: torch.device, check: Callable[[], None] = lambda: None
) -> Iterator[World]:
    """The world of this process while the context lasts.

    An error of one rank ends all: it leaves its message, its connections close, and whoever waits
    for it raises `RankFailed` with that message.

    Args:
        ranks: this process.
        directory: of the run, seen by all ranks: rank 0 says there where it listens.
        device: that this process trains on.
        check: called while others are waited for; raises to stop the wait.

    Raises:
        RankFailed: another rank raised.
        RankLost: another rank has gone without a word, or never came.
    """
    if ranks.size == 1:
        yield ALONE
        return
    if (problem := missing_backend(device)) is not None:
        raise ValueError(problem)
    store = _meet(ranks, directory, check)
    dist.init_process_group(
        backend_of(device),
        store=dist.PrefixStore("group", store),
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=timedelta(seconds=SILENCE_S),
    )
    log.info("rank %d of %d on %s", ranks.rank, ranks.size, device)
    try:
        yield World(ranks.rank, ranks.size, ranks.local_rank)
    except BaseException as error:
        if _of_a_connection(error):
            raise _cause(error, store) from error
        _leave_word(store, ranks.rank, error)
        raise
    finally:
        dist.destroy_process_group()


def _meet(ranks: Ranks, directory: Path, check: Callable[[], None]) -> dist.TCPStore:
    """The store that all ranks share. Rank 0 keeps it, on a port that the kernel chooses."""
    if ranks.rank == 0:
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        invite(directory, ranks.meeting, _own_name(), store.port)
        deadline = time.monotonic() + JOIN_S
        while (missing := ranks.size - 1 - store.add("here", 0)) > 0:
            check()
            if time.monotonic() > deadline:
                raise RankLost(
                    f"{missing} of {ranks.size} ranks did not come within {JOIN_S:.0f} s"
                )
            time.sleep(POLL_S)
        return store
    host, port = invitation(directory, ranks.meeting, check)
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
    store.add("here", 1)
    return store


def _own_name() -> str:
    """Where other ranks reach this machine; nodes of SLURM may differ in this name alone."""
    return os.environ.get("SLURMD_NODENAME") or (
        "127.0.0.1" if "SLURM_JOB_ID" not in os.environ else socket.gethostname()
    )


def _leave_word(store: dist.TCPStore, rank: int, error: BaseException) -> None:
    """The first error counts: those that follow from it come later."""
    with suppress(Exception):
        store.compare_set(ERROR, "", f"rank {rank}: {type(error).__name__}: {error}")


def _cause(error: BaseException, store: dist.TCPStore) -> Exception:
    """Why a message did not come through: another rank's own word, or that it has none."""
    with suppress(Exception):
        if store.check([ERROR]):
            return RankFailed(store.get(ERROR).decode())
    log.info("%s", error)
    return RankLost(
        "a process of this run has gone without a word (killed, or out of memory?); the same "
        "command continues from the newest checkpoint"
    )


def _of_a_connection(error: BaseException) -> bool:
    """Tell a lost peer, which gloo reports as a plain RuntimeError that names gloo."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and "gloo" in str(error).lower()
    )
