import gzip
import json
import lzma
import os
import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from hydra.errors import InstantiationException

from atomsweep.data.formats.extxyz import ExtXYZ, ExtXYZReader
from atomsweep.data.formats.find import find
from atomsweep.data.frames import TAGS_DERIVED, TAGS_STORED, TAGS_UNKNOWN
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import DataError
from atomsweep.units import KCAL_PER_MOL
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract


def frame(seed, sid=None, tags=(0, 1, 2), fixed=(0,), labels=True, scale=1.0):
    rng = np.random.default_rng(seed)
    atoms = Atoms("CuCuO", positions=rng.normal(size=(3, 3)), cell=9 * np.eye(3), pbc=True)
    if tags is not None:
        atoms.set_tags(tags)
    if len(fixed):
        atoms.set_constraint(FixAtoms(list(fixed)))
    if sid is not None:
        atoms.info.update(sid=sid, fid=seed)
    if labels:
        forces = scale * rng.normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
    return atoms


def text_of(atoms):
    """One frame as the format defines it, written without ASE."""
    results = atoms.calc.results if atoms.calc is not None else {}
    columns = [("species:S:1", atoms.symbols), ("pos:R:3", atoms.positions)]
    if atoms.constraints:
        free = np.full(len(atoms), "T")
        free[atoms.constraints[0].index] = "F"
        columns.append(("move_mask:L:1", free))
    if atoms.has("tags"):
        columns.append(("tags:I:1", atoms.get_tags()))
    if "forces" in results:
        columns.append(("forces:R:3", results["forces"]))
    info = dict(atoms.info)
    if "energy" in results:
        info["energy"] = repr(results["energy"])
    lattice = " ".join(map(str, atoms.cell.array.ravel()))
    lines = [
        str(len(atoms)),
        f'Lattice="{lattice}" Properties={":".join(name for name, _ in columns)} pbc="T T T" '
        + " ".join(f"{key}={value}" for key, value in info.items()),
    ]
    for atom in range(len(atoms)):
        values = (np.atleast_1d(column[atom]) for _, column in columns)
        lines.append(" ".join(str(v) for value in values for v in value))
    return "\n".join(lines) + "\n"


def write_frames(path, frames):
    path.write_text("".join(text_of(atoms) for atoms in frames))
    return path


@pytest.fixture
def systems(tmp_path):
    """Five systems of four frames in one file."""
    return write_frames(
        tmp_path / "systems.extxyz",
        [frame(4 * sid + fid, sid=sid) for sid in range(5) for fid in range(4)],
    )


class TestExtXYZ(DatasetContract):
    @pytest.fixture
    def source(self, systems, tmp_path):
        return ExtXYZ(str(systems), str(tmp_path / "root"))


class TestExtXYZWithoutForces(DatasetContract):
    has_forces = False
    has_validation = False

    @pytest.fixture
    def source(self, systems, tmp_path):
        text = systems.read_text()
        text = re.sub(r":forces:R:3", ":other:R:3", text)
        (tmp_path / "bare.xyz").write_text(text)
        return ExtXYZ(
            str(tmp_path / "bare.xyz"), str(tmp_path / "root"), labels=["energy"], val_fraction=0
        )


def all_of(dataset):
    return [dataset[i] for i in range(len(dataset))]


def test_frames_are_read_as_they_were_written(systems, tmp_path):
    source = ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0.0)
    for number, structure in enumerate(all_of(source.split("train"))):
        atoms = frame(number)
        assert structure.sid == number // 4
        assert structure.fid == number
        assert structure.tags.tolist() == [0, 1, 2]
        assert structure.fixed.tolist() == [True, False, False]
        assert np.allclose(structure.pos, atoms.positions, atol=1e-6)
        assert np.allclose(structure.forces, atoms.calc.results["forces"], atol=1e-6)
        assert structure.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-7)
    assert source.describe()["tags"] == {"train": {TAGS_STORED: 20}}


@pytest.mark.parametrize(("suffix", "opener"), [(".xz", lzma.open), (".gz", gzip.open)])
def test_compressed_files_hold_the_same(systems, tmp_path, suffix, opener):
    packed = tmp_path / f"packed.extxyz{suffix}"
    with opener(packed, "wb") as file:
        file.write(systems.read_bytes())
    plain = ExtXYZ(str(systems), str(tmp_path / "root")).split("train")
    other = ExtXYZ(str(packed), str(tmp_path / "root")).split("train")
    assert all(
        np.array_equal(a.pos, b.pos) for a, b in zip(all_of(plain), all_of(other), strict=True)
    )


