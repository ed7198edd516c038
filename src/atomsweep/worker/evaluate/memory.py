"""The largest size that fits into memory, found by trying, on a device that may run out of it."""

import gc
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30


class TooLarge(Exception):
    """A size does not fit: memory ran out or would have, or it took too long."""


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        size: largest that fits.
        limit: what kept the next one out: memory, time or maximum.
    """

    size: int
    limit: str


def largest_that_fits(
    attempt: Callable[[int], float], maximum: int, max_seconds: float = float("inf")
) -> Found:
    """Double until a size does not fit, then bisect down to an eighth of what fits.

    Args:
        attempt: tries a size and says how many seconds it took; `TooLarge`, or running out of
            memory, means that it does not fit.
        maximum: no larger size is tried.
        max_seconds: no larger size is tried once one took longer.

    Raises:
        TooLarge: not even one fits.
    """
    fits, fails = 0, maximum + 1
    limit = "maximum"
    size = 1
    while size < fails:
        try:
            seconds = _survive(attempt, size)
        except TooLarge:
            fails, limit = size, "memory"
            break
        fits = size
        if seconds > max_seconds:
            return Found(fits, "time")
        size = min(2 * size, maximum) if size < maximum else fails
    if not fits:
        raise TooLarge("not even a batch of one structure fits into memory")
    while limit == "memory" and fails - fits > max(1, fits // 8):
        middle = (fits + fails) // 2
        try:
            _survive(attempt, middle)
            fits = middle
        except TooLarge:
            fails = middle
    return Found(fits, limit)


def _survive(attempt: Callable[[int], float], size: int) -> float:
    try:
        return attempt(size)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        pass  # outside of the handler, whose traceback would hold on to tensors
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
    free_memory()
    raise TooLarge(f"{size} structures do not fit into memory")


def free_memory() -> None:
    """Give back what nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Meter:
    """Runs something and says how long it took; on a CPU also whether it may be tried at all.

    A process that takes too much of a CPU's memory is killed, so a size is refused there when the
    sizes before it say that it would exceed the budget.

    Args:
        device: where it runs.
        budget: bytes beyond what the process has now; of a CPU only.
    """

    def __init__(self, device: torch.device, budget: float) -> None:
        self.device, self.budget = device, budget
        _reset_peak()
        self._base = _peak_bytes()
        self._per_item = 0.0

    def run(self, work: Callable[[], object], size: int) -> float:
        """Seconds of `work`.

        Raises:
            TooLarge: on a CPU, where `size` would need more than the budget.
        """
        on_cpu = self.device.type == "cpu"
        if on_cpu and size * self._per_item > self.budget:
            raise TooLarge(f"{size} structures need more than {self.budget / GIB:.1f} GiB")
        seconds = timed(work, self.device)
        if on_cpu:
            self._per_item = max(0.0, _peak_bytes() - self._base) / size
        return seconds


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, the device's queue included."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes() -> float:
    """Most memory that this process has had, since the last reset where that is possible."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
