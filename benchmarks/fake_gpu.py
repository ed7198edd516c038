"""A GPU that is none: training steps on a device without arithmetic, where every wait is told.

`FakeTensorMode` knows of a tensor its shape, type and device and nothing else, and torch lets
Python register a device of its own. On the two together code runs as on a GPU: tensors on two
devices do not mix, and the host learns no value. `Watch` says where it would have to wait for one,
by the rules of CUDA: a value or a size is read, a tensor is copied to the host, or is sent to the
device from memory that is not pinned or with the host waiting. It counts those that must be.

The device belongs to a process for good, so use it in a process of its own.
"""

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import atomsweep
from atomsweep import transfers

NAME = "fakegpu"
DEVICE = f"{NAME}:0"
ROOM = str(Path(atomsweep.__file__).parent)
READS = {  # a value
    *("_local_scalar_dense", "equal", "is_nonzero", "_linalg_check_errors", "multinomial"),
    *("_linalg_eigh", "_linalg_svd", "linalg_eig", "_linalg_eigvals"),  # whether they converged
}
SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}


class Wait(NamedTuple):
    """A wait that must be.

    Attributes:
        times: that a step waits there.
        why: in words.
    """

    times: int
    why: str


MOVING = {  # where graphs of moving atoms make a step wait
    "graph.skin.MovingGraph._moved": Wait(1, "who has moved so far that its pairs are searched"),
    "graph.skin.MovingGraph.attach": Wait(2, "who has a fault, and how many edges there are"),
}
SEARCH = {  # where structures have entered or left, in place of `_moved`; both, where one is far
    "graph.skin.MovingGraph._search": Wait(1, "positions of all, which tell whose pairs still do"),
    "graph.skin.MovingGraph._join": Wait(1, "how many pairs were found"),
}
PAIRS = {  # of SchNet, further
    "graph.edges.pairs_of_edges": Wait(1, "how many pairs the edges make"),
}
CLOUDS = {  # of Gala, where structures have entered or left
    "models.gala.Gala.prepare": Wait(1, "elements and tags, of which the CPU draws clouds"),
}
RELAXATION = {  # each step of a relaxation
    "tasks.relax.loop._Active.advance": Wait(1, "largest forces decide who is done"),
}
RESULTS = {  # where structures leave; in each step, where paths are kept
    "tasks.relax.loop._Active._results": Wait(1, "positions, forces and energies that are told"),
}
DYNAMICS = {  # each step of ASE with a trained model
    "tasks.relax.calculator.PotentialCalculator.calculate": Wait(1, "forces and energy, for ASE"),
}
TRAINING = {  # where a training step may wait
    "engine.optim.MovingAverage.update_parameters": Wait(1, "once: is there an average yet"),
}
RANKS = {
    "engine.distributed.World.add_gradients": Wait(1, "a parameter has no gradient on this rank"),
}
EVALUATION = {  # of a split
    "engine.evaluate.on_host": Wait(1, "sums over a whole split are read at its end"),
}
SAMPLE = {  # of a split's predictions, at the end of a run
    "engine.samples.write_sample": Wait(1, "its predictions are read"),
}


def times(*waits: Mapping[str, Wait]) -> dict[str, int]:
    """How often each place of some lists waits, as `Watch.seen` has it."""
    return {place: wait.times for some in waits for place, wait in some.items()}


def leave(code: int = 0) -> NoReturn:
    """End a process that has used the device, without the interpreter's own end.

    torch's thread of a device that Python knows takes the interpreter's lock now and then. Does it
    while the interpreter ends, the process aborts, with all its work done: seen once in hundreds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Waited(RuntimeError):
    """The host would have to wait for the device."""


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def set_device(self, index: int) -> None:
        assert index == 0


_HALF = (
    "addbmm addmm addmv addr baddbmm bmm chain_matmul einsum linalg_multi_dot linear matmul mm mv"
)
_FULL = (
    "acos asin cosh cosine_similarity cumprod cumsum dist erfinv exp expm1 frobenius_norm "
    "group_norm l1_loss layer_norm log log10 log1p log2 log_softmax logsumexp mse_loss norm "
    "nuclear_norm pdist pow prod reciprocal renorm rsqrt sinh smooth_l1_loss softmax softplus sum "
    "tan"
)
_WIDEST = "addcdiv addcmul atan2 bilinear cross dot index_put scatter_add tensordot"
_libraries: list[torch.library.Library] = []


def register() -> None:
    """Let torch know the device and its autocast, by CUDA's lists, once in a process."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    key = "AutocastPrivateUse1"
    every, aten = (torch.library.Library(name, "IMPL", key) for name in ("_", "aten"))
    every.fallback(torch.library.fallthrough_kernel)
    for names, choose in ((_HALF, _half), (_FULL, _full), (_WIDEST, _widest)):
        for name in names.split():
            for overload in getattr(torch.ops.aten, name).overloads():
                operation = getattr(getattr(torch.ops.aten, name), overload)
                if "out" not in overload and not overload.endswith("_"):
                    aten.impl(operation, _cast(operation, choose))
    _libraries.extend((every, aten))


