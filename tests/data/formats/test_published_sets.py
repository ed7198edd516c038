"""The papers' data sets, as `conf/data/` finds them where their archives unpack."""

import numpy as np
import pytest

from atomsweep.build import UserError, data_source
from atomsweep.data.formats.ocp_lmdb import IS2RE, S2EF
from atomsweep.launch.compose import cell_of
from tests.contracts.compose import compose_with_choices
from tests.data.formats.published_layout import write_published_layout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_published_layout(tmp_path_factory.mktemp("published"))


def config_of(monkeypatch, root, *overrides):
    monkeypatch.setenv("ATOMSWEEP_DATA", str(root))
    return cell_of(*compose_with_choices(list(overrides)), overrides).config


def source_of(monkeypatch, root, name):
    return data_source(config_of(monkeypatch, root, f"data={name}"))


def test_dynamics_are_told_from_relaxations_by_their_frame_numbers(monkeypatch, root):
    frames = source_of(monkeypatch, root, "oc20_all_md").split("train")
    numbers = sorted(frames[i].fid for i in range(len(frames)))
    assert numbers == [-3, -2, -1, 0, 1, 2]
    relaxed, moving = (next(f for f in frames if f.fid == n) for n in (2, -3))
    np.testing.assert_array_equal(relaxed.pos, moving.pos)  # the same record in both folders
    plain = source_of(monkeypatch, root, "oc20_all").split("train")
    assert sorted(plain[i].fid for i in range(len(plain))) == [0, 1, 2]


def test_a_reader_without_dynamics_reads_as_it_did(monkeypatch, root):
    assert "dynamics" not in S2EF().settings()
    assert "linear_references" not in IS2RE().settings()
    assert S2EF(dynamics="/here").settings() == S2EF(dynamics="/there").settings()
    assert S2EF(dynamics="/here").settings() != S2EF().settings()


def test_oc22_has_its_own_splits_and_relaxations_less_the_references(monkeypatch, root):
    source = source_of(monkeypatch, root, "oc22_all")
    assert source.splits() == ("train", "val_id", "val_ood")
    frame = source.split("val_ood")[0]
    ends = source.relaxations("val_ood")
    numbers = ends[1].atomic_numbers
    assert len(ends) == 6
    assert [ends[2 * seed + 1].energy for seed in range(3)] == [
        pytest.approx(-seed - float(numbers.sum())) for seed in range(3)
    ]  # y_relaxed is -seed, and the reference of an element here its number
    assert ends[0].energy == pytest.approx(1.5 - float(numbers.sum()))
    plain = source_of(monkeypatch, root, "oc20_2m").split("val_id")[0]
    assert frame.energy == pytest.approx(plain.energy - float(numbers.sum()))


def test_models_of_frames_relax_from_the_is2re_files_of_each_split(monkeypatch, root):
    source = source_of(monkeypatch, root, "oc20_2m")
    ends = source.relaxations("val_ood_both")
    assert [ends[i].energy for i in (1, 3, 5)] == [0.0, -1.0, -2.0]
    with pytest.raises(ValueError, match="holds no relaxed structures"):
        source.relaxations("train")


@pytest.mark.parametrize("name", ["oc20_200k", "oc20_2m", "oc20_all_md", "oc22_all", "md17"])
def test_a_set_that_is_not_there_is_one_sentence_with_the_page(monkeypatch, tmp_path, name):
    with pytest.raises(UserError, match=r"docs/data\.md, Bring the data") as error:
        config_of(monkeypatch, tmp_path, f"data={name}")
    assert "\n" not in str(error.value)
