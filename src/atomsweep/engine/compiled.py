"""A model's forward as one compiled graph that holds the gradient which gives the forces.

`torch.compile` differentiates what it compiles once, and a loss on forces that are a gradient asks
for two derivatives. So the forward is first written down with the gradient it takes, as one graph
of plain operations, for a shape; that graph is compiled, and its backward is an ordinary one.
Models of direct forces go the same way. Parameters and buffers are inputs, so a graph holds no
weights.
"""

import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch_geometric.data import Batch, Data

from atomsweep import keys
from atomsweep.data.batches.ghosts import Shape, row_weights, shape_of
from atomsweep.engine import agreement
from atomsweep.engine.kernels import cpu_kind, remove_damaged
from atomsweep.engine.regions import OwnOutputs, Regions, kept_inputs, outlined
from atomsweep.engine.trainer import Trainer
from atomsweep.models.base import ForceField, Prediction
from atomsweep.nn.sync_norm import counted_rows, without_ranks
from atomsweep.tracing import tracing

BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
THREADS = "TORCHINDUCTOR_COMPILE_THREADS"  # which torch has read by now

log = logging.getLogger(__name__)


def compile_into(folder: Path, trainer: Trainer) -> None:
    """Keep what is compiled in a folder for all runs beside it, if the environment names no other.

    Machines of another kind of CPU have folders of their own: code for one gives wrong numbers on
    another, or ends it. What a killed compiler has left half written there, or among the headers
    that torch keeps for all folders, is taken away. On a CPU the compiler takes as many threads as
    the training does.
    """
    if os.environ.get(CACHE) in (None, default_cache_dir()):  # torch itself may have written that
        os.environ[CACHE] = str(folder.absolute() / cpu_kind())
    for kept in (Path(os.environ[CACHE]), Path(default_cache_dir()) / "precompiled_headers"):
        remove_damaged(kept)
    if torch.device(trainer.device).type == "cpu" and THREADS not in os.environ:
        torch._inductor.config.compile_threads = trainer.threads


class CompiledForward:
    """Calls a model on filled batches, and gives what it predicts for their real rows.

    A graph is made for each shape, at its first batch, and kept. Where one cannot be made there is
    a warning, and batches of that shape go through the model eagerly from then on.

    Args:
        model: in training; its weights may change, not its modules.
        mode: "default", or "max" for CUDA graphs and measured kernels.
        autocast: context of a forward; its casts become part of the graph.
        eager_shapes: that are known not to be compiled; those that cannot be are added. So a run
            that continues trains them eagerly, whatever the compiler now makes of them.

    Attributes:
        graphs: by shapes and types of their inputs; None where it cannot be made.
        failed: why the last of those cannot, or None.
    """

    def __init__(
        self,
        model: ForceField,
        mode: Literal["default", "max"],
        autocast: Callable[[], AbstractContextManager[object]],
        eager_shapes: set[str],
    ) -> None:
        self.model, self.mode, self.autocast = model, mode, autocast
        self.eager_shapes = eager_shapes
        self.graphs: dict[Any, _Graph | None] = {}
        self.failed: str | None = None

    def __call__(self, batch: Batch) -> Prediction:
        """Predict for the batch of which `batch.filled` is the whole."""
        real = shape_of(batch)
        filled = batch[keys.FILLED].to_dict().items()
        fields = {name: value for name, value in filled if isinstance(value, Tensor)}
        key = tuple((name, value.shape, value.dtype) for name, value in fields.items())
        if key not in self.graphs:
            spelt = " ".join(f"{name}:{dtype}{[*shape]}" for name, shape, dtype in key)
            known = spelt in self.eager_shapes
            self.graphs[key] = None if known else self._graph_of(fields, real)
            if self.graphs[key] is None:
                self.eager_shapes.add(spelt)
        graph = self.graphs[key]
        return self._eager(batch) if graph is None else _of_real(graph(fields), real)

    def _graph_of(self, fields: dict[str, Tensor], real: Shape) -> "_Graph | None":
        """The graph of a shape; None where it cannot be made: a warning, of further ones a line."""
        try:
            return self._made(fields, real)
        except Exception as error:  # a compiler raises any kind, and eager code does as well
            why = " ".join(str(error).split())[:300] or type(error).__name__
            shape = f"{len(fields[keys.POS])} atoms and {fields[keys.EDGE_INDEX].shape[1]} edges"
            log.log(
                logging.WARNING if self.failed is None else logging.INFO,
                "engine.compile=%s: %s is trained eagerly on batches of this shape (%s with their "
                "ghosts), as its compiled form failed: %s",
                *(self.mode, self._name, shape, why),
            )
            log.debug("", exc_info=error)
            self.failed = why
            return None

    def _eager(self, batch: Batch) -> Prediction:
        with self.autocast():
            prediction: Prediction = self.model(batch)
        return prediction

    def _made(self, fields: dict[str, Tensor], real: Shape) -> "_Graph":
        """A graph, run once in both directions, so that what fails does so here."""
        with agreement.kept_generators(fields[keys.POS].device):
            graph = _Graph(self.model, self.mode, self.autocast, fields)
            unchecked = graph.try_out(fields, real)
        if unchecked is not None:
            log.warning(
                "engine.compile=%s: %s %s, so what was compiled was not held against eager code; "
                "training goes on with it",
                *(self.mode, self._name, unchecked),
            )
        return graph

    @property
    def _name(self) -> str:
        return type(getattr(self.model, "model", self.model)).__name__


