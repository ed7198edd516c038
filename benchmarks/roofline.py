"""What a training step of each published model asks of a GPU, and the speed that this allows.

    python benchmarks/roofline.py                 # the tables of docs/gpus.md and docs/models.md
    python benchmarks/roofline.py --models forcenet --batch 8

Kernels, bytes and floating-point operations are counted while a step of the loop (forward,
backward, clipping, optimiser) runs on the fake GPU of `fake_gpu.py`: every operation that is no
view is a kernel, and reads its inputs from memory and writes its outputs there, as eager code
does; matrix products count two operations for each multiplication. A batch holds slabs of 86
atoms, as in OC20, and what is counted of forward and backward is divided by its structures. The
limit of a device is the larger of bytes over its bandwidth and of operations over its rate. What
follows the backward asks for the same however large the batch is, and stands for itself. Public
forms of some networks, `BareTraining.other_form`, are counted in the same way.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from ase.build import molecule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch_geometric.data import Batch

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.dataset import InMemoryDataset, StructureDataset
from benchmarks import training_step
from benchmarks.bare_training import BareTraining, config_of, slabs
from benchmarks.fake_gpu import DEVICE, TRAINING, fake_gpu, is_fake, leave

COUNTS = Path(__file__).parent / "roofline.json"  # as they were; a test holds them against today's


class Device(NamedTuple):
    """A GPU by its vendor's data sheet, dense products.

    Attributes:
        bandwidth: of its memory, TB/s.
        single: TFLOP/s in float32.
        tf32: in TF32, else in float32.
        half: in bfloat16, where there is it.
    """

    bandwidth: float
    single: float
    tf32: float
    half: float | None


DEVICES = {
    "V100": Device(0.9, 15.7, 15.7, None),
    "A100": Device(2.039, 19.5, 156.0, 312.0),
    "H100": Device(3.35, 67.0, 494.5, 989.5),
    "H200": Device(4.8, 67.0, 494.5, 989.5),
}
FORCES, IS2RE = ["experiment=forcenet_recipe"], ["experiment=matsci"]
S2EF = [*IS2RE, "task=s2ef_matsci", "optim=matsci_s2ef"]
OC20, MD17, L3 = ["experiment=dens_oc20"], ["experiment=dens_md17"], ["experiment=dens_md17_l3"]
OC20_MD, OC22, ESCN = (f"experiment=dens_{name}" for name in ("oc20_all_md", "oc22", "escn"))
ALONE = "dens=none"
MODELS = {  # by the recipes of the papers
    "forcenet": FORCES,
    "forcenet_large": FORCES,
    "forcenet_small": FORCES,
    "gns": FORCES,
    "schnet": FORCES,
    "dimenet_pp": FORCES,
    "dimenet_pp_large": FORCES,
    "equiformer_v2_31m": [*OC20, ALONE],
    "equiformer_v2_31m, DeNS": OC20,
    "equiformer_v2_83m": [*OC20, ALONE],
    "equiformer_v2_83m, DeNS": OC20,
    "equiformer_v2_153m": [OC20_MD, ALONE],
    "equiformer_v2_153m, DeNS": [OC20_MD],
    "equiformer_v2_oc22": [OC22, ALONE],
    "equiformer_v2_oc22, DeNS": [OC22],
    "escn_l4": [ESCN, ALONE],
    "escn": [ESCN, ALONE],
    "escn, DeNS": [ESCN],
    "escn_large": [ESCN, ALONE],
    "equiformer_l2": [*MD17, ALONE],
    "equiformer_l2, DeNS": MD17,
    "equiformer_l3": [*L3, ALONE, "task=s2ef_md17_l3", "optim=dens_md17_l3"],
    "equiformer_l3, DeNS": L3,
    "egnn_72k": IS2RE,
    "egnn_72k, S2EF": S2EF,
    "egnn_629k": IS2RE,
    "egnn_629k, S2EF": S2EF,
    "megnet_986k": IS2RE,
    "megnet_1_2m, S2EF": S2EF,
    "gala": [*IS2RE, "optim=matsci_gala"],
}
HALF = [  # in bf16, too: what the papers trained in mixed precision, and ForceNet
    "forcenet", "forcenet_large", "equiformer_v2_31m", "equiformer_v2_31m, DeNS",
    "equiformer_v2_83m, DeNS", "equiformer_v2_153m, DeNS", "equiformer_v2_oc22, DeNS",
    "escn, DeNS",
]  # fmt: skip
EAGER = [  # without a compiled row: Gala is refused, the others take minutes to lower
    "gala", "equiformer_v2_153m, DeNS, bf16", "equiformer_v2_oc22, DeNS, bf16", "escn, DeNS, bf16",
]  # fmt: skip
ROWS = [
    f"{name}{precision}{compiled}"
    for name in MODELS
    for precision in ("", ", bf16")[: 1 + (name in HALF)]
    for compiled in ("", ", compiled")
    if not compiled or name + precision not in EAGER
]
FORMS = {  # rows beside which another form is counted, and what `BareTraining.other_form` calls it
    "gns": "concatenation",
    "forcenet": "concatenation",
    "schnet": "torch_geometric",
    "dimenet_pp": "torch_geometric",
    "egnn_72k": "concatenation",
    "egnn_629k": "concatenation",
    "megnet_986k": "concatenation",
    "megnet_1_2m, S2EF": "concatenation",
    "equiformer_v2_31m": "e3nn",
    "escn_l4": "e3nn",
}
OTHERS = [f"{name}, {form}" for name, form in FORMS.items()]
BATCH = 8  # structures; of a compiled micro-batch `engine.batch_edges` holds their edges
ROOM = 1.02  # there with DeNS, which moves atoms: what exceeds the budget is another graph
LISTS = ("_foreach_", "_fused_adam")  # of weights, gradients and moments: clipping and after it
FREE = {  # of CUDA: nothing is launched
    "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided",
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Of one step, for each structure of its batch.

    Attributes:
        kernels: launched in the whole step, for all structures.
        bytes: moved in forward and backward.
        flops: of matrix products.
        half: of these in bfloat16. Where there are some, the others are in float32, else in TF32.
        edges: of a structure.
        update: bytes moved by clipping, optimiser and moving average, for all structures together.
    """

    kernels: int
    bytes: float
    flops: float
    half: float
    edges: float
    update: float

    def limit(self, device: Device) -> float | None:
        """Structures per second at most, in batches of any size; None: it has not the precision."""
        arithmetic = self.flops / device.tf32
        if self.half:
            if device.half is None:
                return None
            arithmetic = (self.flops - self.half) / device.single + self.half / device.half
        return 1e12 / max(self.bytes / device.bandwidth, arithmetic)