def test_systems_are_never_divided_between_splits(systems, tmp_path):
    source = ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0.4)
    train = {s.sid for s in all_of(source.split("train"))}
    val = {s.sid for s in all_of(source.split("val_id"))}
    assert len(val) == 2
    assert train | val == set(range(5))
    assert not train & val


def test_systems_are_what_is_held_out_unless_another_rule_is_given(systems, tmp_path):
    """And a run that was made when that had to be said is the same run."""
    one, other = (
        ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0.4, split_by=by)
        for by in ("auto", "sid")
    )
    assert one.fingerprint() == other.fingerprint()
    assert {s.sid for s in all_of(one.split("val_id"))} == {
        s.sid for s in all_of(other.split("val_id"))
    }


@pytest.mark.parametrize(
    ("scale", "scaled", "told"),
    [
        (1.0, 20, None),
        (23.06, 20, "half of all forces are above .* eV/Å, which is odd .*energy_unit"),
        (300.0, 4, None),
        (
            300.0,
            6,
            r"6 of 20 frames have a force above 50 eV/Å and would be left out; .*energy_unit",
        ),
    ],
)
def test_forces_that_no_file_in_ev_has_are_asked_about(tmp_path, scale, scaled, told):
    """Of a thermal spread around 1 eV/Å, and the same numbers in kcal/mol."""
    rng = np.random.default_rng(0)
    made = [frame(seed, sid=seed) for seed in range(20)]
    for number, atoms in enumerate(made):
        size = scale if number < scaled else 1.0
        atoms.calc.results["forces"] = size * rng.normal(0, 0.6, (len(atoms), 3))
    path = write_frames(tmp_path / "f.xyz", made)
    source = ExtXYZ(str(path), str(tmp_path / "root"))
    if told is None:
        kept = 20 - scaled * (scale > 100)
        assert len(source.split("train")) == kept - round(0.1 * kept)
        return
    with pytest.raises(DataError, match=told):
        source.prepare()
    with pytest.raises(DataError, match=told):  # what is converted by now is no answer
        source.split("train")
    assert len(ExtXYZ(str(path), str(tmp_path / "root"), max_force=None).split("train")) == 18
    if scale < 100:
        right = ExtXYZ(str(path), str(tmp_path / "root"), energy_unit="kcal/mol")
        assert len(right.split("train")) == 18


def test_validation_frames_that_are_trained_on_are_told_whatever_file_they_are_in(
    systems, tmp_path, caplog
):
    own = [frame(90 + number, sid=9) for number in range(2)]
    copied = [frame(seed, sid=seed) for seed in range(3)]
    path = write_frames(tmp_path / "train.xyz", [*own, *copied])
    crlf = tmp_path / "crlf.xyz"
    crlf.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    some = write_frames(tmp_path / "some.xyz", [*copied[:2], frame(77, sid=77)])
    other = write_frames(tmp_path / "other.xyz", [frame(55, sid=0)])
    for val, told in ((crlf, "5 of 5 frames"), (some, "2 of 3 frames"), (other, None)):
        caplog.clear()
        ExtXYZ(str(path), str(tmp_path / "root"), val_id=str(val)).prepare()
        loud = [line for line in caplog.messages if "are in data.path too" in line]
        assert [line.startswith(f"{told} of data.val_id") for line in loud] == [True] * bool(told)


def test_splitting_by_frame_is_said(systems, tmp_path, caplog):
    source = ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0.25, split_by="frame")
    assert len(source.split("val_id")) == 5
    assert "train and val_id hold frames of the same systems" in caplog.text


def test_one_system_is_divided_by_frame_which_is_said_once(tmp_path, caplog):
    path = write_frames(tmp_path / "md.xyz", [frame(seed) for seed in range(6)])
    source = ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0.5, name="alone")
    assert [len(source.split(name)) for name in ("train", "val_id", "train")] == [3, 3, 3]
    assert caplog.text.count("is split by frame") == 1
    asked = ExtXYZ(str(path), str(tmp_path / "root"), split_by="sid", name="alone")
    with pytest.raises(DataError, match=r"holds 1 system and cannot .* data.split_by=frame"):
        asked.split("train")
    assert len(ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0).split("train")) == 6


def test_validation_files_are_splits(systems, tmp_path):
    val = write_frames(tmp_path / "val.extxyz", [frame(90 + i, sid=9) for i in range(3)])
    source = ExtXYZ(str(systems), str(tmp_path / "root"), val_id=str(val), val_ood_both=[str(val)])
    assert source.splits() == ("train", "val_id", "val_ood_both")
    assert [len(source.split(name)) for name in source.splits()] == [20, 3, 3]


