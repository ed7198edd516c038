"""What only a GPU can show: its results are those of the CPU, and its memory does run out."""

import torch

from atomsweep.sweep.evaluation_settings import Cost
from atomsweep.tasks.relax.loop import relax
from atomsweep.worker.evaluate.cost import cost
from atomsweep.worker.evaluate.memory import largest_that_fits
from atomsweep.worker.trained import load
from tests.contracts.params import ON_GPU

pytestmark = ON_GPU


def test_relaxations_on_a_gpu_are_those_on_the_cpu(tiny_run, mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("val_id")
    structures = [ends[2 * index] for index in range(4)]
    found = []
    for device in ("cpu", "cuda"):
        potential = load(tiny_run.path, device=device, dtype="float64").potential()
        results = relax(structures, potential, fmax=0.05, steps=8, batch_size=3)
        found.append({one.index: one.structure.pos for one in results})
    for index in range(4):
        assert abs(found[0][index] - found[1][index]).max() < 1e-6


def test_running_out_of_device_memory_is_survived():
    block = torch.cuda.mem_get_info()[0] // 5

    def attempt(size):
        torch.empty(size, block, dtype=torch.uint8, device="cuda")
        return 0.0

    found = largest_that_fits(attempt, 64)
    assert found.limit == "memory"
    assert 3 <= found.size <= 5
    torch.empty(2 * block, dtype=torch.uint8, device="cuda")  # nothing is left behind


def test_the_cost_names_the_memory_that_it_took(tiny_run):
    model = load(tiny_run.path, device="cuda")
    found = cost(model, Cost(max_batch=64), lambda done, total: None)
    assert found["batch_size"] == 64
    assert found["peak_memory_gib"] > 0.0