class _Graph:
    """The forward for one shape, from weights, buffers and fields."""

    def __init__(
        self,
        model: ForceField,
        mode: Literal["default", "max"],
        autocast: Callable[[], AbstractContextManager[object]],
        fields: dict[str, Tensor],
    ) -> None:
        self.mode = mode
        self.device = fields[keys.POS].device
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        names, fields_there = list(state), list(fields)
        given: list[str] = []

        def eager(
            fields: dict[str, Tensor],
            state: dict[str, Tensor] = state,
            precision: Callable[[], AbstractContextManager[object]] = autocast,
        ) -> Prediction:
            batch = Data.from_dict(fields)
            with precision(), counted_rows(row_weights(batch)):
                prediction: Prediction = functional_call(model, state, (batch,))
            return prediction

        def forward(*inputs: Tensor) -> list[Tensor]:
            state = dict(zip(names, inputs[: len(names)], strict=True))
            fields = dict(zip(fields_there, inputs[len(names) :], strict=True))
            with _KeepDetached():
                prediction = eager(fields, state)
            found = {n: v for n, v in prediction._asdict().items() if v is not None}
            given[:] = found
            return list(found.values())

        self.model, self.eager, self.all_state = model, eager, state
        self.weights = [x for x in state.values() if x.requires_grad]
        self.buffers = [x for x in state.values() if not isinstance(x, nn.Parameter)]
        self.reduced = agreement.is_reduced(autocast, self.device)
        inputs = [*(_leaf(value) for value in state.values()), *fields.values()]
        with tracing(), Regions(model):
            graph = make_fx(forward, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
        read = _clean(graph)
        self.outputs = given
        self.state = [state[names[place]] for place in read if place < len(names)]
        self.fields = [fields_there[i - len(names)] for i in read if i >= len(names)]
        self.run = torch.compile(
            outlined(graph), fullgraph=True, dynamic=False, backend=BACKEND, options=_options(mode)
        )
        if mode == "max":  # weights stay where they are, so that CUDA graphs need no copies
            for value in self.state:
                torch._dynamo.mark_static_address(value)

    def __call__(self, fields: dict[str, Tensor]) -> Prediction:
        """Predict for all rows."""
        if self.mode == "max":
            # a micro-batch before this one left gradients in memory that the graph now uses again
            for weight in self.weights:
                weight.grad = None if weight.grad is None else weight.grad.clone()
            torch.compiler.cudagraph_mark_step_begin()
        with kept_inputs():
            found = self.run(*self.state, *(fields[name] for name in self.fields))
        return Prediction(**dict(zip(self.outputs, found, strict=True)))

    def try_out(self, fields: dict[str, Tensor], real: Shape) -> str | None:
        """Forward and backward, so that both are compiled, beside those of eager code.

        Args:
            fields: of a filled batch.
            real: how much of it is; ghosts may be off by anything.

        Returns:
            Why nothing was held against eager code, if so.

        Raises:
            ValueError: the two differ by more than rounding explains.
        """
        offset = self.model.energy_offset(Data.from_dict(fields))

        def known(
            forward: Forward, weights: list[Tensor], along: list[Tensor] | None
        ) -> _Derivatives:
            return self._derivatives(forward, weights, fields, real, offset, along)

        expected = unchecked = None
        try:
            expected = known(self.eager, self.weights, None)
        except torch.OutOfMemoryError:  # a batch that is as large as compiled code bears
            unchecked = "has no memory for its first batch in eager code"
        along = None if expected is None else expected.along
        for _ in range(3 if self.mode == "max" else 1):  # warmed up, recorded, played back
            found = known(self, self.weights, along)
        if expected is None:
            return unchecked
        near = {name: agreement.nudged(value) for name, value in self.all_state.items()}
        weights = [near[name] for name, value in self.all_state.items() if value.requires_grad]
        rounded = partial(self.eager, state=near)
        try:
            if self.reduced:
                with agreement.in_full_precision():
                    again = known(partial(rounded, precision=nullcontext), weights, along)
            else:
                again = known(rounded, weights, along)
        except torch.OutOfMemoryError:
            return "has no memory for its first batch in eager code of full precision"
        share = agreement.share_of(self.weights)
        roundings = agreement.OF_REDUCED if self.reduced else agreement.ROUNDINGS
        for what, part, size in (
            ("an output", "outputs", agreement.spread),
            ("a gradient", "grads", Tensor.norm),
            ("a buffer", "changes", Tensor.norm),
        ):
            one, other, third = (getattr(each, part) for each in (found, expected, again))
            apart = agreement.apart(one, other, third, share, roundings, size)
            if math.isnan(apart):
                unchecked = f"has {what} that is not finite in eager code"
            elif apart > 1.0:
                by = "is missing or infinite"
                if math.isfinite(apart):
                    by = f"differs by {apart:.3g} times what rounding explains"
                raise ValueError(f"what it gives is not what eager code does: {what} {by}")
        return unchecked

    def _derivatives(
        self,
        forward: "Forward",
        weights: list[Tensor],
        fields: dict[str, Tensor],
        real: Shape,
        offset: Tensor | None,
        along: list[Tensor] | None,
    ) -> "_Derivatives":
        """Of a forward's real rows. Buffers and generators are as before, then."""
        before = [x.clone() for x in self.buffers]
        try:
            # the other ranks may know this shape, and be at their step
            with without_ranks(), agreement.kept_generators(self.device):
                found = _of_real(forward(fields), real)
                if found.energy is not None and offset is not None:
                    found = found._replace(energy=found.energy - offset[: real.structures])
                parts = [part for part in found if part is not None]
                along = agreement.waves(parts) if along is None else along
                pairs = [(p, w) for p, w in zip(parts, along, strict=True) if p.requires_grad]
                grads: tuple[Tensor | None, ...] = (None,) * len(weights)
                if pairs and weights:
                    wanted, by = zip(*pairs, strict=True)
                    grads = torch.autograd.grad(wanted, weights, by, allow_unused=True)
                states = list(zip(self.buffers, before, strict=True))
                changes = [(x - y).float() for x, y in states if x.dtype is not torch.bool]
        finally:
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
        parts = [part.detach().clone() for part in parts]
        return _Derivatives(parts, list(grads), changes, along)


Forward = Callable[[dict[str, Tensor]], Prediction]


class _Derivatives(NamedTuple):
    """Outputs of a forward, gradients of all weights, and by how much it has changed buffers.

    Attributes:
        along: what multiplied the outputs.
    """

    outputs: list[Tensor]
    grads: list[Tensor | None]
    changes: list[Tensor]
    along: list[Tensor]


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def _of_real(prediction: Prediction, real: Shape) -> Prediction:
    """Rows of real structures and atoms."""
    energy, forces, noise = prediction
    return Prediction(
        energy if energy is None else energy[: real.structures],
        forces if forces is None else forces[: real.atoms],
        noise if noise is None else noise[: real.atoms],
    )


def _options(mode: Literal["default", "max"]) -> dict[str, Any]:
    options = torch._inductor.list_mode_options("max-autotune") if mode == "max" else {}
    return {
        **options,
        "fallback_random": True,  # the numbers that eager code would draw
        "post_grad_custom_pre_pass": OwnOutputs(),
    }


# What a graph may not lose: where a derivative ends


@torch.library.custom_op("atomsweep::held", mutates_args=())
def held(x: Tensor) -> Tensor:
    """The value, as a constant of derivatives; stands in a graph until it is cleaned."""
    return x.clone()


@held.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class _KeepDetached(TorchFunctionMode):
    """Writes `held` for what the model detaches, and for what it reads without gradients.

    A graph has no gradient mode, and autograd itself detaches what it saves for a gradient, which
    is written down as well and must not end a second derivative (`_clean`).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        if func is Tensor.detach or func is torch.detach:
            return _held(args[0])
        if not torch.is_grad_enabled():
            args, kwargs = tree_map(_held, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _held(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    with torch.no_grad():
        return held(value)


def _clean(graph: GraphModule) -> list[int]:
    """Places of the inputs that a graph reads; the others are taken out.

    `detach` of autograd's own goes, and `held` becomes `detach`.
    """
    nodes = graph.graph
    for node in list(nodes.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            nodes.erase_node(node)
    for node in nodes.nodes:
        if node.target is torch.ops.atomsweep.held.default:
            node.target = torch.ops.aten.detach.default
    nodes.eliminate_dead_code()
    inputs = [node for node in nodes.nodes if node.op == "placeholder"]
    read = [place for place, node in enumerate(inputs) if node.users]
    for node in inputs:
        if not node.users:
            nodes.erase_node(node)
    graph.recompile()
    return read