def test_files_without_ids_are_systems_of_their_own(tmp_path):
    for number in range(3):
        write_frames(tmp_path / f"{number}.xyz", [frame(10 * number + i) for i in range(2)])
    source = ExtXYZ(str(tmp_path / "*.xyz"), str(tmp_path / "root"), val_fraction=0)
    assert [s.sid for s in all_of(source.split("train"))] == [0, 0, 1, 1, 2, 2]


def test_the_sidecar_gives_ids_and_reference_energies(systems, tmp_path):
    lines = [f"random{100 + i // 4},frame{i % 4},{-0.5 * i}\n" for i in range(20)]
    with lzma.open(systems.with_name("systems.txt.xz"), "wt") as file:
        file.writelines(lines)
    source = ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0)
    seventh = source.split("train")[7]
    assert (seventh.sid, seventh.fid) == (101, 3)
    assert seventh.energy == pytest.approx(frame(7).calc.results["energy"] + 3.5, abs=1e-7)
    systems.with_name("systems.txt.xz").unlink()
    systems.with_name("systems.txt").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"has more frames, but .*systems.txt has 19 lines"):
        ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0).prepare()
    systems.with_name("systems.txt").write_text("".join(lines) + "random1,frame2,3\n")
    with pytest.raises(DataError, match=r"has 20 frames, but .*systems.txt has 21 lines"):
        ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0).prepare()
    systems.with_name("systems.txt").write_text("nonsense\n" + "".join(lines[1:]))
    with pytest.raises(
        DataError, match=r"line 1: expected random<sid>,frame<fid>,<reference energy>"
    ):
        ExtXYZ(str(systems), str(tmp_path / "root"), val_fraction=0).prepare()


@pytest.mark.parametrize(
    ("fixed", "rule", "tags"), [((0,), TAGS_DERIVED, [0, 1, 2]), ((), TAGS_UNKNOWN, [1, 1, 1])]
)
def test_missing_tags_follow_a_rule_that_is_told(tmp_path, fixed, rule, tags):
    path = write_frames(tmp_path / "a.xyz", [frame(1, tags=None, fixed=fixed)])
    source = ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0)
    assert source.split("train")[0].tags.tolist() == tags
    assert source.describe()["tags"]["train"] == {rule: 1}


def test_other_units_and_names_are_converted_once(systems, tmp_path):
    text = (
        systems.read_text().replace(":forces:R:3", ":dft_forces:R:3").replace(" energy=", " dft=")
    )
    (tmp_path / "kcal.xyz").write_text(text)
    source = ExtXYZ(
        str(tmp_path / "kcal.xyz"),
        str(tmp_path / "root"),
        val_fraction=0,
        energy_key="dft",
        forces_key="dft_forces",
        energy_unit="kcal/mol",
    )
    structure = source.split("train")[2]
    results = frame(2).calc.results
    assert structure.energy == pytest.approx(results["energy"] * KCAL_PER_MOL, abs=1e-7)
    assert np.allclose(structure.forces, results["forces"] * KCAL_PER_MOL, atol=1e-6)


def test_a_missing_label_is_told_in_one_sentence(tmp_path):
    path = write_frames(tmp_path / "a.xyz", [frame(1, sid=4, labels=False)])
    with pytest.raises(
        DataError, match=r"no energy \(named energy\) and no forces \(named forces\)"
    ) as caught:
        ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0).prepare()
    assert "frame 0 of" in str(caught.value)
    assert "there is fid, sid, tags" in str(caught.value)


def test_frames_with_huge_forces_are_left_out_and_counted(tmp_path):
    path = write_frames(tmp_path / "a.xyz", [frame(1), frame(2, scale=100.0), frame(3)])
    source = ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0)
    assert len(source.split("train")) == 2
    assert source.describe()["filtered"] == {"train": 1}
    assert (
        len(
            ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0, max_force=None).split("train")
        )
        == 3
    )


def nan_energy(text):
    return re.sub(r"energy=\S+", "energy=nan", text, count=1)


def unknown_element(text):
    return text.replace("Cu ", "Qq ", 1)


