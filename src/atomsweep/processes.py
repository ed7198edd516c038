"""Processes that must not outlive the one that wanted them, and that may die at any time."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, TypeVar

from atomsweep.interrupts import leave, leave_when_asked

Result = TypeVar("Result")

PARTING_S = 5.0  # for the exit code of a process that has died
START_S = 10.0  # for a start, over fork servers that die
TRIES = 3  # processes for one call


def end_with_parent() -> None:
    """Let this process end at once when its parent does, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Ctrl-C


@contextmanager
def leaving_when_asked(*numbers: signal.Signals) -> Iterator[None]:
    """`leave_when_asked` while the block runs."""
    before = {number: signal.getsignal(number) for number in numbers}
    leave_when_asked(*numbers)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def stopped_in_order() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM wait until they are asked for; the second one ends the process at once.

    Yields:
        A function that raises `KeyboardInterrupt` if one has come: to be called often, where
        nothing is half done.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            leave(number, frame)
        asked.append(number)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {
        number: signal.signal(number, ask)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Ctrl-C waits until the block ends; processes that are started in it get none.

    A terminal sends it to all processes of a command, and one that is still importing would answer
    with a traceback. They are told to stop by the process that has started them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="resource_tracker")  # killed: we leak nothing
        resource_tracker.ensure_running()  # here, because it unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Forget Ctrl-C, as long as nobody sets a handler: in a process that was started out of reach.

    Such a process has SIGINT blocked, where no handler would hear it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


# Starting


def started(make: Callable[[], Any]) -> Any:
    """A process that runs, of a fork server perhaps: of another one where that died meanwhile.

    Args:
        make: a process that is not started yet, and another one at the next call.

    Raises:
        OSError: it cannot be started.
    """
    deadline = time.monotonic() + START_S
    while True:
        process = make()
        try:
            with out_of_reach():
                process.start()
        except (EOFError, ConnectionError) as error:
            time.sleep(0.1)  # one that is dying is not dead yet, and not replaced
            if time.monotonic() > deadline:
                raise OSError(f"no process can be started: {error or 'its server ends'}") from error
        else:
            return process


# Calls


class ProcessLost(RuntimeError):
    """Process after process died over one call; the message says how."""


def calls(
    context: Any,
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    workers: int = 1,
    first: int = 0,
) -> Generator[tuple[int, Any], None, None]:
    """Call a function in processes of their own; another takes the place of one that dies.

    They share no locks and no semaphores, so a kill leaves nothing behind. Whoever does not take
    all results closes the iterator.

    Args:
        context: of `multiprocessing`: where the processes come from.
        function: of a module; its results and what it raises can be pickled.
        arguments: of each call.
        workers: processes at once.
        first: index of the first call to make.

    Yields:
        Index of a call and its result, as they are done: in order, with one worker.

    Raises:
        ProcessLost: `TRIES` processes died over one call.
        Exception: what `function` raised.
    """
    waiting: deque[int] = deque(range(first, len(arguments)))
    lost: Counter[int] = Counter()
    idle: list[Worker] = []
    active: dict[Connection, tuple[Worker, int]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                worker, index = idle.pop() if idle else Worker(context), waiting.popleft()
                active[worker.connection] = worker, index
                worker.ask(function, arguments[index])
            for connection in wait(list(active)):
                worker, index = active.pop(connection)  # type: ignore[call-overload]
                answer = worker.answer()
                if answer is None:
                    lost[index] += 1
                    how = worker.end(PARTING_S)
                    if lost[index] == TRIES:
                        raise ProcessLost(f"{TRIES} processes died over it, the last {how}")
                    waiting.appendleft(index)
                    continue
                idle.append(worker)
                if isinstance(answer, _Raised):
                    raise answer.error
                yield index, answer[0]
    finally:
        for worker in [*idle, *(worker for worker, _ in active.values())]:
            worker.end()


def in_order(
    function: Callable[..., Result],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    first: int = 0,
) -> Generator[Result, None, None]:
    """Results of `calls` from the first on, in order; with one worker they are made here.

    Raises:
        ProcessLost: as `calls`.
        Exception: what `function` raised.
    """
    if min(workers, len(arguments) - first) < 2:
        for index in range(first, len(arguments)):
            yield function(*arguments[index])
        return
    early: dict[int, Result] = {}
    context = multiprocessing.get_context("spawn")
    with closing(calls(context, function, arguments, workers, first)) as results:
        for index, result in results:
            early[index] = result
            while first in early:
                yield early.pop(first)
                first += 1


class Worker:
    """A process that makes one call after another, until it is ended or its parent is.

    Args:
        context: of `multiprocessing`: where the process comes from.

    Attributes:
        process: that makes the calls.
        connection: over which answers come; `poll` waits for one.
    """

    def __init__(self, context: Any) -> None:
        made: list[tuple[Connection, Connection]] = []

        def make() -> Any:
            made.append(context.Pipe())
            return context.Process(target=_serve, args=(made[-1][1],))

        self.process = started(make)
        self.connection = made[-1][0]
        for ours, theirs in made:
            theirs.close()  # so that its end is noticed
            if ours is not self.connection:
                ours.close()

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Begin a call; that the process has died is noticed at the answer."""
        with suppress(OSError):
            self.connection.send((function, arguments))

    def answer(self) -> "tuple[Any] | _Raised | None":
        """The result, or what was raised; None from a process that has died."""
        try:
            answer: tuple[Any] | _Raised = self.connection.recv()
        except (EOFError, OSError):
            return None
        return answer

    def end(self, wait_s: float = 0.0) -> str:
        """End it, whatever it does; says how it had ended, for which it can be given time."""
        self.connection.close()
        self.process.join(wait_s)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        if code is not None and code < 0:
            return f"by {signal.Signals(-code).name}; perhaps memory is short"
        return f"with exit code {code}"


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _serve(connection: Connection) -> None:
    end_with_parent()
    answer: tuple[Any] | _Raised
    with suppress(EOFError, ConnectionError):  # nobody asks any more
        while True:
            function, arguments = connection.recv()
            try:
                answer = (function(*arguments),)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = _Raised(error)
            try:
                connection.send(answer)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                connection.send(_Raised(RuntimeError(f"{answer}: {error}")))
