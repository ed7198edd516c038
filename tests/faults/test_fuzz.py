"""A damaged file gives data or an error that names it; nothing else, no hang, no GiB of memory."""

import pytest

from tests.contracts.commands import Started, environment
from tests.faults.readers import READERS


def fuzz(folder, count, seed):
    """Of each kind of file so many mutants; the figures of each, as the last lines tell."""
    words = ["-m", "tests.faults.fuzz", "--count", str(count), "--seed", str(seed)]
    process = Started(words, folder, environment())
    output, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, output[-7000:]
    return [line.split() for line in output.splitlines()]


def assert_all_were_looked_at(lines, count):
    assert [line[0] for line in lines] == [*READERS, "all"]
    for kind, read, _, refused, _, faults, _ in lines[:-1]:
        assert (int(read) + int(refused), faults) == (count, "0"), kind
        assert int(refused) > 0 or kind == "runs", kind  # of which problems are told one by one


@pytest.mark.slow
def test_a_mutant_of_any_file_is_read_or_refused_by_name(tmp_path):
    assert_all_were_looked_at(fuzz(tmp_path, 6, 0), 6)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_mutants_are_read_or_refused_by_name(tmp_path, seed):
    assert_all_were_looked_at(fuzz(tmp_path, 250, seed), 250)
