"""Repeated blocks become functions of a graph: it computes what it did, at any depth one size."""

import itertools
from operator import getitem

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from atomsweep.engine import compiled
from atomsweep.engine.regions import (
    OwnOutputs,
    Regions,
    _runs,
    _writes_stay_outside,
    _written,
    kept_inputs,
    outlined,
)
from tests.contracts.params import first
from tests.engine.test_compiled import MODELS, training


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


class Block(nn.Module):
    """Has views that others read, a statistic that it writes to, and writes to what it made."""

    def __init__(self, wide):
        super().__init__()
        self.first, self.last = nn.Linear(wide, 2 * wide), nn.Linear(wide, wide)
        self.register_buffer("mean", torch.zeros(wide))

    def forward(self, x, pairs):
        left, right = pairs.unbind()
        gate, value = self.first(x).chunk(2, dim=-1)
        with torch.no_grad():
            self.mean.lerp_(value.mean(0), 0.1)
        messages = torch.tanh(gate[left]) * torch.sin(value[right])
        summed = torch.zeros_like(x).index_add_(0, left, messages)
        return x + self.last(summed) * x.sigmoid()


class Network(nn.Module):
    def __init__(self, depth, wide=4, blocks=Block):
        super().__init__()
        self.into = nn.Linear(3, wide)
        self.blocks = nn.ModuleList(blocks(wide) for _ in range(depth))
        self.out = nn.Linear(wide, 1)

    def forward(self, pos, pairs):
        x = self.into(pos).sin()
        for block in self.blocks:
            x = block(x, pairs)
        return self.out(x)


