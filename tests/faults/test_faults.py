"""Faults at random: whatever is killed, filled or taken away, the same command ends as ever."""

import os

import pytest

from tests.contracts.commands import Place, environment
from tests.faults.harness import Attack

SEED = int(os.environ.get("ATOMSWEEP_FAULTS_SEED", "0"))
SIGNALS = int(os.environ.get("ATOMSWEEP_FAULTS_SIGNALS", "40"))


@pytest.fixture
def place(tmp_path, mini_oc_tiny):
    return Place(tmp_path, environment(ATOMSWEEP_DATA=str(mini_oc_tiny.directory.parent)))


def judge(attack: Attack) -> None:
    """Figures as the last line, and nothing wrong."""
    print(attack.figures)
    assert not attack.figures.wrong, "\n\n".join([*attack.figures.wrong, str(attack.figures)])


@pytest.mark.slow
def test_signals_to_any_process_of_a_launch_lose_nothing(place):
    attack = Attack(place, SEED, "tracking=none")
    attack.signals(SIGNALS)
    judge(attack)


@pytest.mark.slow
def test_signals_while_cells_are_checked_and_data_are_made(place):
    attack = Attack(place, SEED + 1, "tracking=none")
    attack.signals(SIGNALS, fresh_data=True)
    judge(attack)
