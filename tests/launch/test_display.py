"""Progress of a sweep in lines: the cells that began first, and the number of the others."""

import logging

import pytest

from atomsweep.launch import display
from tests.launch.test_survey import cell


@pytest.fixture
def runs(tmp_path):
    return [cell(seed=i).create(tmp_path, None, "") for i in range(display.MOST + 3)]


def test_of_many_running_cells_those_that_began_first_are_told(runs, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    lines = display.Lines()
    caplog.set_level(logging.INFO)
    lines.update(runs[:2], 0, 20)
    assert caplog.messages == []
    now[0] = display.FIRST_SECONDS
    running = [*runs[5:], *runs[1:5]]  # one ended, others began; the order tells nothing
    lines.update(running, 1, 20)
    told = [message for message in caplog.messages if "starting" in message]
    assert told[0] == f"[1/20 done] {runs[1].name}: starting"
    assert len(told) == display.MOST
    assert caplog.messages[-1] == "[1/20 done] and 2 more that began later"
    caplog.clear()
    now[0] += display.LINE_SECONDS - 1
    lines.update(running, 1, 20)
    assert caplog.messages == []


def test_few_cells_are_told_each(runs, monkeypatch, caplog):
    monkeypatch.setattr(display, "FIRST_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    display.Lines().update(runs[:3], 0, 3)
    assert len(caplog.messages) == 3


def test_bars_are_as_many_as_fit_and_the_first_counts_the_running(runs, capsys):
    bars = display.Bars()
    bars.update(runs, 2, 20)
    bars.close()
    shown = capsys.readouterr().err
    assert f"{len(runs)} running" in shown
    assert runs[display.MOST - 1].name[:34] in shown
    assert len(bars._bars) == display.MOST