def short_line(text):
    lines = text.splitlines(keepends=True)
    lines[3] = "Cu 1.0 2.0\n"
    return "".join(lines)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_energy, "energy is nan"),
        (unknown_element, "'Qq' is no element"),
        (short_line, "not a frame of extended XYZ"),
    ],
)
def test_a_bad_frame_is_named_or_skipped(systems, tmp_path, spoil, message, caplog):
    frames = systems.read_text()
    cut = len(frames) // 20 * 10
    cut = frames.index("\n3\n", cut) + 1
    systems.write_text(frames[:cut] + spoil(frames[cut:]))
    number = frames[:cut].count("Lattice")
    arguments = {"path": str(systems), "root": str(tmp_path / "root"), "val_fraction": 0}
    with pytest.raises(DataError, match=message) as caught:
        ExtXYZ(**arguments).prepare()
    assert f"frame {number} of {systems}" in str(caught.value)
    source = ExtXYZ(**arguments, on_error="skip")
    assert len(source.split("train")) == 19
    assert len(source.skipped["train"]) == 1
    assert source.describe()["skipped"] == {"train": 1}
    assert "skipped 1 of 20" in caplog.text
    with pytest.raises(DataError, match=message):
        ExtXYZ(**arguments).split("train")


def test_a_file_cut_off_is_named_or_read_up_to_there(systems, tmp_path):
    text = systems.read_text()
    systems.write_text(text[: text.rindex("\n", 0, len(text) - 150)])
    with pytest.raises(
        DataError, match=r"frame 19 of .* the file ends within this frame of 3 atoms"
    ):
        ExtXYZ(str(systems), str(tmp_path / "root")).prepare()
    packed = tmp_path / "cut.extxyz.xz"
    packed.write_bytes(lzma.compress(text.encode())[:-200])
    with pytest.raises(DataError, match=r"cut off or damaged|ends within"):
        ExtXYZ(str(packed), str(tmp_path / "root")).prepare()
    source = ExtXYZ(str(systems), str(tmp_path / "root"), on_error="skip", val_fraction=0)
    assert len(source.split("train")) == 19


def test_a_file_without_any_usable_frame_is_refused(tmp_path):
    (tmp_path / "a.xyz").write_text("hello\n")
    with pytest.raises(
        DataError, match=r"no usable frame for train.*expected a number of atoms, got 'hello'"
    ):
        ExtXYZ(str(tmp_path / "a.xyz"), str(tmp_path / "root"), on_error="skip").prepare()
    assert not [p for p in (tmp_path / "root").glob("extxyz-*") if not p.suffix]


def test_the_fingerprint_is_that_of_contents_and_reading(systems, tmp_path):
    def print_of(path=systems, **options):
        return ExtXYZ(str(path), str(tmp_path / "root"), **options).fingerprint()

    moved = tmp_path / "moved" / "other.xyz"
    moved.parent.mkdir()
    moved.write_bytes(systems.read_bytes())
    assert print_of() == print_of(moved) == print_of(on_error="skip") == print_of(name="x")
    changed = [
        print_of(val_fraction=0.3),
        print_of(seed=1),
        print_of(max_force=1.0),
        print_of(energy_unit="hartree"),
    ]
    assert len({print_of(), *changed}) == 5
    before = print_of(moved)
    moved.write_text(2 * moved.read_text())
    assert print_of(moved) != before


def test_a_changed_file_of_the_same_size_is_noticed(systems, tmp_path):
    before = ExtXYZ(str(systems), str(tmp_path / "root")).fingerprint()
    text = systems.read_text()
    time = systems.stat().st_mtime_ns
    systems.write_text(text[:-2] + ("1" if text[-2] != "1" else "2") + "\n")
    os.utime(systems, ns=(time + 1000, time + 1000))
    assert ExtXYZ(str(systems), str(tmp_path / "root")).fingerprint() != before


def test_directories_patterns_and_lists_name_files(systems, tmp_path):
    reader = ExtXYZReader("energy", "forces", ())
    (tmp_path / "notes.txt").write_text("no structures")
    assert find(str(tmp_path), reader).files == [systems]
    assert find(str(tmp_path / "*.extxyz"), reader).files == [systems]
    assert find([str(systems), str(systems)], reader).files == [systems, systems]
    with pytest.raises(FileNotFoundError, match=r"no file of structures"):
        find(str(tmp_path / "none*"), reader)
    with pytest.raises(ValueError, match=r"is not .extxyz"):
        find(str(tmp_path / "notes.txt"), reader)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy_unit": "J"}, "energy_unit must be one of eV"),
        ({"split_by": "atom"}, "split_by must be auto, sid, frame, adsorbate, catalyst"),
        ({"val_fraction": 1.0}, "val_fraction must be in"),
        ({"labels": ["stress"]}, "labels may contain energy and forces"),
        ({"path": "/nowhere/*.xyz"}, "no file of structures"),
    ],
)
def test_senseless_options_are_refused(systems, tmp_path, changes, message):
    with pytest.raises(InstantiationException, match=message):
        data_source("extxyz", tmp_path, **{"path": str(systems), **changes})


