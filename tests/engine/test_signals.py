"""A run is asked to stop by a signal or by a file."""

import signal

import pytest

from atomsweep.engine import signals
from atomsweep.engine.signals import Interrupted, StopFlag, stop_on_signals


def test_the_file_is_a_wish_to_stop_and_is_looked_for_now_and_then(tmp_path, monkeypatch):
    clock = iter([0.0, 0.1, 0.2, 0.6, 0.7])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(clock))
    flag = StopFlag(tmp_path / "stop")
    assert not flag
    (tmp_path / "stop").touch()
    assert not flag
    assert not flag
    assert flag
    (tmp_path / "stop").unlink()
    assert flag
    assert flag.signal == "its study"


def test_a_signal_needs_no_file(tmp_path):
    with stop_on_signals(tmp_path / "stop") as flag:
        assert not flag
        signal.raise_signal(signal.SIGTERM)
        assert flag
        assert flag.signal == "SIGTERM"


def test_before_training_a_signal_ends_long_work_at_once(tmp_path):
    with stop_on_signals(tmp_path / "stop") as flag:
        told = "stopped by SIGTERM before its first step"
        with pytest.raises(Interrupted, match=told), flag.at_once():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match=told), flag.at_once():
            pass  # asked to stop before
        signal.raise_signal(signal.SIGTERM)  # a flag again
    with stop_on_signals(tmp_path / "stop") as flag:
        with flag.at_once():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert flag.signal == "SIGTERM"
