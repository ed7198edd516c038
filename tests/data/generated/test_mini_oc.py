import json
import logging
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.data import covalent_radii

from atomsweep.data.generated.mini_oc import MiniOC, frame_kinds
from atomsweep.data.generated.mini_oc_recipe import (
    ADSORBATES,
    METALS,
    adsorbate_symbols,
    bulk_names,
)
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import DataError
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract
from tests.places import REPOSITORY

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
SMALLEST = {"train_systems": 12, "val_systems": 1, "frames_per_system": 3, "max_steps": 8}


class TestMiniOC(DatasetContract):
    @pytest.fixture
    def source(self, mini_oc_tiny):
        return mini_oc_tiny


def frames_of(source, split):
    dataset = source.split(split)
    return [dataset[i] for i in range(len(dataset))]


def systems_of(source, *splits):
    return [s for s in source.systems() if s["split"] in splits]


def test_splits_are_oc20s(mini_oc_tiny):
    assert mini_oc_tiny.splits() == (
        "train",
        "val_id",
        "val_ood_ads",
        "val_ood_cat",
        "val_ood_both",
    )


def test_no_system_is_in_two_splits(mini_oc_tiny):
    seen = [
        sid
        for split in mini_oc_tiny.splits()
        for sid in {f.sid for f in frames_of(mini_oc_tiny, split)}
    ]
    assert len(seen) == len(set(seen)) == len(mini_oc_tiny.systems())


def test_held_out_adsorbates_and_catalysts_are_not_trained_on(mini_oc_tiny):
    known = systems_of(mini_oc_tiny, "train", "val_id")
    new_ads = systems_of(mini_oc_tiny, "val_ood_ads", "val_ood_both")
    new_bulk = systems_of(mini_oc_tiny, "val_ood_cat", "val_ood_both")
    assert not {s["ads_symbols"] for s in known} & {s["ads_symbols"] for s in new_ads}
    assert not {s["bulk_symbols"] for s in known} & {s["bulk_symbols"] for s in new_bulk}
    ood_ads_bulks = {s["bulk_symbols"] for s in systems_of(mini_oc_tiny, "val_ood_ads")}
    assert not ood_ads_bulks & {s["bulk_symbols"] for s in new_bulk}


def test_held_out_systems_are_made_of_elements_trained_on(mini_oc_tiny):
    recipe = mini_oc_tiny.recipe
    trained = {symbol for name in recipe.train_adsorbates for symbol in adsorbate_symbols(name)}
    assert {
        symbol for name in recipe.ood_adsorbates for symbol in adsorbate_symbols(name)
    } <= trained
    held_out = {s["bulk_symbols"] for s in systems_of(mini_oc_tiny, "val_ood_cat", "val_ood_both")}
    assert held_out.isdisjoint(METALS)


def test_there_are_seventy_bulks():
    assert len(bulk_names()) == len(set(bulk_names())) == 70


def test_tags_and_fixed_atoms_are_those_of_a_slab(mini_oc_tiny):
    adsorbates = {s["sid"]: s["ads_symbols"] for s in mini_oc_tiny.systems()}
    for frame in frames_of(mini_oc_tiny, "train"):
        assert np.array_equal(frame.fixed, frame.tags == 0)
        assert (frame.tags == 2).sum() == len(ADSORBATES[adsorbates[frame.sid]][0])
        assert (frame.tags == 1).sum() >= 1
        assert set(frame.atomic_numbers[frame.tags == 2].tolist()) <= {1, 6, 7, 8}
        assert frame.pbc.all()
        assert frame.pos[frame.tags == 0, 2].max() < frame.pos[frame.tags == 1, 2].max()


def test_cells_are_periodic_slabs_with_vacuum(mini_oc_tiny):
    for end in (mini_oc_tiny.relaxations("train")[i] for i in range(0, 10, 2)):
        slab = end.pos[end.tags != 2, 2]
        assert np.allclose(end.cell[2, :2], 0)
        assert end.cell[2, 2] - np.ptp(slab) > 14.0
        assert np.linalg.norm(end.cell[:2], axis=1).min() > 4.9