def _half(tensors: list[Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype(NAME)


def _full(tensors: list[Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: list[Tensor]) -> torch.dtype:
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors))


def _cast(operation: Any, choose: Callable[[list[Tensor]], torch.dtype]) -> Callable[..., Any]:
    """An operation on arguments in the type that autocast takes for it; float64 is left alone."""
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            kinds = (torch.float32, torch.bfloat16, torch.float16)
            found = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            found = [t for t in found if t.dtype in kinds]
            if found:
                dtype = choose(found)
                args, kwargs = tree_map(
                    lambda t: t.to(dtype) if isinstance(t, Tensor) and t.dtype in kinds else t,
                    (args, kwargs),
                )
            return operation(*args, **kwargs)

    return run


class Watch(TorchDispatchMode):
    """What an operation would make the host wait for raises `Waited`, or is allowed and noted.

    Args:
        allowed: `<module>.<function>` of atomsweep in which a wait must be. All that is asked for
            there is True, but for values.
        values: that are read in such a place, or of what was copied to the host, else 1.

    Attributes:
        seen: how often each place of `allowed` has waited.
    """

    def __init__(
        self, mode: FakeTensorMode, allowed: Mapping[str, Wait], values: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.mode, self.values = mode, values
        self.allowed, self.seen = allowed, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, if it waits for nothing."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        why = _waits(func, args, kwargs)
        if why is not None:
            self.waited(why)
        if args and isinstance(args[0], FakeTensor) and args[0].constant is None:
            if name == "_local_scalar_dense":
                return self.value(args[0])
            if name == "equal":
                return True
        if why is not None:
            if name == "nonzero":
                return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
            if name == "index":
                args = (args[0], [_all_of(part) for part in args[1]])
        if name == "_to_copy" and not isinstance(args[0], FakeTensor):
            args = (self.mode.from_tensor(args[0]), *args[1:])  # would be copied in truth
        elif name == "_to_copy":
            args[0].constant = None  # a number that is known, which would be copied as well
        return func(*args, **kwargs)

    def waited(self, why: str) -> None:
        """Count a wait where it must be; it is refused elsewhere."""
        where = place()
        if where not in self.allowed:
            raise Waited(f"{where}: {why}")
        self.seen[where] += 1

    def value(self, tensor: Tensor) -> Any:
        """What an element of a tensor is said to be."""
        value = self.values.get(place(), 1)
        return float(value) if tensor.dtype.is_floating_point else value

    def listed(self, tensor: Tensor) -> Any:
        """`tolist`, one wait for all elements; what was copied to the host before has none."""
        if is_fake(tensor.device):
            self.waited("values are read")
        return np.full(tuple(tensor.shape), self.value(tensor)).tolist()

    def array(self, tensor: Tensor) -> Any:
        """`numpy` of what was copied to the host before."""
        assert not is_fake(tensor.device)
        kind = str(tensor.dtype).removeprefix("torch.")
        return np.full(tuple(tensor.shape), self.value(tensor), dtype=kind)


def place() -> str:
    """The innermost function of atomsweep that is running, or that asks for a transfer."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOM) and name != transfers.__file__:
            module = Path(name).relative_to(ROOM).with_suffix("").as_posix()
            function = frame.f_code.co_qualname.partition(".<locals>")[0]
            return f"{module.replace('/', '.')}.{function}"
        frame = frame.f_back
    return "a caller"


class _Literals(TorchFunctionMode):
    """Numbers of Python that become a tensor on the device are sent there, and the host waits."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        literal = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if literal and is_fake(kwargs.get("device")):
            self.watch.waited(f"{func.__name__} of Python's numbers on the device")
        return func(*args, **kwargs)


def _all_of(chosen: Tensor | None) -> Tensor | None:
    """Indices of a mask (n,) that is True everywhere."""
    if chosen is None or chosen.dtype != torch.bool:
        return chosen
    return torch.empty(len(chosen), dtype=torch.int64, device=chosen.device)


def _waits(func: Any, args: Any, kwargs: Mapping[str, Any]) -> str | None:
    """Why an operation waits, or None."""
    name = func.overloadpacket.__name__
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not any(is_fake(t.device) for t in tensors):
        return _sent(tensors[0], kwargs) if name == "_to_copy" and tensors else None
    if name in READS:
        return "a value is read"
    if name in SIZES:
        return f"the size of {name} is read"
    if name == "histc" and args[2:4] in ((), (0, 0)):
        return "the range of histc is read"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "the size of repeat_interleave is read"
    if name in {"index", "index_put", "index_put_"}:
        chosen = [part for part in args[1] if part is not None]
        if any(part.dtype in (torch.bool, torch.uint8) for part in chosen):
            return "a mask becomes indices"
        if is_fake(args[0].device) and not all(is_fake(part.device) for part in chosen):
            return "indices of the host are sent to the device"
    if name == "_to_copy" and not is_fake(kwargs.get("device", DEVICE)):
        return "a tensor is copied to the host"
    if name == "copy_" and not is_fake(args[0].device):
        return "a tensor is copied to the host"
    if name == "copy_" and not is_fake(args[1].device):
        return _sent(args[1], {"device": DEVICE, "non_blocking": args[2:] == (True,)})
    return None


def _sent(tensor: Tensor, kwargs: Mapping[str, Any]) -> str | None:
    if not is_fake(kwargs.get("device")):
        return None
    if not kwargs.get("non_blocking") or tensor.untyped_storage()._cdata not in _pinned:
        return "a tensor is sent to the device, and the host waits"
    return None


def is_fake(device: Any) -> bool:
    """Whether a device is the one that is none."""
    return device is not None and torch.device(device).type == NAME


_pinned: dict[int, Any] = {}  # storages, kept alive so that no other gets their place


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    storage = tensor.untyped_storage()
    _pinned[storage._cdata] = storage
    return tensor


@contextmanager
def fake_gpu(
    allowed: Mapping[str, Wait] | None = None,
    mode: FakeTensorMode | None = None,
    values: Mapping[str, float] | None = None,
) -> Iterator[Watch]:
    """Within it the device is there: modules move to it, and batches are sent.

    Args:
        allowed: see `Watch`.
        mode: of an earlier one, `Watch.mode`, whose tensors are used again.
        values: see `Watch`.
    """
    register()
    mode = FakeTensorMode(allow_non_fake_inputs=True) if mode is None else mode
    watch = Watch(mode, {} if allowed is None else allowed, {} if values is None else values)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pin))
        stack.enter_context(mock.patch.object(nn.Module, "to", _module_to))
        for name, told in (("tolist", watch.listed), ("numpy", watch.array)):
            method = functools.partialmethod(_of_watch, told)
            stack.enter_context(mock.patch.object(FakeTensor, name, method, create=True))
        known = [*_foreach_utils._foreach_supported_types, FakeTensor]  # clipping has one kernel
        name = "_foreach_supported_types"
        stack.enter_context(mock.patch.object(_foreach_utils, name, known))
        stack.enter_context(mode)
        stack.enter_context(watch)
        stack.enter_context(_Literals(watch))
        try:
            yield watch
        finally:
            _pinned.clear()


def _of_watch(tensor: Tensor, told: Callable[[Tensor], Any]) -> Any:
    return told(tensor)


def _module_to(module: nn.Module, device: Any) -> nn.Module:
    """`Module.to`, before a first step, where a wait costs nothing.

    Parameters that move are new objects; those that are there stay who they are.
    """
    mode = next(m for m in _modes() if isinstance(m, FakeTensorMode))
    moved: dict[int, Any] = {}

    def is_there(tensor: Tensor) -> bool:
        return isinstance(tensor, FakeTensor) and tensor.device == torch.device(device)

    def there(tensor: Tensor) -> Tensor:
        with mode:
            fake = tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor.detach())
            return torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=device)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not is_there(parameter):
                new = moved.setdefault(
                    id(parameter), nn.Parameter(there(parameter), parameter.requires_grad)
                )
                part._parameters[name] = new
        for name, buffer in part._buffers.items():
            if buffer is not None and not is_there(buffer):
                part._buffers[name] = moved.setdefault(id(buffer), there(buffer))
    return module


def _modes() -> list[Any]:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return _get_current_dispatch_mode_stack()
