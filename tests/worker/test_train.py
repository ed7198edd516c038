"""What a job says of its data before it trains."""

import logging
from types import SimpleNamespace

from atomsweep.worker.train import _tell_of_untrained


def splits(**elements):
    return {name: SimpleNamespace(elements=lambda e=e: e) for name, e in elements.items()}


def test_elements_that_training_never_sees_are_named(caplog):
    caplog.set_level(logging.WARNING)
    seen, more = frozenset({1, 6}), frozenset({1, 7, 8})
    _tell_of_untrained(splits(train=seen, val_id=more, val_ood_cat=more, test=seen))
    (line,) = caplog.messages
    assert line.startswith("val_id has atoms that no structure of train has")
    assert line.endswith("atomic number 7, 8")
    caplog.clear()
    _tell_of_untrained(splits(train=None, val_id=more))  # not in memory
    _tell_of_untrained(splits(train=seen, val_id=None))
    assert caplog.messages == []