def test_an_adsorbate_starts_in_contact_and_overlaps_nothing(mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("train")
    for start in (ends[i] for i in range(0, len(ends), 2)):
        radii, ads = covalent_radii[start.atomic_numbers], start.tags == 2
        steps = (
            np.array([(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)])
            @ start.cell[:2]
        )
        vec = start.pos[ads][:, None, None] - start.pos[~ads][None, :, None] - steps
        ratio = np.linalg.norm(vec, axis=-1) / (radii[ads][:, None] + radii[~ads])[..., None]
        assert 0.99 < ratio.min() < 1.26


def test_fixed_atoms_do_not_move(mini_oc_tiny):
    by_sid = {}
    for frame in frames_of(mini_oc_tiny, "train"):
        by_sid.setdefault(frame.sid, []).append(frame)
    for frames in by_sid.values():
        for frame in frames[1:]:
            assert np.array_equal(frame.pos[frame.fixed], frames[0].pos[frame.fixed])


def test_relaxing_lowers_the_energy_and_ends_at_small_forces(mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("train")
    converged = {s["sid"]: s["converged"] for s in mini_oc_tiny.systems()}
    assert np.mean(list(converged.values())) > 0.8
    for i in range(0, len(ends), 2):
        assert ends[i].sid == ends[i + 1].sid
        assert ends[i + 1].energy < ends[i].energy
        if converged[ends[i].sid]:
            assert np.linalg.norm(ends[i + 1].forces[~ends[i + 1].fixed], axis=1).max() < 0.0301


def test_a_share_of_the_frames_is_rattled_and_feels_larger_forces(mini_oc_tiny):
    frames = frames_of(mini_oc_tiny, "train")
    kinds = frame_kinds(np.array([f.fid for f in frames]))
    assert kinds.mean() == pytest.approx(mini_oc_tiny.recipe.rattled_share, abs=0.1)
    size = np.array([np.abs(f.forces[~f.fixed]).mean() for f in frames])
    assert size[kinds == 1].mean() > 3 * size[kinds == 0].mean()


def test_thinning_does_not_always_keep_the_first_frame(mini_oc_tiny):
    frames = frames_of(mini_oc_tiny, "train")
    with_first = {f.sid for f in frames if f.fid == 0}
    assert len(with_first) < 0.5 * len({f.sid for f in frames})


def test_frames_outside_oc20s_limits_are_left_out(mini_oc_tiny):
    for split in mini_oc_tiny.splits():
        for frame in frames_of(mini_oc_tiny, split):
            assert abs(frame.energy) <= 10.0
            assert np.abs(frame.forces).max() <= 50.0


def test_adsorption_energies_are_small(mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("train")
    energies = np.array([ends[i].energy for i in range(1, len(ends), 2)])
    assert energies.min() > -4.0
    assert energies.max() < 3.0


def test_every_system_has_a_record(mini_oc_tiny):
    for system in mini_oc_tiny.systems():
        assert system["anomaly"] in (0, 1, 2, 3)
        assert len(system["miller_index"]) == 3
        assert system["bulk_symbols"] in bulk_names()


def test_provenance_says_that_it_is_not_dft(mini_oc_tiny):
    assert "NOT DFT chemistry" in mini_oc_tiny.provenance.note
    assert (
        "NOT DFT" in StoreDataset(mini_oc_tiny.directory / "train.lmdb").meta["provenance"]["note"]
    )


def test_the_fingerprint_names_the_science_and_nothing_else(tmp_path):
    def print_of(**changes):
        return data_source("mini_oc_tiny", tmp_path, **changes).fingerprint()

    assert print_of() == print_of(workers=7) == print_of(on_error="skip") == print_of(name="mine")
    assert print_of() == data_source("mini_oc_tiny", tmp_path / "elsewhere").fingerprint()
    changed = [
        print_of(seed=1),
        print_of(train_systems=17),
        print_of(rattled_share=0.4),
        print_of(ood_adsorbates=["NO2"]),
    ]
    assert len({print_of(), *changed}) == 5
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_describing_needs_no_torch():
    code = (
        "import sys, atomsweep.data.generated.mini_oc_build, atomsweep.data.generated.mini_oc_run;"
        "import atomsweep.data.formats.extxyz, atomsweep.data.generated.mini_oc;"
        "assert 'torch' not in sys.modules;"
    )
    subprocess.run([sys.executable, "-c", code], env=ENV, check=True)
    light = (
        "import sys, atomsweep.data.generated.mini_oc, atomsweep.data.formats.extxyz;"
        "assert 'ase' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", light], env=ENV, check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_adsorbates": ["H", False]}, "unknown adsorbate False"),
        ({"ood_adsorbates": ["H"]}, r"\['H'\] are both trained on and held out"),
        ({"train_adsorbates": ["H"], "ood_adsorbates": ["CO"]}, r"never trained on: \['C', 'O'\]"),
        ({"rattled_share": 1.5}, "rattled_share must be in"),
        ({"rattle_std": [0.2, 0.1]}, "rattle_std must be"),
        ({"heldout_bulks": 63}, "heldout_bulks must be between 1 and 62"),
        ({"on_error": "ignore"}, "on_error must be raise or skip"),
    ],
)
def test_a_senseless_recipe_is_refused(tmp_path, changes, message):
    with pytest.raises(Exception, match=message):
        data_source("mini_oc_tiny", tmp_path, **changes)


def test_a_damaged_store_is_named_or_skipped(tmp_path, mini_oc_tiny):
    import shutil

    from tests.data.store.test_dataset import flip, overwrite_record

    shutil.copytree(mini_oc_tiny.directory, tmp_path / mini_oc_tiny.directory.name)
    path = tmp_path / mini_oc_tiny.directory.name / "train.lmdb"
    overwrite_record(path, 5, lambda record: flip(record, 200))
    with pytest.raises(DataError, match=f"structure 5 of {re.escape(str(path))} is corrupt"):
        data_source("mini_oc_tiny", tmp_path).split("train")[5]
    skipping = data_source("mini_oc_tiny", tmp_path, on_error="skip")
    assert len(skipping.split("train")) == len(mini_oc_tiny.split("train")) - 1
    assert len(skipping.skipped["train"]) == 1
    assert skipping.describe()["skipped"] == {"train": 1}


BUILD = """
import json, logging, sys
from tests.conftest import data_source
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
options = json.loads(sys.argv[2])
data_source("mini_oc_tiny", Path(sys.argv[1]), **options).prepare()
"""


def start_build(root, **options):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root), json.dumps({**SMALLEST, **options})],
        env=ENV,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(source):
    return [
        (s.pos.tobytes(), s.forces.tobytes(), s.energy, s.sid, s.fid)
        for split in source.splits()
        for dataset in (source.split(split), source.relaxations(split))
        for s in (dataset[i] for i in range(len(dataset)))
    ]


