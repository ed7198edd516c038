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
    assert len(caplog.messages) in (10, 11)
    assert caplog.messages[:2] == ["reading: 40 files to do", "reading: 4 of 40 files"]


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
    assert "loss 0.5000, step 5/20" in terminal.text


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test counts by itself."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_run_tells_one_line_a_minute(caplog, clock):
    caplog.set_level(logging.INFO)
    with console.progress_bar("a run") as show:
        for number in range(77):
            clock[0] += 2.0  # 154 s in all
            show({"fraction": number / 77, "step": number, "values": {"loss": 0.5}})
    assert len(caplog.messages) == 3
    assert caplog.messages[1].endswith("% loss 0.5000, step 31")


def test_work_that_is_slow_tells_a_line_a_minute(caplog, clock):
    caplog.set_level(logging.INFO)
    with console.Progress("reading", "file", 10_000, 0, True) as progress:
        for _ in range(30):
            clock[0] += 5.0
            progress.update(1)
    assert caplog.messages == [
        "reading: 10000 files to do",
        "reading: 12 of 10000 files",
        "reading: 24 of 10000 files",
    ]


def test_details_are_for_log_files_and_terminals(monkeypatch, tmp_path):
    def told(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        console.to_terminal()
        with console.to_file(tmp_path / "log"):
            logging.getLogger("some").info("plain")
            logging.getLogger("some").info("fine", extra={"detail": True})
        return stream.text

    class Pipe(Terminal):
        def isatty(self):
            return False

    before = logging.getLogger().handlers[:]
    try:
        assert told(Terminal()) == "plain\nfine\n"
        assert told(Pipe()) == "plain\n"
    finally:
        logging.getLogger().handlers[:] = before
        logging.captureWarnings(False)
    assert (tmp_path / "log").read_text().count("fine") == 2


def test_a_bar_in_80_columns_begins_with_time_left_and_metric(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    name = "model_forcenet_small-data_extxyz-path_my.extxyz-steps_400-{odd}-ee73db8f2629"
    status = {"fraction": 0.25, "step": 250, "total_steps": 1000, "seconds_left": 192.0}
    values = {"val_id/forces_mae": 0.80886, "train/loss": 99.74478}
    with console.progress_bar(name) as show:
        show({**status, "values": values})
    line = terminal.text.split("\r")[-1].rstrip()
    assert line.startswith(" 25% 3.2 min left, val_id/forces_mae 0.8089, train/loss 99.7448, step")
    assert len(line) <= 80


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("basis_sph", "did you mean basis_sph-0a1b or basis_sph-2c3d?"),
        ("2c3d", "did you mean basis_sph-2c3d?"),
        ("basis_spj-0a1b", "did you mean basis_sph-0a1b"),
        ("nothing like it", ""),
        ("", ""),
    ],
)
def test_names_that_are_nearly_what_was_typed(word, told):
    names = ["basis_sph-0a1b", "basis_sph-2c3d", "act_tanh-4e5f"]
    assert console.near_names(word, names).startswith(told)
    assert bool(console.near_names(word, names)) is bool(told)


def test_progress_of_cells_begins_at_once_and_is_no_flood(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with caplog.at_level("INFO"), console.Progress.of_cells("composing", 1000) as progress:
        for _ in range(1000):
            progress.update(1)
            clock[0] += 0.01
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "composing: 1000 cells to do"
    assert len(told) == 5  # ten seconds, and two between lines
    caplog.clear()
    with caplog.at_level("INFO"), console.Progress.of_cells("composing", 20) as progress:
        progress.update(20)
    assert not caplog.records
