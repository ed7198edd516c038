"""The search for the largest batch with a fake memory, and the cost of a real tiny model."""

import mmap

import numpy as np
import pytest
import torch

from atomsweep.sweep.evaluation_settings import Cost
from atomsweep.worker.evaluate import memory as memory_room
from atomsweep.worker.evaluate.cost import cost
from atomsweep.worker.evaluate.memory import GIB, Found, Meter, TooLarge, largest_that_fits
from atomsweep.worker.trained import load


class Memory:
    """Holds so many structures; remembers what was tried."""

    def __init__(self, room, error=None):
        self.room, self.tried = room, []
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory (fake)")

    def __call__(self, size):
        self.tried.append(size)
        if size > self.room:
            raise self.error
        return size / 1000


@pytest.fixture
def no_collection(monkeypatch):
    """What a fake memory does not need, and what takes most of the time of these tests."""
    monkeypatch.setattr(memory_room, "free_memory", lambda: None)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("room", [1, 2, 3, 7, 8, 9, 100, 777, 1000])
def test_the_search_ends_within_an_eighth_below_what_fits(room):
    memory = Memory(room)
    found = largest_that_fits(memory, 4096)
    assert found.limit == "memory"
    assert room - max(1, room // 8) <= found.size <= room
    assert len(memory.tried) < 20


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("CUDA error: out of memory"),
        TooLarge("as foreseen"),
    ],
)
def test_every_way_of_running_out_of_memory_is_survived(error):
    assert largest_that_fits(Memory(5, error), 64).size in (4, 5)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        largest_that_fits(Memory(5, RuntimeError("shapes do not fit")), 64)


def test_the_search_stops_at_the_maximum_and_at_the_time_limit():
    assert largest_that_fits(Memory(10**9), 100) == Found(100, "maximum")
    assert largest_that_fits(Memory(10**9), 1) == Found(1, "maximum")
    assert largest_that_fits(Memory(10**9), 4096, max_seconds=0.1) == Found(128, "time")


def test_if_nothing_fits_it_says_so():
    with pytest.raises(TooLarge, match="not even a batch of one"):
        largest_that_fits(Memory(0), 64)


def test_on_a_cpu_the_budget_ends_the_search_before_memory_does():
    kept = []
    meter = Meter(torch.device("cpu"), 0.2 * GIB)

    def attempt(size):
        def work():  # of the system: what other tests have freed is in the process already
            kept.append(mmap.mmap(-1, size * GIB // 100))  # 10 MiB for each structure
            np.frombuffer(kept[-1], np.uint8)[:] = 1

        return meter.run(work, size)

    found = largest_that_fits(attempt, 4096)
    kept.clear()
    assert found.limit == "memory"
    assert found.size < 25


def test_a_real_model_has_a_cost(tiny_run):
    model = load(tiny_run.path, device="cpu")
    settings = Cost(max_batch=40, warm_up=1, repeats=3)
    found = cost(model, settings, lambda done, total: None)
    assert found["batch_size"] == 40  # more than the split has: it is taken again
    assert found["limit"] == "maximum"
    assert found["structures_per_second"] == pytest.approx(40 / found["seconds_per_batch"])
    hours = 1e6 / found["structures_per_second"] / 3600
    assert found["device_hours_per_million"] == pytest.approx(hours)
    assert found["atoms_per_second"] > 10 * found["structures_per_second"]
