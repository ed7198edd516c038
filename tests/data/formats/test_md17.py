import pickle
import zipfile

import numpy as np
import pytest
from hydra.errors import InstantiationException

from atomsweep.data.formats.md17 import MD17
from atomsweep.data.npz import read_npz
from atomsweep.data.structure import DataError
from atomsweep.units import KCAL_PER_MOL
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract

NUMBERS = np.array([6, 8, 1])


def frames(count, seed=0):
    rng = np.random.default_rng(seed)
    energies = -97_000.0 + rng.normal(size=count)
    return rng.normal(size=(count, 3, 3)), energies, rng.normal(size=(count, 3, 3))


def original(path, count=60):
    """sGDML's layout, with the text that its files carry."""
    pos, energy, forces = frames(count)
    np.savez(path, R=pos, E=energy[:, None], F=forces, z=NUMBERS.astype("u1"), name="aspirin")
    return path


def revised(path, count=30, seed=0, **changes):
    pos, energy, forces = frames(count, seed)
    arrays = {
        "nuclear_charges": NUMBERS.astype("u1"),
        "coords": pos,
        "energies": energy,
        "forces": forces,
        "old_indices": np.arange(count),
        "old_energies": energy - 1.0,
        "old_forces": 2 * forces,
    }
    np.savez(path, **{**arrays, **changes})
    return path


def pair(folder):
    folder.mkdir(exist_ok=True)
    revised(folder / "rmd17_aspirin_train_01.npz", 30, 1)
    revised(folder / "rmd17_aspirin_test_01.npz", 20, 2)
    return folder


SMALL = {"train_size": 20, "val_size": 5}


