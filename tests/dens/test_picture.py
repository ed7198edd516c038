import matplotlib.image
import torch

from atomsweep.dens import picture
from atomsweep.dens.__main__ import main
from atomsweep.dens.picture import draw_corruption
from tests.dens.toys import STRUCTURES, batch_of, dens


def test_a_picture_has_a_row_for_each_structure_and_a_column_for_each_scale(tmp_path):
    batch = batch_of(STRUCTURES[:2])
    batch.sid, batch.fid = torch.arange(2), torch.arange(2)
    shapes = []
    for sigmas in ([0.1], [0.1, 0.5]):
        draw_corruption(batch, dens(), sigmas, 0, tmp_path / "made" / "it.png")
        shapes.append(matplotlib.image.imread(tmp_path / "made" / "it.png").shape[:2])
    (rows, two), (same, three) = shapes
    assert rows == same
    assert two / 2 == three / 3 == rows / 2


def test_nothing_to_draw_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "x.png"), "dens=none"]) == 1
    assert main([str(tmp_path / "x.png"), "dens=nothing"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "dens=none corrupts nothing" in first
    assert "dens/nothing" in second


def test_every_structure_is_drawn_corrupted_whatever_limits_training_has(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "_panel", lambda axis, batch, atoms, draw: drawn.append(draw))
    batch = batch_of(STRUCTURES[:2])
    batch.sid, batch.fid = torch.arange(2), torch.arange(2)
    draw_corruption(batch, dens(max_force=1e-6, max_ratio=1e-6), [0.1], 0, tmp_path / "it.png")
    assert [draw is None or draw.structures.tolist() for draw in drawn] == [True, [True, True]] * 2
