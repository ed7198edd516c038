"""Batches made ahead of their use, in order, by threads.

Threads, not processes: vesin (through ctypes), LMDB and torch's indexing let go of the
interpreter's lock, and neither the data set nor a batch has to be copied between processes.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int
) -> Generator[Made, None, None]:
    """`map(make, items)`, with up to `workers` + 1 results under way or ready.

    The items are drawn in the thread of the caller, so that what they are cannot depend on the
    workers; an error of `make` comes where its result was due. Close the iterator when it is not
    used to its end.

    Args:
        make: called in a worker; must not touch the global random state.
        items: may be endless.
        workers: threads; 0 makes each result when it is asked for.
    """
    if workers == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        due: deque[Future[Made]] = deque()
        for item in items:
            due.append(pool.submit(make, item))
            if len(due) > workers + 1:
                yield due.popleft().result()
        while due:
            yield due.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
