"""What every data source promises, as tests: subclass it and give the fixture `source`."""

import json
import pickle

import numpy as np
import pytest

from atomsweep.data.source import DataSource
from atomsweep.data.structure import structure_fault


class DatasetContract:
    """The shared tests of `DataSource`. A subclass defines a fixture `source` and what it holds."""

    has_energy = True
    has_forces = True
    has_validation = True  # splits besides `train`

    @pytest.fixture
    def source(self) -> DataSource:
        raise NotImplementedError

    def test_train_comes_first_and_is_not_empty(self, source):
        assert source.splits()[0] == "train"
        assert len(source.split("train")) > 0
        assert (len(source.splits()) > 1) == self.has_validation

    def test_structures_are_whole(self, source):
        for name in source.splits():
            dataset = source.split(name)
            for index in (0, len(dataset) // 2, len(dataset) - 1):
                structure = dataset[index]
                assert structure_fault(structure) is None
                assert (structure.energy is not None) == self.has_energy
                assert (structure.forces is not None) == self.has_forces

    def test_labels_are_declared(self, source):
        dataset = source.split("train")
        assert dataset.has_energy == self.has_energy
        assert dataset.has_forces == self.has_forces

    def test_sizes_are_known_without_reading(self, source):
        for name in source.splits():
            dataset = source.split(name)
            assert dataset.natoms.shape == (len(dataset),)
            assert dataset.natoms.dtype.kind in "iu"
            for index in {0, len(dataset) - 1}:
                assert dataset[index].natoms == dataset.natoms[index]

    def test_splits_share_no_frame(self, source):
        seen = set()
        for name in source.splits():
            dataset = source.split(name)
            mine = {(s.sid, s.fid) for s in (dataset[i] for i in range(len(dataset)))}
            assert len(mine) == len(dataset)
            assert not mine & seen
            seen |= mine

    def test_the_fingerprint_is_stable_text(self, source):
        assert isinstance(source.fingerprint(), str)
        assert 8 <= len(source.fingerprint()) <= 64
        assert source.fingerprint() == source.fingerprint()

    def test_preparing_again_changes_nothing(self, source):
        before = source.split("train")[0].pos.copy()
        source.prepare(progress=False)
        assert np.array_equal(source.split("train")[0].pos, before)

    def test_an_unknown_split_lists_the_known_ones(self, source):
        with pytest.raises(ValueError, match="train"):
            source.split("tset")

    def test_an_index_outside_is_an_index_error(self, source):
        dataset = source.split("train")
        with pytest.raises(IndexError):
            dataset[len(dataset)]

    def test_the_description_is_plain_json_with_counts_and_provenance(self, source):
        described = json.loads(json.dumps(source.describe()))
        assert set(described["splits"]) == set(source.splits())
        for name in source.splits():
            assert described["splits"][name]["frames"] == len(source.split(name))
        assert described["fingerprint"] == source.fingerprint()
        assert described["provenance"]["licence"]

    def test_a_split_can_be_pickled(self, source):
        dataset = source.split("train")
        copy = pickle.loads(pickle.dumps(dataset))
        assert np.array_equal(copy[0].pos, dataset[0].pos)
