"""What a training step of each published model asks of a GPU, and the speed that this allows.

    python benchmarks/roofline.py                          # the table of docs/gpus.md
    python benchmarks/roofline.py --models forcenet --batch 8

Kernels, bytes and floating-point operations are counted while a step of the loop (forward,
backward, clipping, optimiser) runs on the fake GPU of `fake_gpu.py`: every operation that is no
view is a kernel, and reads its inputs from memory and writes its outputs there, as eager code
does; matrix products count two operations for each multiplication. A batch holds slabs of 86
atoms, as in OC20, and what is counted of it is divided by its structures. The limit of a device is
the larger of bytes over its bandwidth and of operations over its rate.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import molecule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.dataset import InMemoryDataset, StructureDataset
from benchmarks.bare_training import BareTraining, config_of, slabs
from benchmarks.fake_gpu import DEVICE, TRAINING, fake_gpu, is_fake, leave

COUNTS = Path(__file__).parent / "roofline.json"  # as they were; a test holds them against today's
DEVICES = {  # TB/s, TFLOP/s in float32, in TF32 or else float32; vendors' data sheets, dense
    "V100": (0.9, 15.7, 15.7),
    "A100": (2.039, 19.5, 156.0),
    "H100": (3.35, 67.0, 494.5),
    "H200": (4.8, 67.0, 494.5),
}
S2F, OC20 = ["task=s2f", "augmentation=rotate_z"], ["task=s2ef_oc20"]
OC22 = ["task=s2ef_oc22"]
MD17, IS2RE = ["task=s2ef_md17", "augmentation=none"], ["task=is2re"]
MODELS = {  # each is counted eagerly, and compiled where `COMPILED` says so
    "forcenet": S2F,
    "forcenet_large": S2F,
    "forcenet_small": S2F,
    "gns": S2F,
    "schnet": ["task=s2f"],
    "dimenet_pp": ["task=s2f"],
    "dimenet_pp_large": ["task=s2f"],
    "equiformer_v2_31m": OC20,
    "equiformer_v2_31m, DeNS": [*OC20, "dens=oc20"],
    "equiformer_v2_83m": OC20,
    "equiformer_v2_153m": OC20,
    "equiformer_v2_153m, DeNS": [*OC20, "dens=oc20_all_md"],
    "equiformer_v2_oc22": OC22,
    "equiformer_v2_oc22, DeNS": [*OC22, "dens=oc22"],
    "escn_l4": OC20,
    "escn": OC20,
    "escn, DeNS": [*OC20, "dens=oc20_escn"],
    "escn_large": OC20,
    "equiformer_l2": MD17,
    "equiformer_l2, DeNS": [*MD17, "dens=md17"],
    "equiformer_l3": ["task=s2ef_md17_l3", "augmentation=none"],
    "equiformer_l3, DeNS": ["task=s2ef_md17_l3", "augmentation=none", "dens=md17"],
    "egnn_72k": IS2RE,
    "egnn_629k": IS2RE,
    "megnet_986k": IS2RE,
    "megnet_1_2m": IS2RE,
    "gala": IS2RE,
}
COMPILED = {
    name: f"{name}, compiled"
    for name in (
        "forcenet", "forcenet_large", "forcenet_small", "gns", "schnet", "dimenet_pp",
        "equiformer_v2_31m", "equiformer_v2_31m, DeNS", "escn_l4", "escn, DeNS", "equiformer_l2",
        "equiformer_l2, DeNS", "equiformer_l3", "equiformer_l3, DeNS", "egnn_72k", "egnn_629k",
        "megnet_986k", "megnet_1_2m",
    )
}  # fmt: skip
ROWS = [row for name in MODELS for row in (name, COMPILED.get(name)) if row is not None]
PACKED = 8  # structures of a compiled micro-batch, of which `engine.batch_edges` holds the edges
ROOM = 1.02  # there with DeNS, which moves atoms: what exceeds the budget is another graph
FREE = {  # of CUDA: nothing is launched
    "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided",
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Of one step, for each structure of its batch.

    Attributes:
        kernels: launched in the whole step, for all structures.
        bytes: moved.
        flops: of matrix products.
        edges: of a structure.
    """

    kernels: int
    bytes: float
    flops: float
    edges: float

    def limit(self, bandwidth: float, rate: float) -> float:
        """Structures per second at most. TB/s, TFLOP/s."""
        return 1.0 / max(self.bytes / (bandwidth * 1e12), self.flops / (rate * 1e12))