def test_the_download_layout_of_oc20_is_read(real_data, tmp_path):
    folder = real_data / "oc20_s2ef_layout" / "s2ef_train_demo"
    source = data_source("extxyz", tmp_path, path=str(folder))
    train, val = source.split("train"), source.split("val_id")
    assert len(train) + len(val) == 282
    assert {s.sid for s in all_of(train)}.isdisjoint({s.sid for s in all_of(val)})
    first = StoreDataset(source.directory / "train.lmdb")[0]
    assert (first.sid, first.fid) == (1000100, 0)
    assert first.energy == pytest.approx(-57.74908337 + 60.58567902)
    assert first.tags.tolist().count(2) > 0
    assert np.array_equal(first.fixed, first.tags == 0)


@pytest.mark.parametrize(
    ("file", "frames", "natoms"),
    [
        ("extxyz/dataset_3BPA_train_300K.xyz", 500, 27),
        ("extxyz/dataset_acac_test_MD_300K.xyz", 650, 15),
        ("extxyz/small_aspirin_test.xyz", 7, 21),
    ],
)
def test_public_molecules_are_read(real_data, tmp_path, file, frames, natoms):
    source = data_source("extxyz", tmp_path, path=str(real_data / file), val_fraction=0)
    dataset = source.split("train")
    assert dataset.natoms.tolist() == [natoms] * frames
    assert not dataset[0].pbc.any()


def test_public_energies_in_kcal_are_converted(real_data, tmp_path):
    path = str(real_data / "extxyz" / "ethanol_reduced_100.xyz")
    source = data_source("extxyz", tmp_path, path=path, val_fraction=0, energy_unit="kcal/mol")
    dataset = source.split("train")
    assert len(dataset) == 100
    assert dataset[0].energy == pytest.approx(-97079.92222178938 * KCAL_PER_MOL)


def test_isolated_atoms_have_no_forces_and_the_error_says_so(real_data, tmp_path):
    path = str(real_data / "extxyz" / "dataset_3BPA_iso_atoms.xyz")
    with pytest.raises(DataError, match=r"carries no forces \(named forces\); there is energy"):
        data_source("extxyz", tmp_path, path=path, val_fraction=0).prepare()
    assert len(
        data_source("extxyz", tmp_path, path=path, val_fraction=0, labels=["energy"]).split("train")
    )


def test_initial_structures_of_is2re_are_read_with_their_fixed_atoms(real_data, tmp_path):
    source = data_source(
        "extxyz", tmp_path, path=str(real_data / "misc" / "oc20_is2re.extxyz"), val_fraction=0
    )
    dataset = source.split("train")
    assert len(dataset) == 39
    assert dataset[0].sid == 1000100
    assert dataset[0].fixed.any()


def test_ase_trajectories_are_read(real_data, tmp_path):
    source = data_source("extxyz", tmp_path, path=str(real_data / "oc20_traj"), val_fraction=0)
    frames = all_of(source.split("train"))
    assert len(frames) == 405
    assert {s.sid for s in frames} == set(range(6))
    assert list(source.describe()["tags"]["train"]) == [TAGS_DERIVED]
    with_forces_on_fixed = [np.abs(s.forces[s.fixed]).max() for s in frames if s.fixed.any()]
    assert min(with_forces_on_fixed) > 0


@pytest.mark.parametrize("energy", ["abc", '"1 2 3"'])
def test_an_energy_that_is_no_number_is_told_with_file_and_frame(tmp_path, energy):
    text = text_of(frame(0))
    path = write_text(tmp_path, text + re.sub(r"energy=\S+", f"energy={energy}", text))
    faults = [one.fault for one in FILES.frames(path, 0, 0, None)]
    assert faults[0] == ""
    assert faults[1]


def test_a_number_of_atoms_that_lies_ends_at_the_end_of_the_file(tmp_path):
    path = write_text(tmp_path, text_of(frame(0)) + f"{10**30}\nabc\n")
    faults = [one.fault for one in FILES.frames(path, 0, 0, None)]
    assert "the file ends within this frame" in faults[1]


FILES = ExtXYZReader("energy", "forces", ("energy", "forces"))


def write_text(folder, text):
    path = folder / "odd.extxyz"
    path.write_text(text)
    return path


def test_how_files_are_read_is_hashed_as_ever():
    """Runs on files of one's own are found by this text."""
    assert json.dumps(FILES.settings()) == (
        '{"reader": "ExtXYZReader", "version": 2, "energy_key": "energy", "forces_key": "forces", '
        '"scale": 1.0, "labels": ["energy", "forces"]}'
    )
