"""Pictures of the docs are drawn by scripts; here the scripts still draw."""

import importlib.util

import matplotlib.image
import pytest
import torch

from tests.dens.toys import STRUCTURES, batch_of, dens
from tests.places import REPOSITORY


@pytest.fixture(scope="module")
def corrupted():
    path = REPOSITORY / "docs" / "pictures" / "corrupted.py"
    spec = importlib.util.spec_from_file_location("corrupted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def batch():
    batch = batch_of(STRUCTURES[:2])
    batch.sid, batch.fid = torch.arange(2), torch.arange(2)
    return batch


def test_a_picture_has_a_row_for_each_structure_and_a_column_for_each_scale(
    corrupted, batch, tmp_path
):
    shapes = []
    for sigmas in ([0.1], [0.1, 0.5]):
        corrupted.draw_corruption(batch, dens(), sigmas, 0, tmp_path / "made" / "it.png")
        shapes.append(matplotlib.image.imread(tmp_path / "made" / "it.png").shape[:2])
    (rows, two), (same, three) = shapes
    assert rows == same
    assert two / 2 == three / 3 == rows / 2


def test_every_structure_is_drawn_corrupted_whatever_limits_training_has(
    corrupted, batch, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(corrupted, "_panel", lambda axis, batch, atoms, draw: drawn.append(draw))
    limited = dens(max_force=1e-6, max_ratio=1e-6)
    corrupted.draw_corruption(batch, limited, [0.1], 0, tmp_path / "it.png")
    assert [draw is None or draw.structures.tolist() for draw in drawn] == [True, [True, True]] * 2
