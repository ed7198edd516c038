import numpy as np
import pytest

from atomsweep.data.formats import spilled
from atomsweep.data.formats.spilled import Spilled


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_numbers_in_a_file_tell_what_they_tell_in_memory(monkeypatch, piece):
    monkeypatch.setattr(spilled, "PIECE", piece)
    monkeypatch.setattr(spilled, "IN_MEMORY", 100)
    monkeypatch.setattr(spilled, "_WAITING", 5)
    rng = np.random.default_rng(0)
    ids, energies = rng.integers(-5, 5, (203, 2)), rng.normal(-1e4, 2.0, 203)
    rows, numbers = Spilled("i8", 2), Spilled("f8")
    for row, energy in zip(ids.tolist(), energies.tolist(), strict=True):
        rows.append(*row)
        numbers.append(energy)
    assert np.array_equal(np.concatenate(list(rows.pieces())), ids)
    assert rows.total() == ids[:, 0].sum()
    assert rows.distinct(1) == len(set(ids[:, 0].tolist()))
    assert rows.distinct(2) == len(set(map(tuple, ids.tolist())))
    assert numbers.total() == pytest.approx(energies.sum(), rel=1e-14)
    assert numbers.std() == pytest.approx(energies.std(), rel=1e-12)
    chosen = energies[:: max(1, 203 // piece)]
    assert np.array_equal(numbers.sample(), chosen)
    numbers.append(1.0)  # after it was read
    assert len(np.concatenate(list(numbers.pieces()))) == len(numbers) == 204