class Kernels(TorchDispatchMode):
    """Adds up what operations on the device would do."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = self.flops = self.half = self.update = 0
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__
        made = self._of(out)
        schema = func._schema
        written = [  # fused kernels and those for lists return nothing
            t
            for argument, value in zip(schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            if argument.name != "grads"  # of fused optimisers, which write them to unscale them
            for t in self._of(value)
        ]
        if not any(value.alias_info is not None for value in schema.returns):
            written += made
        if name in FREE or func.is_view or not written:
            return out
        read = {id(t): t for t in self._of((args, kwargs))}
        moved = sum(map(_moved, [*read.values(), *written]))
        if name.startswith(LISTS):  # some hundred tensors at once
            self.kernels += -(-len(args[0]) // 100)
            self.update += moved
        else:
            self.kernels += 1
            self.bytes += moved
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
            self.flops += flops
            self.half += flops * (made[0].dtype == torch.bfloat16)
        self.names[name] += 1
        return out

    def _of(self, values: Any) -> list[Tensor]:
        return [t for t in tree_leaves(values) if isinstance(t, Tensor) and is_fake(t.device)]


def _moved(tensor: Tensor) -> int:
    """Bytes of the elements that exist; of an expanded tensor those behind it."""
    shape = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or n == 1]
    return prod(shape) * tensor.element_size()


def choices_of(row: str) -> list[str]:
    """What is typed for a row: `run.py <choices>`."""
    name = row
    for suffix in ("compiled", "bf16", *FORMS.values()):
        name = name.removesuffix(f", {suffix}")
    choices = [f"model={name.partition(',')[0]}", *MODELS[name]]
    choices.append(f"engine.precision={'bf16' if ', bf16' in row else 'tf32'}")
    return [*choices, *(["engine.compile=default"] if row.endswith(", compiled") else [])]


def count(row: str, batch: int = BATCH) -> Count:
    """Count the second step of a row: the first also makes the optimiser's state."""
    compiled = row.endswith(", compiled")
    batch = BATCH if compiled else batch
    sets = molecules(batch) if row.startswith("equiformer_l") else slabs(batch)
    bare = BareTraining(config_of(choices_of(row)), sets, DEVICE, 1, batch_size=batch, accumulate=1)
    if compiled:
        edges = bare.data.num_edges.sum() * (ROOM if ", DeNS" in row else 1)
        bare.trainer = replace(bare.trainer, batch_edges=int(edges))
    from benchmarks.compiled_kernels import lowered  # imports a compiler, for seconds

    form = other_form(bare, batch) if row in OTHERS else fake_gpu(TRAINING)
    # torch numbers operations in each thread and differentiates the latest first. Where gradients
    # are differentiated again two threads have some, and rows counted before would decide the order
    alone = torch.autograd.set_multithreading_enabled(False)
    with lowered() as kept, form, alone, bare.steps() as steps:
        steps.run(steps.next())
        made = steps.next()
        with Kernels() as kernels:
            steps.run(made)
    found = Counter(
        {name: getattr(kernels, name) for name in ("kernels", "bytes", "flops", "half")}
    )
    if compiled:
        assert len(kept.graphs) == len(made) == 1
        found += kept.count()
    edges = made[0].edge_index.shape[1] / batch if "edge_index" in made[0] else 0.0
    each = {name: found[name] / batch for name in ("bytes", "flops", "half")}
    return Count(found["kernels"], **each, edges=edges, update=kernels.update)


