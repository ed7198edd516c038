"""A damaged file gives data or an error that names it; nothing else, no hang, no GiB of memory."""

import subprocess
import sys

import pytest

from tests.faults.readers import READERS
from tests.places import REPOSITORY


def fuzz(count, seed):
    """Of each kind of file so many mutants; the figures of each, as the last lines tell."""
    command = ["tests.faults.fuzz", "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return [line.split() for line in done.stdout.splitlines()]


def assert_all_were_looked_at(lines, count):
    assert [line[0] for line in lines] == [*READERS, "all"]
    for kind, read, _, refused, _, faults, _ in lines[:-1]:
        assert (int(read) + int(refused), faults) == (count, "0"), kind
        assert int(refused) > 0 or kind == "runs", kind  # of which problems are told one by one


def test_a_mutant_of_any_file_is_read_or_refused_by_name():
    assert_all_were_looked_at(fuzz(6, 0), 6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_mutants_are_read_or_refused_by_name(seed):
    assert_all_were_looked_at(fuzz(250, seed), 250)