@pytest.mark.long
def test_a_killed_build_goes_on_and_gives_the_same_data_on_any_number_of_workers(tmp_path):
    whole = data_source("mini_oc_tiny", tmp_path / "whole", workers=2, **SMALLEST)
    whole.prepare(progress=False)

    again = data_source("mini_oc_tiny", tmp_path / "killed", **SMALLEST)
    build = start_build(tmp_path / "killed", workers=1)
    partial = again.directory.with_name(again.directory.name + ".partial")
    deadline = time.monotonic() + 60
    while not list(partial.glob("chunks/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    build.kill()
    build.communicate()
    assert not again.directory.exists()
    assert list(partial.glob("chunks/*.json"))

    resumed = start_build(tmp_path / "killed", workers=1)
    _, messages = resumed.communicate()
    assert resumed.returncode == 0, messages
    assert "found from an earlier attempt" in messages
    assert contents(again) == contents(whole)
    assert sorted(p.name for p in again.directory.iterdir()) == sorted(
        p.name for p in whole.directory.iterdir()
    )
    assert not partial.exists()


@pytest.mark.long
def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    builds = [start_build(tmp_path, workers=1) for _ in range(2)]
    messages = [build.communicate()[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], messages
    assert sum("another process is building" in m for m in messages) <= 1
    assert sum("is ready after" in m for m in messages) == 1


def test_a_failing_worker_is_reported(tmp_path, monkeypatch):
    source = data_source("mini_oc_tiny", tmp_path, workers=1, **SMALLEST)
    monkeypatch.setattr(
        "atomsweep.data.generated.mini_oc_run._WORKER", "raise SystemExit('broken')"
    )
    with pytest.raises(RuntimeError, match=r"3 processes died over its chunk 0"):
        source.prepare(progress=False)
    assert not source.directory.exists()


def test_a_full_disk_names_the_place_and_the_remedy(tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/chunk")

    monkeypatch.setattr("atomsweep.data.generated.mini_oc_run.build_data_set", full)
    with pytest.raises(OSError, match=r"disk is full.*set data.root elsewhere.*/somewhere/chunk"):
        data_source("mini_oc_tiny", tmp_path).prepare()


@pytest.mark.slow
def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = data_source("mini_oc_tiny", tmp_path, workers=2, **{**SMALLEST, "train_systems": 1})
    source.prepare()
    assert isinstance(source, MiniOC)
    assert "5 of 5 relaxations" in caplog.text
    assert "building mini_oc: 5 relaxations with 2 processes" in caplog.text