class TestMD17(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        original(tmp_path / "md17_aspirin.npz")
        return data_source("md17", tmp_path / "root", path=str(tmp_path), **SMALL)


class TestRMD17(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        path = str(pair(tmp_path / "in"))
        return data_source("rmd17", tmp_path / "root", path=path, **SMALL)


def all_of(dataset):
    return [dataset[i] for i in range(len(dataset))]


def test_the_division_is_the_published_permutation(tmp_path):
    source = MD17(str(original(tmp_path / "a.npz")), "aspirin", "original", str(tmp_path), **SMALL)
    order = np.random.default_rng(seed=1).permutation(60)
    for name, chosen in (("train", order[:20]), ("val_id", order[20:25]), ("test", order[25:])):
        assert [s.fid for s in all_of(source.split(name))] == chosen.tolist()


def test_labels_are_converted_and_centred_in_float64(tmp_path):
    pos, energy, forces = frames(60)
    energy = energy - 1e9  # where float32 could not tell two frames apart
    np.savez(tmp_path / "a.npz", R=pos, E=energy[:, None], F=forces, z=NUMBERS)
    source = MD17(str(tmp_path / "a.npz"), "aspirin", "original", str(tmp_path), **SMALL)
    order = np.random.default_rng(seed=1).permutation(60)
    mean = energy[order[:20]].mean()
    for name, chosen in (("train", order[:20]), ("test", order[25:])):
        for structure, frame in zip(all_of(source.split(name)), chosen, strict=True):
            expected = (energy[frame] - mean) * KCAL_PER_MOL
            assert np.float32(structure.energy) == pytest.approx(expected, abs=1e-5)
            assert np.allclose(structure.forces, forces[frame] * KCAL_PER_MOL, rtol=1e-14)
            assert np.array_equal(structure.pos, pos[frame])
            assert structure.atomic_numbers.tolist() == [6, 8, 1]
            assert not structure.fixed.any()
            assert not structure.pbc.any()
    assert source.describe()["energy_subtracted"] == pytest.approx(mean * KCAL_PER_MOL)


def test_an_official_pair_is_one_split(tmp_path):
    source = data_source("rmd17", tmp_path, path=str(pair(tmp_path / "in")), **SMALL)
    pos = np.concatenate([frames(30, 1)[0], frames(20, 2)[0]])
    assert [len(source.split(name)) for name in source.splits()] == [20, 5, 20]
    assert [s.fid for s in all_of(source.split("test"))] == list(range(30, 50))
    for name in source.splits():
        for structure in all_of(source.split(name)):
            assert np.array_equal(structure.pos, pos[structure.fid])


def test_original_and_revised_labels_are_kept_apart(tmp_path):
    path = str(pair(tmp_path / "in"))
    new = data_source("rmd17", tmp_path, path=path, **SMALL)
    old = data_source("md17", tmp_path, path=path, **SMALL)
    assert np.allclose(old.split("train")[0].forces, 2 * new.split("train")[0].forces)
    assert old.fingerprint() != new.fingerprint()
    assert "rMD17 took" in old.provenance.note
    sgdml = str(original(tmp_path / "md17_ethanol.npz"))
    with pytest.raises(DataError, match="it holds no revised labels"):
        MD17(sgdml, "ethanol", "revised", str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coords": np.zeros((30, 2, 3))}, r"positions have shape \(30, 2, 3\), for 3 atoms"),
        ({"forces": np.zeros((29, 3, 3))}, r"forces \(29, 3, 3\)"),
        ({"energies": np.zeros(31)}, r"energies \(31,\)"),
        ({"coords": np.array([[[None] * 3] * 3] * 30)}, "array coords of .* holds Python objects"),
    ],
)
def test_a_bad_file_is_named(tmp_path, changes, message):
    path = revised(tmp_path / "rmd17_aspirin.npz", **changes)
    with pytest.raises(DataError, match=message) as error:
        MD17(str(path), "aspirin", "revised", str(tmp_path), **SMALL).prepare()
    assert str(path) in str(error.value)


def test_a_bad_frame_is_named_or_skipped(tmp_path):
    energies = np.zeros(30)
    order = np.random.default_rng(1).permutation(30)
    energies[order[2]] = np.nan
    path = str(revised(tmp_path / "rmd17_aspirin.npz", energies=energies))
    dataset = MD17(path, "aspirin", "revised", str(tmp_path), **SMALL).split("train")
    assert np.isfinite(dataset[1].energy)
    with pytest.raises(DataError, match=rf"{path}\) \(frame {order[2]}\): energy is nan"):
        dataset[2]
    source = MD17(path, "aspirin", "revised", str(tmp_path), on_error="skip", **SMALL)
    assert len(source.split("train")) == 19


def test_one_frame_too_few_is_told(tmp_path):
    path = original(tmp_path / "md17_aspirin.npz", 25)
    with pytest.raises(DataError, match="has 25 frames, too few for train_size=20 and val_size=5"):
        MD17(str(path), "aspirin", "original", str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "both"}, "labels must be original or revised"),
        ({"train_size": 0}, "must be at least 1"),
        ({"path": "/nowhere"}, "no file or directory /nowhere"),
        ({"molecule": "water"}, "none of md17_water.npz"),
    ],
)
def test_senseless_options_are_refused(tmp_path, changes, message):
    with pytest.raises(InstantiationException, match=message):
        data_source("md17", tmp_path, **{"path": str(tmp_path), **changes})


def test_a_test_file_that_is_missing_is_named(tmp_path):
    folder = pair(tmp_path / "in")
    (folder / "rmd17_aspirin_test_01.npz").unlink()
    with pytest.raises(InstantiationException, match=r"rmd17_aspirin_test_01.npz is missing"):
        data_source("rmd17", tmp_path, path=str(folder))


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_object_arrays_are_refused_before_they_are_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", harm=np.array([Harm()], dtype=object), good=np.arange(3))
    with pytest.raises(DataError, match="array harm of .*a.npz holds Python objects"):
        read_npz(tmp_path / "a.npz")
    assert read_npz(tmp_path / "a.npz", ["good"])["good"].tolist() == [0, 1, 2]


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = b"\x93NUMPY\x01\x00\x76\x00" + (
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (40000000,), }".ljust(117) + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header + bytes(1000))  # says 320 MB
    with pytest.raises(DataError, match="array a of .* would unpack from .* to 320000000 bytes"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["../a.npy", "/etc/a.npy", "a.txt"])
