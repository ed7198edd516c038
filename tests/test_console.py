"""Progress where there is no terminal: few lines, and each says how far it is."""

import logging
import sys
from types import SimpleNamespace

import pytest

from atomsweep import console


class Terminal:
    """Standard error that says it is a terminal, and keeps what is written."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        """Nothing waits."""

    def isatty(self):
        return True


def test_without_a_terminal_a_line_is_told_at_about_every_tenth(caplog):
    caplog.set_level(logging.INFO)
    with console.Progress("reading", "file", 40, 0, True) as progress:
        for _ in range(40):
            progress.update(1)
    assert len(caplog.messages) in (9, 10)
    assert caplog.messages[0] == "reading: 4 of 40 files"


def test_what_is_not_to_be_shown_says_nothing(caplog):
    caplog.set_level(logging.INFO)
    with console.Progress("reading", "file", 4, 0, False) as progress:
        progress.update(4)
    assert not caplog.messages


def test_on_a_terminal_progress_is_a_bar(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with console.Progress("reading", "file", 4, 1, True) as progress:
        progress.update(3)
    assert "4/4" in terminal.text
    assert not caplog.messages


@pytest.mark.parametrize("fraction", [0.25, None])
def test_a_run_on_a_terminal_shows_its_share_and_its_values(monkeypatch, fraction):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with console.progress_bar("a run") as show:
        show({"fraction": fraction, "step": 5, "total_steps": 20, "values": {"loss": 0.5}})
    assert f"{100 * (fraction or 0):.0f}%" in terminal.text
    assert "step 5/20, loss 0.5000" in terminal.text


def test_progress_of_cells_begins_at_once_and_is_no_flood(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with caplog.at_level("INFO"), console.Progress.of_cells("composing", 1000) as progress:
        for _ in range(1000):
            progress.update(1)
            clock[0] += 0.01
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "composing: 1 of 1000 cells"
    assert len(told) == 5  # ten seconds, and two between lines
    caplog.clear()
    with caplog.at_level("INFO"), console.Progress.of_cells("composing", 20) as progress:
        progress.update(20)
    assert not caplog.records
