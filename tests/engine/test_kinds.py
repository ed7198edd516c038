"""Frames of relaxations and rattled ones apart: their errors add up to those of the split."""

from types import MappingProxyType

import pytest
import torch

from atomsweep.data.batches.graphs import GraphDataset, eval_batches
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.generated.mini_oc import MiniOC, MiniOCIS2RE
from atomsweep.data.generated.mini_oc_recipe import RATTLED_FID
from atomsweep.engine.evaluate import of_kinds
from atomsweep.models.base import Prediction
from atomsweep.tasks.s2f import S2F
from atomsweep.tracking import schema
from tests.engine.test_trainer import fit, new_run, structures

KINDS = MappingProxyType({"relaxation": 0, "rattled": RATTLED_FID})


def splits(kinds=KINDS):
    """Every third frame is rattled."""
    found = {}
    for seed, name in enumerate((schema.TRAIN, *schema.VAL_SPLITS)):
        frames = structures(30, seed)
        for i, frame in enumerate(frames):
            frame.fid = RATTLED_FID + i if i % 3 == 0 else i
        found[name] = GraphDataset(InMemoryDataset(frames, name), None, kinds=kinds)
    return found


def test_kinds_are_those_of_the_embedded_data():
    assert MiniOC.kinds == KINDS
    assert tuple(KINDS) == schema.FRAME_KINDS
    assert not MiniOCIS2RE.kinds


def test_a_result_has_each_kind_and_their_errors_add_up(tmp_path):
    data = splits()
    metrics = fit(new_run(tmp_path / "run"), data=data)[1]["metrics"]
    plain = fit(new_run(tmp_path / "plain"), data=splits({}))[1]["metrics"]
    assert {name: metrics[name] for name in plain} == plain  # bit by bit
    parts = {f"{s}_{k}" for s in (*schema.VAL_SPLITS, schema.VAL_AVERAGE) for k in KINDS}
    assert {name.partition("/")[0] for name in metrics.keys() - plain.keys()} == parts
    for split in schema.VAL_SPLITS:
        (batch,) = eval_batches(data[split], 30)
        rattled = batch.fid[batch.batch] >= RATTLED_FID
        free = {"rattled": ~batch.fixed & rattled, "relaxation": ~batch.fixed & ~rattled}
        count = {kind: int(mask.sum()) for kind, mask in free.items()}
        for name in (schema.FORCES_MAE, schema.FORCES_COS, schema.FORCES_Z_MAE):
            total = sum(count[k] * metrics[f"{split}_{k}/{name}"] for k in KINDS)
            whole = metrics[f"{split}/{name}"]
            assert total / sum(count.values()) == pytest.approx(whole, rel=1e-9)
        errors = [metrics[f"{split}_{kind}/{schema.FORCES_MAE}"] for kind in KINDS]
        assert errors[0] != errors[1]
    mean = sum(metrics[f"{s}_rattled/{schema.FORCES_MAE}"] for s in schema.VAL_SPLITS) / 4
    assert metrics[f"{schema.VAL_AVERAGE}_rattled/{schema.FORCES_MAE}"] == pytest.approx(mean)


def test_metrics_of_a_kind_are_those_of_its_frames_alone():
    data = splits()[schema.VAL_SPLITS[0]]
    (batch,) = eval_batches(data, 30)
    predicted = torch.randn(batch.forces.shape, generator=torch.Generator().manual_seed(0))
    found = of_kinds(Prediction(forces=predicted), batch, KINDS)
    rattled = batch.fid >= RATTLED_FID
    alone = data.batch(torch.nonzero(rattled)[:, 0])
    own = S2F().metrics(Prediction(forces=predicted[rattled[batch.batch]]), alone)
    assert own.keys() == {name for kind, name in found if kind == "rattled"}
    for name, mean in own.items():
        assert found["rattled", name].value() == pytest.approx(mean.value(), rel=1e-12)


def test_a_kind_that_a_split_has_not_is_left_out(tmp_path):
    data = splits()
    for frame in data["val_id"].dataset.structures:
        frame.fid = 1
    data["val_id"] = GraphDataset(data["val_id"].dataset, None, kinds=KINDS)
    metrics = fit(new_run(tmp_path / "run"), data=data)[1]["metrics"]
    assert "val_id_rattled/forces_mae" not in metrics
    assert metrics["val_id_relaxation/forces_mae"] == metrics["val_id/forces_mae"]
    assert "val_avg_rattled/forces_mae" not in metrics  # of four splits or of none
    assert "val_avg_relaxation/forces_mae" in metrics