class Kernels(TorchDispatchMode):
    """Adds up what operations on the device would do."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.bytes, self.flops = 0, 0, 0
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if name in FREE or func.is_view or not any(is_fake(t.device) for t in made):
            return out
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        lists = sum(isinstance(a, list | tuple) for a in args) if name.startswith("_f") else 0
        # `_foreach` and `_fused` kernels take some hundred tensors at once
        self.number += 1 if not lists else -(-len(args[0]) // 100)
        touched = {id(t): t for t in read if is_fake(t.device)}
        self.bytes += sum(map(_moved, touched.values()))
        if not name.endswith("_") and not func._schema.is_mutable:
            self.bytes += sum(map(_moved, made))
        elif made and not lists:
            self.bytes += _moved(made[0])
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        self.names[name] += 1
        return out


def _moved(tensor: Tensor) -> int:
    """Bytes of the elements that exist; of an expanded tensor those behind it."""
    shape = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or n == 1]
    return prod(shape) * tensor.element_size()


def count(row: str, batch: int = 2) -> Count:
    """Count the second step of a row: the first also makes the optimiser's state."""
    name = row.removesuffix(", compiled")
    compiled = row != name
    choices = [f"model={name.partition(',')[0]}", *MODELS[name]]
    if compiled:
        batch = PACKED
        choices += ["engine.compile=default"]
    sets = molecules(batch) if name.startswith("equiformer_l") else slabs(batch)
    bare = BareTraining(config_of(choices), sets, DEVICE, 1, batch_size=batch, accumulate=1)
    if compiled:
        edges = bare.data.num_edges.sum() * (ROOM if name.endswith("DeNS") else 1)
        bare.trainer = replace(bare.trainer, batch_edges=int(edges))
    from benchmarks.compiled_kernels import lowered  # imports a compiler, for seconds

    with lowered() as kept, fake_gpu(TRAINING), bare.steps() as steps:
        steps.run(steps.next())
        made = steps.next()
        with Kernels() as kernels:
            steps.run(made)
    if compiled:
        more, moved, flops = kept.count()
        assert len(kept.graphs) == len(made) == 1
        kernels.number, kernels.bytes = kernels.number + more, kernels.bytes + moved
        kernels.flops += flops
    edges = made[0].edge_index.shape[1] / batch if "edge_index" in made[0] else 0.0
    return Count(kernels.number, kernels.bytes / batch, kernels.flops / batch, edges)


def molecules(count: int) -> StructureDataset:
    """Benzene, a molecule of MD17, with random labels."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        atoms = molecule("C6H6")
        atoms.rattle(0.05, seed=number)
        one = structure_from_atoms(atoms, sid=number)
        made.append(replace(one, forces=rng.normal(size=(one.natoms, 3)), energy=rng.normal()))
    return InMemoryDataset(made, "molecules")


def line(name: str, found: Count) -> str:
    """Of the table in Markdown."""
    cells = [name, f"{found.edges:.0f}", f"{found.kernels}"]
    cells += [f"{found.bytes / 1e9:.2f}", f"{found.flops / 1e9:.1f}"]
    cells += [f"{found.limit(speed, tf32):.0f}" for speed, _, tf32 in DEVICES.values()]
    return f"| {' | '.join(cells)} |"


HEAD = "| model | edges | kernels | GB | GFLOP | " + " | ".join(DEVICES) + " |\n|---|" + "--:|" * 8


GROWTH = 0.05  # that is noticed


def grown(found: Count, kept: dict[str, float]) -> list[str]:
    """Counts that are larger than they were by more than `GROWTH`."""
    return [
        f"{name} {kept[name]:.4g} -> {value:.4g}"
        for name, value in vars(found).items()
        if value > (1 + GROWTH) * kept[name]
    ]


def main() -> int:
    """Print the table; keep the counts, or hold them against those that are kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--batch", type=int, default=2, help="structures")
    parser.add_argument("--write", action="store_true", help=f"keep the counts in {COUNTS.name}")
    parser.add_argument("--check", action="store_true", help="1 where a count has grown by 5 %%")
    options = parser.parse_args()
    print(HEAD, flush=True)
    kept = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    worse = []
    for name in options.models:
        found = count(name, options.batch)
        print(line(name, found), flush=True)
        if options.check:
            worse += [f"{name}: {told}" for told in grown(found, kept[name])]
        if options.write:
            kept = json.loads(COUNTS.read_text()) | {name: vars(found)}
            COUNTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print("\n".join(worse), file=sys.stderr)
    return int(bool(worse))


if __name__ == "__main__":
    leave(main())