def test_a_member_that_is_no_array_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="which is no array"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_an_archive_cut_off_is_named(tmp_path, keep):
    whole = revised(tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="a.npz is not a readable .npz"):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match="a.npz is not a readable .npz"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_what_numpy_reads(tmp_path, order):
    values = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
    np.savez_compressed(tmp_path / "a.npz", a=values, scalar=np.float32(2), text="x")
    found = read_npz(tmp_path / "a.npz")
    assert np.array_equal(found["a"], values)
    assert found["scalar"] == 2
    with pytest.raises(DataError, match="has no array b; it has a, scalar, text"):
        read_npz(tmp_path / "a.npz", ["b"])


@pytest.mark.parametrize("option", ["md17", "rmd17"])
def test_the_real_files_are_read_as_numpy_reads_them(real_data, tmp_path, option):
    folder = real_data / "rmd17"
    source = data_source(option, tmp_path, path=str(folder))
    files = [np.load(folder / f"rmd17_aspirin_{part}_01.npz") for part in ("train", "test")]
    prefix = "old_" if option == "md17" else ""
    energies = np.concatenate([f[f"{prefix}energies"] for f in files])
    forces = np.concatenate([f[f"{prefix}forces"] for f in files])
    order = np.random.default_rng(seed=1).permutation(1000)
    expected = {"train": order[:950], "val_id": order[950:], "test": np.arange(1000, 2000)}
    mean = energies[order[:950]].mean()
    for name, chosen in expected.items():
        dataset = source.split(name)
        assert len(dataset) == len(chosen)
        for place in range(0, len(chosen), 97):
            frame = chosen[place]
            structure = dataset[place]
            expected_energy = (energies[frame] - mean) * KCAL_PER_MOL
            assert structure.energy == pytest.approx(expected_energy, abs=1e-9)
            assert np.allclose(structure.forces, forces[frame] * KCAL_PER_MOL, rtol=1e-12)
    assert abs(np.mean([s.energy for s in all_of(source.split("train"))])) < 1e-9


def test_the_layout_of_sgdml_is_read(real_data, tmp_path):
    path = str(real_data / "rmd17" / "md17_layout" / "md17_ethanol_subset.npz")
    source = data_source("md17", tmp_path, path=path, molecule="ethanol")
    assert [len(source.split(name)) for name in source.splits()] == [950, 50, 1000]


def test_energies_in_float32_that_cannot_tell_frames_apart_are_refused(tmp_path):
    _, energy, _ = frames(60)
    revised(tmp_path / "a.npz", 60, energies=(energy - 1e7).astype(np.float32))
    with pytest.raises(DataError, match=r"a.npz: its energies are rounded to float32, whose steps"):
        MD17(str(tmp_path / "a.npz"), "aspirin", "revised", str(tmp_path), **SMALL).prepare()


def test_copies_in_folders_that_begin_with_a_dot_are_not_read(tmp_path):
    hidden = tmp_path / ".Trash"
    hidden.mkdir()
    revised(hidden / "rmd17_aspirin.npz", seed=1)
    with pytest.raises(InstantiationException, match=r"none of .*rmd17_aspirin.npz"):
        data_source("rmd17", tmp_path / "root", path=str(tmp_path))
    revised(tmp_path / "rmd17_aspirin.npz", seed=2)
    source = data_source("rmd17", tmp_path / "root", path=str(tmp_path), **SMALL)
    assert source.files == [tmp_path / "rmd17_aspirin.npz"]


def test_a_file_of_ones_own_may_be_in_another_unit(tmp_path):
    pos, energy, forces = frames(60)
    for name, scale in (("kcal", 1.0), ("eV", KCAL_PER_MOL)):
        arrays = {"R": pos, "E": scale * energy[:, None], "F": scale * forces, "z": NUMBERS}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    options = {"molecule": "a", "labels": "original", "root": str(tmp_path)}
    options |= {"train_size": 40, "val_size": 10}
    one = MD17(str(tmp_path / "kcal.npz"), **options)
    other = MD17(str(tmp_path / "eV.npz"), energy_unit="eV", **options)
    assert one.fingerprint() != other.fingerprint()
    for a, b in zip(all_of(one.split("train")), all_of(other.split("train")), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-6)
        assert np.allclose(a.forces, b.forces)
    with pytest.raises(ValueError, match="energy_unit must be one of eV"):
        MD17(str(tmp_path / "eV.npz"), energy_unit="ev", **options)