def written_down(network, gradient):
    """A graph of the network's outputs, and of the gradient of their sum, from state and input."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    names = list(state)
    pos, pairs = torch.randn(5, 3), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])

    def forward(pos, pairs, *values):
        pos = pos.requires_grad_(gradient)
        out = torch.func.functional_call(
            network, dict(zip(names, values, strict=True)), (pos, pairs)
        )
        if not gradient:
            return [out]
        (slope,) = torch.autograd.grad(out.sum(), pos, create_graph=True)
        return [out, slope]

    inputs = [pos, pairs, *(v.detach().requires_grad_(v.requires_grad) for v in state.values())]
    with Regions(network):
        graph = make_fx(forward, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    read = compiled._clean(graph)
    return graph, [inputs[place] for place in read], [["pos", "pairs", *names][p] for p in read]


def operations(graph):
    """Operations that a compiler meets, those of each function once."""
    return sum(
        isinstance(node.target, torch._ops.OpOverload)
        for part in graph.modules()
        if isinstance(part, torch.fx.GraphModule)
        for node in part.graph.nodes
    )


def calls(graph):
    """How often each function is called."""
    targets = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    return sorted(targets.count(name) for name in set(targets) if targets.count(name) > 1)


@pytest.mark.parametrize("gradient", [False, True])
def test_values_statistics_and_derivatives_stay(gradient):
    torch.manual_seed(0)
    graph, inputs, names = written_down(Network(4), gradient)
    functions = torch.compile(
        outlined(written_down_again(graph)), fullgraph=True, dynamic=False, backend="aot_eager"
    )
    found = []
    for form in (graph, functions):
        values = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        outputs = form(*values)
        named = list(zip(names, values, strict=True))
        weights = [v for n, v in named if v.requires_grad and n != "pos"]
        loss = sum((out * out.detach().cos()).sum() for out in outputs)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        statistics = [v for n, v in named if "mean" in n]
        found.append([*outputs, *grads, *statistics])
    assert any(value.any() for value in found[0][-4:])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert not torch._dynamo.utils.counters["graph_break"]


def written_down_again(graph):
    """The same graph, to be changed."""
    copy = torch.fx.GraphModule(graph, torch.fx.Graph())
    copy.graph.output(copy.graph.graph_copy(graph.graph, {}))
    return copy


@pytest.mark.parametrize("gradient", [False, True])
def test_a_deeper_network_is_no_more_to_compile(gradient):
    sizes = {}
    for depth in (4, 7):
        graph, *_ = written_down(Network(depth), gradient)
        found = outlined(graph)
        # forward of all blocks; gradients but of the last and of the first, whose ends differ
        assert depth in calls(found)
        sizes[depth] = operations(found) - depth  # a write to a statistic for each block stays
    assert sizes[4] == sizes[7]


def assert_same_when_compiled(network, gradient=False):
    """Values, statistics and calls of functions."""
    graph, inputs, _ = written_down(network, gradient)
    found = outlined(written_down_again(graph))
    functions = torch.compile(found, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for form in (graph, functions):
        values = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        results.append([*form(*values), *values])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    return calls(found)


class Kind(nn.Module):
    """Blocks that differ in an operation alone, or in a number."""

    def __init__(self, wide, what):
        super().__init__()
        self.last, self.what = nn.Linear(wide, wide), what

    def forward(self, x, pairs):
        y = self.last(x)
        for _ in range(8):
            y = self.what(y)
        return x + y


class Kinds(Network):
    def __init__(self, kinds, wide=4):
        super().__init__(1, wide)
        lists = (nn.ModuleList(Kind(wide, what) for _ in range(2)) for what in kinds)
        self.blocks = nn.ModuleList(lists)

    def forward(self, pos, pairs):
        x = self.into(pos).sin()
        for block in itertools.chain(*self.blocks):
            x = block(x, pairs)
        return self.out(x)


@pytest.mark.parametrize(
    "kinds",
    [
        [torch.sin, torch.cos],
        [lambda x: torch.sin(2 * x), lambda x: torch.sin(3 * x)],
        [lambda x: x.sin() + x.sum(0, keepdim=True), lambda x: x.sin() + x.sum(1, keepdim=True)],
        [lambda x: torch.add(x.sin(), x, alpha=1), lambda x: torch.add(x.sin(), x, alpha=-1)],
        [lambda x, i=i: torch.sin(i * x) for i in range(10)],  # more than dynamo keeps of one
    ],
    ids=["operation", "constant", "dim", "keyword", "ten"],
)
def test_functions_of_equal_inputs_are_told_apart(kinds):
    torch.manual_seed(0)
    assert assert_same_when_compiled(Kinds(kinds)) == [2] * len(kinds)


class Before(Block):
    def forward(self, x, pairs):
        return super().forward(x - self.mean, pairs)


class After(Block):
    def forward(self, x, pairs):
        new = super().forward(x, pairs)
        return new - self.mean * torch.sin(new)


class Between(Block):
    def forward(self, x, pairs):
        summed = torch.zeros_like(x)
        new = super().forward(x, pairs)
        return summed.index_add_(0, pairs[0], torch.sin(new)) + new * new.sigmoid()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("block", [Before, After, Between])
def test_a_statistic_is_read_as_it_is_before_or_after_its_update(block, gradient):
    torch.manual_seed(0)
    network = Network(4, blocks=block)
    for one in network.blocks:
        one.mean.normal_()
    assert assert_same_when_compiled(network, gradient)


def test_writes_keep_their_place_among_what_reads():
    class Plain(nn.Module):
        def __init__(self, wide):
            super().__init__()
            self.last = nn.Linear(wide, wide)

        def forward(self, x, mean, scale):
            y = self.last(x)
            for _ in range(8):
                y = y.sin()
            return x + (y - mean) * scale

    class Outside(Network):
        def __init__(self, depth):
            super().__init__(depth, blocks=Plain)
            for i in range(depth):
                self.register_buffer(f"mean{i}", torch.randn(4))

        def forward(self, pos, pairs):
            x = self.into(pos)
            new = x.detach().mean(0)
            for i, block in enumerate(self.blocks):
                mean = self.get_buffer(f"mean{i}")
                x = block(x, mean, 1.5 + i)
                with torch.no_grad():
                    mean.lerp_(new, 0.5)
            return self.out(x)

    torch.manual_seed(0)
    assert_same_when_compiled(Outside(3))


def test_blocks_of_other_kinds_and_sizes_are_left_as_they_are():
    class Small(nn.Module):
        def __init__(self, wide):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(wide))

        def forward(self, x, pairs):
            return x * self.scale

    graph, *_ = written_down(Network(3, blocks=Small), False)
    before = operations(graph)
    assert outlined(graph) is graph
    assert operations(graph) == before
    network = Network(1)
    network.blocks.append(Small(4))
    graph, *_ = written_down(network, False)
    assert outlined(graph) is graph


def test_what_a_block_writes_to_another_tensor_is_of_no_function():
    class Adding(Block):
        def forward(self, x, pairs):
            new = super().forward(x, pairs)
            pairs_sum.add_(new.detach())
            return new

    class Summing(Network):
        def forward(self, pos, pairs):
            nonlocal pairs_sum
            pairs_sum = torch.zeros(len(pos), 4)
            return super().forward(pos, pairs) + pairs_sum.sum()

    pairs_sum = None
    graph, inputs, _ = written_down(Summing(3, blocks=Adding), False)
    values = [x.detach().clone() for x in inputs]
    expected = graph(*[v.clone() for v in values])
    found = outlined(graph)
    assert 3 in calls(found)
    functions = torch.compile(found, fullgraph=True, dynamic=False, backend="aot_eager")
    for one, other in zip(expected, functions(*values), strict=True):
        assert torch.equal(one, other)


class _Kept(Exception):
    pass


def graph_of(model, depth, monkeypatch):
    """What would be compiled of a model with so many layers."""
    kept = []

    def keep(graph, **options):
        kept.append(graph)
        raise _Kept

    monkeypatch.setattr(torch, "compile", keep)
    overrides = [word for word in MODELS[model] if "num_layers" not in word]
    made = training([f"model={model}", *overrides, f"model.num_layers={depth}"], compile="default")
    batches = made.batches.start(0)
    (batch,) = next(batches)
    batches.close()
    batch["progress"] = 0.0
    made.forward(batch)
    return kept[0]


@pytest.mark.parametrize(
    "model", first(2, ["forcenet_small", *(m for m in MODELS if m != "forcenet_small")])
)
def test_every_model_is_as_much_to_compile_with_any_number_of_layers(model, monkeypatch):
    graphs = {depth: graph_of(model, depth, monkeypatch) for depth in (4, 6)}
    # what is left to the graph for each layer: sums of gradients, writes to statistics
    assert operations(graphs[6]) <= operations(graphs[4]) + 10
    assert all(any(number >= depth - 2 for number in calls(g)) for depth, g in graphs.items())


def returning_views():
    """A graph that calls a function of two inputs, which returns tensors and views of them."""

    def function(x, y):
        made, other = torch.sin(x), torch.cos(y)
        return other, made.t(), made[1:], x, x.t()[0], other.view(-1), other * y, other

    inputs = [torch.randn(3, 3), torch.randn(3, 3)]
    inner = make_fx(function, tracing_mode="fake")(*inputs)
    graph = torch.fx.Graph()
    given = [graph.placeholder(name) for name in ("a", "b")]
    call = graph.call_function(
        torch.ops.higher_order.invoke_subgraph, (graph.get_attr("function"), "id", *given)
    )
    read = [graph.call_function(getitem, (call, place)) for place in reversed(range(8))]
    graph.output(tuple(read))
    return torch.fx.GraphModule({"function": inner}, graph), inputs


def test_what_is_read_from_a_function_has_memory_of_its_own():
    whole, inputs = returning_views()
    expected = whole(*inputs)
    OwnOutputs()(whole.graph)
    whole.graph.lint()
    whole.recompile()
    for one, other in zip(expected, whole(*inputs), strict=True):
        assert torch.equal(one, other)
    places = [node.args[1] for node in whole.graph.nodes if node.target is getitem]
    assert len(places) == len(set(places)) == 4
    returned = whole.function(*inputs)
    tensors = [*inputs, *(returned[place] for place in places)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
    before = len(whole.graph.nodes), str(whole.function.graph)
    OwnOutputs()(whole.graph)  # as for another call of the function
    assert (len(whole.graph.nodes), str(whole.function.graph)) == before


def again(x, w):
    """Its derivative wants an input again."""
    return torch.sin(x) @ w


def turned(x, w):
    """A view of an input."""
    return (x.t() @ torch.sin(w)).t()


def result(x, w):
    """What it returns itself."""
    return torch.exp(0.1 * x @ w)


def halves(x, w):
    """Two views of a tensor that it does not return."""
    left, right = (x @ w).chunk(2, dim=-1)
    return torch.cat([torch.sin(left) * torch.cos(right), left * right], dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("block", [again, turned, result, halves])
def test_memory_that_a_derivative_waits_for_is_not_given_away(block):
    """Inductor (torch 2.13) gives it away, and the gradients of `again` are off by 150 %."""

    class Function(nn.Module):
        @torch.compiler.nested_compile_region
        def forward(self, x, w):
            return block(x, w)

    function = Function()

    def network(x, *weights):
        for before, within, last in zip(*[iter(weights)] * 3, strict=True):
            x = function(x @ before, within)
            x = torch.tanh(x @ last) @ last  # products into tensors of the same size
        return x

    torch.manual_seed(0)
    weights = [(0.3 * torch.randn(16, 16)).requires_grad_() for _ in range(9)]
    x = torch.randn(16, 16)
    assert_gradients_when_compiled(network, x, weights)


def assert_gradients_when_compiled(network, x, weights):
    with kept_inputs():
        functions = torch.compile(
            network, fullgraph=True, dynamic=False, options=compiled._options("default")
        )
        found, expected = (
            torch.autograd.grad(form(x, *weights).square().sum(), weights)
            for form in (functions, network)
        )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.slow
def test_memory_of_an_input_of_the_backward_is_not_written_to():
    """Inductor (torch 2.13) writes to it in functions, and the gradients are off by 30 %."""

    class Function(nn.Module):
        @torch.compiler.nested_compile_region
        def forward(self, x, w, *shared):
            y = x
            for one in shared:
                y = torch.sin(y * one)
            return y @ w + x

    function = Function()

    def network(x, before, within):
        shared = [torch.tanh(x @ before * (i + 1)) for i in range(6)]
        for _ in range(4):
            x = torch.tanh(function(x, within, *shared))
        return x

    torch.manual_seed(0)
    weights = [(0.3 * torch.randn(16, 16)).requires_grad_() for _ in range(2)]
    assert_gradients_when_compiled(network, torch.randn(16, 16), weights)


@pytest.mark.slow
def test_functions_draw_the_random_numbers_of_eager_code():
    """Without it what was compiled of a model with dropout could not be held against eager code."""

    class Dropped(Block):
        def forward(self, x, pairs):
            new = nn.functional.dropout(super().forward(x, pairs), 0.3)
            return x + new * torch.empty(len(x), 1).bernoulli_(0.7)

    graph, inputs, _ = written_down(Network(3, blocks=Dropped), False)
    found = outlined(written_down_again(graph))
    assert 3 in calls(found)
    called = [node.target for node in found.graph.nodes if node.op == "call_module"]
    functions = {name for name in called if called.count(name) > 1}
    within = [node for name in functions for node in found.get_submodule(name).graph.nodes]
    assert not [n for n in within if "bernoulli" in str(n.target)]  # inductor may lose them there
    functions = torch.compile(
        found, fullgraph=True, dynamic=False, options=compiled._options("default")
    )
    results = []
    for form in (graph, functions):
        torch.manual_seed(0)
        results.append(form(*[x.detach().clone() for x in inputs])[0])
    torch.testing.assert_close(*results)


def test_what_is_written_to_a_buffer_is_not_what_it_becomes_later():
    def forward(buffer, x):
        new = x + 1
        buffer.copy_(new)
        return new.mul_(2)

    graph = make_fx(forward)(torch.zeros(3), torch.ones(3))
    _writes_stay_outside(graph.graph, _runs(graph.graph))
    graph.recompile()
    buffer = torch.zeros(3)
    assert torch.equal(graph(buffer, torch.ones(3)), torch.full((3,), 4.0))
    assert torch.equal(buffer, torch.full((3,), 2.0))


def test_an_operation_that_writes_elsewhere_is_refused():
    """Batches of that shape are then trained eagerly, with these words."""
    graph = torch.fx.Graph()
    x, mean, var = map(graph.placeholder, ("x", "mean", "var"))
    words = (x, None, None, mean, var, True, 0.1, 1e-5)
    norm = graph.call_function(torch.ops.aten._native_batch_norm_legit.default, words)
    with pytest.raises(ValueError, match="may write to its first argument, not as aten._native"):
        _written(norm)
