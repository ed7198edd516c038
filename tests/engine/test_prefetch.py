import itertools
import threading
import time
from contextlib import closing

import pytest

from atomsweep.engine.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(workers):
    def make(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(prefetch(make, range(20), workers)) == [i * i for i in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_made_ahead_than_fits(workers):
    made = []
    with closing(prefetch(made.append, itertools.count(), workers)) as results:
        for used in range(1, 6):
            next(results)
            time.sleep(0.01)
            assert len(made) <= used + workers + 1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_where_its_result_was_due(workers):
    def make(item):
        if item == 3:
            raise ValueError("structure 3 is damaged")
        return item

    results = prefetch(make, range(9), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="structure 3 is damaged"):
        next(results)


def test_closing_leaves_no_thread():
    results = prefetch(lambda item: item, itertools.count(), 2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_work_is_done_while_the_last_result_is_used():
    started = threading.Event()

    def make(item):
        if item == 1:
            started.set()
        return item

    with closing(prefetch(make, itertools.count(), 1)) as results:
        next(results)
        assert started.wait(5)
