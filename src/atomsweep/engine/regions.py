"""Blocks that a network repeats, compiled once: in a graph of the whole, each kind is one function.

A compiler takes time for every operation, and a network of twelve layers has the same ones twelve
times. `Regions` notes, while the graph is written down, which operation is of which block, in its
forward or in its gradient. `outlined` then takes what several blocks have alike out of the graph.
There still is one graph, in which such a function is called once for each block.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import groupby
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, GraphModule, Node, map_arg
from torch.fx.passes.split_module import split_module
from torch.fx.traceback import annotate, preserve_node_meta
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS_OF_INDUCTOR = (torch.ops.aten._unsafe_view.default, torch.ops.aten.reshape.default)
LEAST = 8  # operations of a function: each keeps what is around it from being fused with it

_REGION = "atomsweep_region"


class Regions(TorchDispatchMode):
    """Notes the region of every operation that a graph is made of.

    Args:
        model: its repeated blocks are those of its outermost lists of modules of one class. Only a
            block that is called as a module counts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.open: list[tuple[str, int]] = []  # blocks that are running, the innermost last
        self.spans: list[tuple[int, int, str]] = []  # numbers that autograd gave, of each block
        self.within = ExitStack()

    def __enter__(self) -> "Regions":
        """Begin to watch the blocks."""
        self.within.enter_context(preserve_node_meta())
        for name, block in _repeated(self.model):
            hooks = (
                block.register_forward_pre_hook(lambda *_, name=name: self._begin(name)),
                block.register_forward_hook(lambda *_: self._end()),
            )
            for hook in hooks:
                self.within.callback(hook.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """End it."""
        super().__exit__(*error)
        self.within.close()

    def _begin(self, name: str) -> None:
        self.open.append((name, torch.autograd._get_sequence_nr()))

    def _end(self) -> None:
        name, first = self.open.pop()
        self.spans.append((first, torch.autograd._get_sequence_nr(), name))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and let the graph's node know its region."""
        with annotate({_REGION: self._region()}):
            return func(*args, **(kwargs or {}))

    def _region(self) -> str | None:
        step = torch._C._current_autograd_node()
        if step is None:
            return self.open[-1][0] if self.open else None
        number = step._sequence_nr()
        blocks = (name for first, end, name in self.spans if first <= number < end)
        return next((f"gradient of {name}" for name in blocks), None)


def _repeated(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Blocks of the outermost lists that hold several modules of one class."""
    lists: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or name.startswith(tuple(lists)):
            continue
        kinds = {type(block) for block in module}
        if len(module) > 1 and len(kinds) == 1 and kinds != {nn.ModuleList}:
            lists.append(f"{name}.")
            yield from ((f"{name}.{i}", block) for i, block in enumerate(module))


def outlined(graph: GraphModule) -> GraphModule:
    """The graph, in which regions that occur several times are calls of one function.

    Returns:
        A graph with the same inputs and outputs; the one that was given where nothing is repeated.
    """
    _numbers_are_drawn_outside(graph.graph)
    runs = _runs(graph.graph)
    while _writes_stay_outside(graph.graph, runs):
        runs = _runs(graph.graph)
    _views_stay_within(graph.graph, runs)
    graph.recompile()
    split = split_module(
        graph,
        graph,
        runs.__getitem__,
        keep_original_order=True,  # a write after what reads, and random numbers in their order
    )
    kinds: dict[str, list[str]] = {}
    for name, part in split.named_children():
        assert isinstance(part, GraphModule)
        if any(map(_draws, part.graph.nodes)):
            continue
        if sum(node.op == "call_function" for node in part.graph.nodes) >= LEAST:
            kinds.setdefault(_described(part.graph), []).append(name)
    repeated = {name: names[0] for names in kinds.values() if len(names) > 1 for name in names}
    if not repeated:
        return graph
    for node in split.graph.nodes:
        if node.op == "call_module" and node.target in repeated:
            node.target = repeated[node.target]
    split.delete_all_unused_submodules()
    split.recompile()
    for first in set(repeated.values()):
        # Dynamo tells functions apart by their code, and each graph's class has code of its own
        kind: Any = type(split.get_submodule(first))
        kind.forward = torch.compiler.nested_compile_region(kind.forward)
    return split


def _region_of(node: Node) -> str | None:
    region: str | None = node.meta.get("custom", {}).get(_REGION)
    return region


def _is_view(node: Node) -> bool:
    if node.target is getitem:
        return isinstance(node.args[0], Node) and _is_view(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    shared = [one.alias_info for one in node.target._schema.arguments if one.alias_info is not None]
    return bool(shared) and not any(one.is_write for one in shared)


def _numbers_are_drawn_outside(graph: Graph) -> None:
    """Leave to the graph itself what draws random numbers, and the memory that they are put into.

    Inductor (torch 2.13) gives other numbers, or none, to some functions that draw them.
    """
    for node in graph.nodes:
        if _draws(node):
            for one in filter(None, (node, _written(node))):
                one.meta["custom"] = {}


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _writes_stay_outside(graph: Graph, runs: dict[Node, int]) -> bool:
    """Leave to the graph itself what writes to a tensor that its run did not make.

    Such are the statistics of a batch norm: a function may not write to its inputs, nor keep one
    for its derivative that is written to later. Where nothing reads them they come behind all.

    Returns:
        Whether a run was divided by that.
    """
    *nodes, end = graph.nodes
    writes = [_written(node) for node in nodes]
    divided = False
    for place, (node, written) in enumerate(zip(nodes, writes, strict=True)):
        if written is None or runs.get(written) == runs[node]:
            continue
        for one in (node, *node.users, *written.users):
            divided = divided or _region_of(one) is not None
            one.meta["custom"] = {}
        alone = not node.users and all(_written(user) is written for user in written.users)
        read = {_behind_views(source)[0] for source in node.all_input_nodes} - {written}
        lasts = read.isdisjoint(writes[place:])  # what is written is not changed itself later on
        if written.op == "placeholder" and alone and lasts:
            end.prepend(node)
    return divided


def _runs(graph: Graph) -> dict[Node, int]:
    """A number for each run of operations of one region, in their order."""
    for node in graph.nodes:
        if node.target is getitem:  # is no operation: it goes with what it takes from
            node.meta["custom"] = dict(node.args[0].meta.get("custom", {}))
    found: dict[Node, int] = {}
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    for number, (_, run) in enumerate(groupby(nodes, key=_region_of)):
        found.update(dict.fromkeys(run, number))
    return found


def _views_stay_within(graph: Graph, runs: dict[Node, int]) -> None:
    """Make a view anew in each run that reads it, for a function may not return its inputs."""
    for node in reversed(graph.nodes):
        if not _is_view(node):
            continue
        for user in list(node.users):
            if user.op != "output" and runs[user] != runs[node]:
                with graph.inserting_before(user):
                    copy = graph.node_copy(node)
                runs[copy] = runs[user]
                user.replace_input_with(node, copy)
    graph.eliminate_dead_code()


def _written(node: Node) -> Node | None:
    """What an operation writes to, behind views."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    written = [one.alias_info for one in node.target._schema.arguments]
    if any(alias is not None and alias.is_write for alias in written[1:]):
        raise ValueError(
            f"a compiled operation may write to its first argument, not as {node.target}"
        )
    assert isinstance(node.args[0], Node)
    return _behind_views(node.args[0])[0]


def _described(graph: Graph) -> str:
    """Operations, what they read, shapes and types: the same for functions that are the same."""
    places = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    lines = []
    for node in graph.nodes:
        read = map_arg((node.args, node.kwargs), places.__getitem__)
        value = node.meta.get("val")
        kind = (
            (value.shape, value.stride(), value.dtype, value.device)
            if isinstance(value, Tensor)
            else None
        )
        target = node.target if node.op == "call_function" else ""
        lines.append(f"{node.op} {target} {read} {kind}")
    return "\n".join(lines)


def kept_inputs() -> AbstractContextManager[object]:
    """A block in which a forward is compiled whose backward uses no input's memory again.

    It may use that of some of its inputs. Inductor (torch 2.13) takes their places for places among
    the inputs of every function that is called, so that functions write to what others still read.
    Which they are is settled with the forward, though the backward is compiled at its first call.
    """
    return functorch.patch(donated_buffer=False)


class OwnOutputs(CustomGraphPass):
    """Reads from a function nothing that is an input of it, or another output, or a view of one.

    The derivative of a function wants some of its inputs again, and torch lets its forward return
    them. Inductor (torch 2.13) takes all that is returned for tensors of their own, and may give
    the memory of such an input to another tensor while the derivative waits for it: gradients are
    wrong, and nothing says so. Here it is read from the input itself, of which inductor knows how
    long it lives.
    """

    def __call__(self, graph: Graph) -> None:
        """Change a graph that calls functions, once derivative and partition are made."""
        for call in list(graph.nodes):
            if call.target is torch.ops.higher_order.invoke_subgraph:
                self._read(graph, call)

    def uuid(self) -> bytes:
        """For caches of what is compiled."""
        return get_hash_for_files((__file__,))

    def _read(self, graph: Graph, call: Node) -> None:
        arguments: tuple[Any, ...] = call.args
        name, _, *operands = arguments
        function: Any = getattr(graph.owning_module, name.target)
        inputs = function.graph.find_nodes(op="placeholder")
        known: dict[Node, Any] = dict(zip(inputs, operands, strict=True))
        (returned,) = function.graph.output_node().args
        read: list[tuple[Any, Node]] = [
            (node.args[1], node) for node in call.users if node.target is getitem
        ]
        found = [(_behind_views(returned[place]), place, node) for place, node in sorted(read)]
        for (base, views), _, node in found:
            if base not in known and not views:
                known[base] = node
                call.append(node)
        viewed: set[Node] = set()  # but not returned themselves
        for (base, views), place, node in found:
            if base in known:
                if known[base] is not node:
                    _replace(graph, node, views, known[base])
            elif base in viewed:
                _copy_output(function, place)
            viewed.add(base)


def _replace(graph: Graph, node: Node, views: list[Node], value: Any) -> None:
    """Put views of a value in the place of a node."""
    with graph.inserting_before(node):
        for view in views:
            value = graph.node_copy(view, {view.args[0]: value}.__getitem__)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _copy_output(function: GraphModule, place: int) -> None:
    """Let a function return a copy, where another view of the same tensor is returned as well."""
    end = function.graph.output_node()
    returned: Any = end.args[0]
    with function.graph.inserting_before(end):
        copy = function.graph.call_function(torch.ops.aten.clone.default, (returned[place],))
    copy.meta["val"] = returned[place].meta["val"].clone()
    end.args = ((*returned[:place], copy, *returned[place + 1 :]),)
    function.recompile()


def _behind_views(node: Node) -> tuple[Node, list[Node]]:
    """What a tensor is a view of, and the views from there to it."""
    views: list[Node] = []
    while _is_view(node) or node.target in VIEWS_OF_INDUCTOR:
        views.insert(0, node)
        assert isinstance(node.args[0], Node)
        node = node.args[0]
    return node, views