class Anywhere(dict[str, str]):
    """Where public code may wait."""

    def __contains__(self, place: object) -> bool:
        return True


@contextmanager
def other_form(bare: BareTraining, batch: int) -> Iterator[None]:
    """The fake GPU, and the model in a public form on it.

    What that form waits for is not counted, nor are triplets that it lists: their number is known
    to the host alone, so they are there before.
    """
    _, form = bare.other_form()
    number = len(training_step.listed_triplets(bare.data.batch(range(batch)))[0])

    def listed(_: Batch) -> tuple[Tensor, Tensor]:
        source, target = torch.empty(2, number, dtype=torch.int64, device=DEVICE)
        return source, target

    with (
        fake_gpu(Anywhere()),
        form,
        mock.patch.object(training_step, "listed_triplets", listed),
    ):
        yield


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
    cells += [f"{found.bytes / 1e9:.2f}", f"{found.flops / 1e9:.1f}", f"{found.update / 1e9:.2f}"]
    limits = [found.limit(device) for device in DEVICES.values()]
    cells += ["–" if limit is None else f"{limit:.0f}" for limit in limits]
    return f"| {' | '.join(cells)} |"


def beside(name: str, kept: dict[str, dict[str, float]]) -> str:
    """Of the table that holds a row of `FORMS` against its other form, in Markdown."""
    ours, theirs = Count(**kept[name]), Count(**kept[f"{name}, {FORMS[name]}"])
    compiled = Count(**kept[f"{name}, compiled"])
    cells = [f"`{name}`", FORMS[name], f"{ours.kernels}", f"{theirs.kernels}"]
    for of in ("bytes", "flops"):
        one, other = getattr(ours, of), getattr(theirs, of)
        cells += [f"{one / 1e9:.2f}", f"{other / 1e9:.2f}", f"{other / one:.2f} x"]
    cells += [f"{compiled.bytes / 1e9:.2f}", f"{theirs.bytes / compiled.bytes:.2f} x"]
    return f"| {' | '.join(cells)} |"


HEAD = f"| model | edges | kernels | GB | GFLOP | update GB | {' | '.join(DEVICES)} |\n"
HEAD += "|---|" + "--:|" * 9


def changed(found: Count, kept: dict[str, float]) -> list[str]:
    """Counts that are not what they were, to the last digit: nothing about them is random."""
    return [
        f"{name} {kept.get(name, 0):.12g} -> {value:.12g}"
        for name, value in vars(found).items()
        if value != kept.get(name)
    ]


def main() -> int:
    """Print the table; keep the counts, or hold them against those that are kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*ROWS, *OTHERS], choices=[*ROWS, *OTHERS])
    parser.add_argument("--batch", type=int, default=BATCH, help="structures of eager rows")
    parser.add_argument("--write", action="store_true", help=f"keep the counts in {COUNTS.name}")
    parser.add_argument("--check", action="store_true", help="1 where a count has changed")
    options = parser.parse_args()
    print(HEAD, flush=True)
    kept = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    other: list[str] = []
    for name in options.models:
        found = count(name, options.batch)
        print(line(name, found), flush=True)
        if options.check:
            other += [f"{name}: {told}" for told in changed(found, kept.get(name, {}))]
        if options.write:
            kept = json.loads(COUNTS.read_text()) | {name: vars(found)}
            COUNTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    if other:
        other.append(f"by torch {torch.__version__}; `--write --models <rows>` keeps new counts")
        print("\n".join(other), file=sys.stderr)
    return int(bool(other))


if __name__ == "__main__":
    leave(main())
