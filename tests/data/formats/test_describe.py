"""What a description finds does not depend on how its frames are cut into pieces."""

import numpy as np
import pytest

from atomsweep.data.formats import describe as describe_module
from atomsweep.data.formats.describe import describe
from atomsweep.data.formats.store import StoreReader
from atomsweep.data.formats.tallies import Drawn, Range, Reasons
from atomsweep.data.store import parts as parts_module
from tests.data.store.test_dataset import overwrite_record, random_structure, write


def relaxations(path):
    """40 frames of 5 systems: steps are small within one, three frames are odd, two are copies."""
    rng, structures = np.random.default_rng(0), []
    for number in range(40):
        one = random_structure(number // 8, natoms=5)
        one.cell, one.pbc = 9.0 * np.eye(3), np.ones(3, dtype=bool)
        one.pos = one.pos + rng.normal(0, 0.02, one.pos.shape).astype("f4")
        one.sid, one.fid, one.energy = number // 8, number % 8, float(rng.normal())
        one.forces = rng.normal(size=one.forces.shape) * (100.0 if number in (3, 20, 33) else 1.0)
        structures.append(one)
    structures += [structures[5], structures[17]]
    write(path, structures)
    overwrite_record(path, 11, lambda record: record[:-7])


@pytest.mark.parametrize("part", [7, 1])
def test_frames_in_pieces_are_described_as_together(tmp_path, monkeypatch, part):
    relaxations(tmp_path / "a.lmdb")
    together = describe(StoreReader(), [tmp_path / "a.lmdb"])
    assert together.frames == 41
    assert together.signs.pairs == 34  # 7 of each system, less one, as a frame is damaged
    assert together.odd.counts.total() == 3
    monkeypatch.setattr(parts_module, "PART", part)
    monkeypatch.setattr(describe_module, "TOGETHER", 3)
    cut = describe(StoreReader(), [tmp_path / "a.lmdb"])
    assert cut.report() == together.report()
    assert cut.signs.pairs == together.signs.pairs
    assert cut.signs._sums == pytest.approx(together.signs._sums)
    assert cut.components.counts.tolist() == together.components.counts.tolist()
    assert cut.components.counts.sum() > 300
    assert cut.signs.forces.counts.tolist() == together.signs.forces.counts.tolist()
    assert cut.signs.grid._differences == together.signs.grid._differences
    assert cut.energies.std == pytest.approx(together.energies.std)
    assert cut.some_energies.values.tolist() == together.some_energies.values.tolist()


@pytest.mark.long
def test_it_does_not_matter_how_many_processes_describe(tmp_path, monkeypatch):
    relaxations(tmp_path / "a.lmdb")
    monkeypatch.setattr(parts_module, "PART", 4)
    monkeypatch.setattr(describe_module, "LARGE", 1)
    one, two = (describe(StoreReader(), [tmp_path / "a.lmdb"], workers=n) for n in (1, 2))
    assert one.report() == two.report()
    assert one.energies.std == two.energies.std
    assert (one.components.counts == two.components.counts).all()


def test_numbers_in_pieces_are_drawn_as_together():
    values = np.random.default_rng(0).normal(size=3000)
    together, pieces = Drawn(most=200), Drawn(most=200)
    for start in range(0, 3000, 250):
        piece = Drawn(most=200, place=start)
        for value in values[start : start + 250]:
            together.add(value)
            piece.add(value)
        pieces.merge(piece)
    assert len(together.values) == 200
    assert pieces.values.tolist() == together.values.tolist()
    order = np.argsort(np.argsort(values))[np.isin(values, together.values)]
    assert abs(order.mean() - 1500) < 4 * 3000 / np.sqrt(12 * 200)  # none is preferred


def test_ranges_in_pieces_are_those_of_all():
    values = 1e6 + np.random.default_rng(0).normal(size=100)
    together, pieces = Range(), Range()
    for start, end in ((0, 0), (0, 1), (1, 60), (60, 60), (60, 100)):
        piece = Range()
        for place in range(start, end):
            together.add(values[place], str(place))
            piece.add(values[place], str(place))
        pieces.merge(piece)
    assert pieces.mean == pytest.approx(together.mean, rel=1e-14)
    assert pieces.std == pytest.approx(values.std(), rel=1e-8)
    assert (pieces.least, pieces.largest) == (together.least, together.largest)


def test_reasons_in_pieces_are_counted_as_together(monkeypatch):
    monkeypatch.setattr("atomsweep.data.formats.tallies.REASONS", 2)
    together, pieces = Reasons(), Reasons()
    for start in range(0, 30, 5):
        piece = Reasons()
        for place in range(start, start + 5):
            reason = f"{'abcd'[place % 4]} of atom {place}"
            together.add(reason, f"frame {place}")
            piece.add(reason, f"frame {place}")
        pieces.merge(piece)
    assert pieces.counts.total() == 30
    assert pieces.first == together.first == "frame 0: a of atom 0"
    assert set(pieces.counts) == {"a of atom #", "b of atom #", "other reasons"}
