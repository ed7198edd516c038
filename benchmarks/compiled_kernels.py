"""What a compiled forward and backward ask of a device, without a compiler or a device.

The graph that `engine.compile` makes goes through torch's inductor as far as the kernels are
settled: derivative, decompositions, partition, lowering and fusion, by the rules that it has for
CPUs, since a GPU's backend starts on no other machine. Each kernel that is left reads its inputs
from memory and writes its outputs there once. What a GPU gets differs where inductor's rules do:
its large reductions are cut in two, and loops nest differently.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext, tracing
from torch._inductor import compile_fx, config, ir
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from atomsweep.engine import agreement, compiled


class Lowered:
    """Takes the place of `torch.compile`: keeps the graph, and does nothing where it would run.

    Attributes:
        graphs: that were to be compiled, with the inputs they are called with.
    """

    def __init__(self) -> None:
        self.graphs: list[tuple[GraphModule, list[Any]]] = []

    def __call__(self, graph: GraphModule, **options: Any) -> Callable[..., list[Tensor]]:
        """What runs in place of the graph: outputs and gradients without values."""
        outputs = [node.meta["val"] for node in next(iter(reversed(graph.graph.nodes))).args[0]]
        calls: list[Any] = []

        def run(*inputs: Tensor) -> list[Tensor]:
            if not calls:
                described = [(t.shape, t.stride(), t.dtype, t.requires_grad) for t in inputs]
                calls.append(described)
                self.graphs.append((graph, described))
            return list(_Nothing.apply(outputs, *inputs))

        return run

    def count(self) -> Counter[str]:
        """`kernels`, `bytes`, `flops`, `half` (in bfloat16) of forward and backward of all."""
        found: Counter[str] = Counter()
        for graph, inputs in self.graphs:
            _lower(graph, inputs, found)
        return found


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: list[Tensor], *inputs: Tensor) -> Any:
        ctx.save_for_backward(*inputs)
        device = inputs[0].device
        return tuple(torch.empty(o.shape, dtype=o.dtype, device=device) for o in outputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return (None, *(torch.empty_like(t) if needs else None for t, needs in wanted))


@contextmanager
def lowered() -> Iterator[Lowered]:
    """Within it nothing is compiled, and what would be is kept.

    Repeated blocks stay written out: a function asks for the same each time that it is called.
    """
    kept = Lowered()
    with (
        mock.patch.object(torch, "compile", kept),
        mock.patch.object(compiled, "outlined", lambda graph: graph),
        # there are no values
        mock.patch.object(agreement, "apart", return_value=0.0),
    ):
        yield kept


def _lower(graph: GraphModule, described: list[Any], found: Counter[str]) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    graph = _on_cpu(graph, mode)
    with mode:
        inputs = [
            torch.empty_strided(shape, stride, dtype=dtype).requires_grad_(needs)
            for shape, stride, dtype, needs in described
        ]
    settle = partial(_settle, found=found, mode=mode)
    with (
        tracing(TracingContext(mode)),
        V.set_fake_mode(mode),
        functorch.patch(force_non_lazy_backward_lowering=True),
        config.patch(fx_graph_cache=False),
    ):
        aot_module_simplified(
            graph,
            inputs,
            fw_compiler=settle,
            bw_compiler=settle,
            partition_fn=compile_fx.partition_fn,
            decompositions=select_decomp_table(),
        )


def _settle(
    graph: GraphModule, inputs: list[Any], found: Counter[str], mode: FakeTensorMode
) -> Callable[..., Any]:
    for node in graph.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet in flop_registry:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            made = node.meta["val"]
            flops = flop_registry[packet](*args, **kwargs, out_val=made)
            found["flops"] += flops
            found["half"] += flops * (made.dtype == torch.bfloat16)
    compile_fx._recursive_post_grad_passes(graph, is_inference=False)
    lowering = GraphLowering(graph, example_inputs=inputs)
    with (
        V.set_graph_handler(lowering),
        V.set_fake_mode(mode),
        V.set_debug_handler(DebugContext()),
    ):
        lowering.run(*inputs)
        lowering._update_scheduler()
        for node in lowering.scheduler.nodes:
            if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
                continue
            found["kernels"] += 1
            found["bytes"] += node.get_read_write_buffers_sizes()
    return graph.forward


def _on_cpu(graph: GraphModule, mode: FakeTensorMode) -> GraphModule:
    """The same graph, and its constants, of another device."""
    root = nn.Module()
    with mode:
        for name, value in graph.named_buffers():
            root.register_buffer(name, torch.empty(value.shape, dtype=value.dtype))
    other = GraphModule(root, copy.deepcopy(graph.graph))
    for node in other.graph.nodes:
        node.meta.pop("val", None)
        node.args, node.kwargs = tree_map(_moved, (node.args, node.kwargs))
    other.recompile()
    return other


def _moved(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value
