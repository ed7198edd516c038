"""A frame of extended XYZ is what its text says, or is refused with file and frame."""

import bz2
import gzip
import lzma
import re

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as ase_read
from ase.io import write as ase_write

from atomsweep.cli.data import main
from atomsweep.data.formats.extxyz import ExtXYZ, ExtXYZReader
from atomsweep.data.structure import DataError, structure_fault

LATTICE = 'Lattice="5 0 0 0 6 0 0 0 7"'
COLUMNS = "Properties=species:S:1:pos:R:3:forces:R:3"
ROWS = ["Cu 0 0 0 1 2 3", "O 0 0 2 -1 -2 -3"]
BOTH = ("energy", "forces")


def text(comment="energy=-1.5", columns=COLUMNS, rows=ROWS, lattice=LATTICE):
    return "\n".join([str(len(rows)), f"{lattice} {columns} {comment}", *rows, ""])


def more(column, *values, comment="energy=-1.5"):
    """A frame with one more column."""
    rows = [f"{row} {value}" for row, value in zip(ROWS, values, strict=True)]
    return text(comment, f"{COLUMNS}:{column}", rows)


def read(tmp_path, content, energy_key="energy", forces_key="forces", labels=BOTH):
    """The structure of the frame, or a sentence about it; a good frame stands on either side."""
    path = tmp_path / "a.extxyz"
    good = text(f"{energy_key}=-1.5", COLUMNS.replace("forces", forces_key))
    path.write_text(good + content + good)
    reader = ExtXYZReader(energy_key, forces_key, tuple(labels))
    frames = list(reader.frames(path, 0, 0, None))
    assert len(frames) == 3
    assert frames[0].fault == frames[2].fault == ""
    fault = frames[1].fault or structure_fault(frames[1].structure)
    return fault or frames[1].structure


@pytest.mark.parametrize(
    "said",
    [
        *("energy", "energy=T", "energy=F", "energy=False", "energy=true", "energy=None"),
        *("energy=", 'energy=""', "energy=nan", "energy=inf", "energy=1e400", "energy=**********"),
        *('energy="1 2"', "energy=1_0", "energy=1+2j", "energy=[1.0,2.0]", "energy=1.5eV"),
        *("energy=1,5", "energy=-1.5D+02", 'energy="_JSON [1]"', "energy=0x1p3", "energy=1..2"),
        *(
            "energy=-1.5 energy=-2.5",
            "energy=-1.5 energy",
            "energy==-1.5",
            "energy=-1.5sid=3",
            "energy=-1.5 -2.5",
        ),
    ],
)
@pytest.mark.parametrize("labels", [BOTH, ("forces",)])
def test_a_label_that_is_no_number_is_refused(tmp_path, said, labels):
    assert "energy" in read(tmp_path, text(said), labels=labels)


@pytest.mark.parametrize(
    "said", ["energy=-1.5", "energy = -1.5", 'energy="-1.5"', "energy={-1.5}", "energy=-15e-1"]
)
def test_a_number_is_read_in_every_spelling(tmp_path, said):
    assert read(tmp_path, text(f"{said} sid=4")).energy == -1.5


def test_a_bare_key_is_named_with_file_and_frame(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(text("REF_energy=1.0") + text("REF_energy"))
    with pytest.raises(DataError, match=rf"frame 1 of {path}: REF_energy has no value"):
        ExtXYZ(str(path), str(tmp_path / "r"), energy_key="REF_energy", val_fraction=0).prepare()


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (COLUMNS, ["Cu 0 0 0 1 2 T", ROWS[1]], "forces forces must be a number, got 'T'"),
        (COLUMNS, ["Cu 0 0 0 1 2 nan", ROWS[1]], "forces of atom 0 is NaN"),
        (COLUMNS, ["Cu 0 0 0 1 2 ****", ROWS[1]], "got '\\*\\*\\*\\*'"),
        (COLUMNS, ["Cu 0 0 1_0 1 2 3", ROWS[1]], "pos must be a number, got '1_0'"),
        (COLUMNS, ["Cu 0 0 0 1 2 3 4", ROWS[1]], "line of atom 0 has 8 values, expected 7"),
        (COLUMNS, ["Cu 0 0 0 1 2", ROWS[1]], "line of atom 0 has 6 values, expected 7"),
        (COLUMNS.replace("forces:R:3", "forces:L:3"), ["Cu 0 0 0 T F T"] * 2, "declared as flags"),
        (COLUMNS.replace("forces:R:3", "forces:R:2"), ["Cu 0 0 0 1 2"] * 2, r"shape \(2, 3\)"),
        (COLUMNS.replace("forces:R:3", "forces:R:1"), ["Cu 0 0 0 1"] * 2, r"shape \(2, 3\)"),
        (COLUMNS.replace("pos:R:3", "pos:R:2"), ["Cu 0 0 1 2 3"] * 2, r"pos must have shape"),
        (COLUMNS + ":forces:R:3", ["Cu 0 0 0 1 2 3 4 5 6"] * 2, "forces is given more than once"),
        (COLUMNS.replace("R:3", "R:x"), ROWS, "Properties end in"),
        (COLUMNS + ":tags", ROWS, "Properties end in"),
        (COLUMNS.replace("species", "element"), ROWS, "no column species"),
        (COLUMNS, ["Cu1 0 0 0 1 2 3", ROWS[1]], "'Cu1' is no element"),
        (COLUMNS, ["True 0 0 0 1 2 3", ROWS[1]], "'True' is no element"),
        (COLUMNS, ["0 0 0 0 1 2 3", ROWS[1]], "atomic number 0"),
    ],
)
def test_a_column_that_is_not_what_it_should_be_is_refused(tmp_path, columns, rows, message):
    assert re.search(message, read(tmp_path, text(columns=columns, rows=rows)))


@pytest.mark.parametrize("column", ["tags:I:1", "tags:R:1", "tags:S:1"])
def test_tags_are_whole_numbers(tmp_path, column):
    assert read(tmp_path, more(column, "1", "2")).tags.tolist() == [1, 2]
    for wrong in ("1.5", "surface", "T", "1e3"):
        assert "tags must be" in read(tmp_path, more(column, wrong, "2"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        *(("", "TTT"), ('pbc="T T F"', "TTF"), ("pbc=TTF", "TTF"), ('pbc="t t f"', "TTF")),
        *(("pbc=none", "FFF"), ("pbc=110", "TTF"), ('pbc="1 0 1"', "TFT"), ("pbc=[T,T,F]", "TTF")),
        *(("pbc=[T, T, F]", "TTF"), ("pbc={1 1 0}", "TTF"), ("PBC=FFF", "FFF"), ("pbc=F", "FFF")),
        *(('Pbc = "yes yes no"', "TTF"), ('pbc=".true. .true. .false."', "TTF")),
        *(
            ('pbc="T T F" pbc="T T F"', "TTF"),
            ("pbc='F F F'", "FFF"),
            ("pbc=T T F", "TTF"),
            ("pbc=0 1 0 x=1", "FTF"),
        ),
    ],
)
def test_periodic_directions_are_what_the_line_says(tmp_path, said, expected):
    found = read(tmp_path, text(f"energy=-1.5 {said}"))
    assert "".join("FT"[int(one)] for one in found.pbc) == expected


@pytest.mark.parametrize(
    "said",
    [
        *(
            "pbc",
            "pbc=",
            "pbc=T F",
            "pbc=T T T F",
            'pbc=""',
            "pbc=maybe",
            'pbc="T T"',
            'pbc="2 0 0"',
            "pbc=TTX",
        ),
        *('pbc="T T F" PBC="F F F"', 'pbc="T T F', "pbc=[T, T, F"),
    ],
)
def test_periodic_directions_are_never_guessed(tmp_path, said):
    assert isinstance(read(tmp_path, text(f"energy=-1.5 {said}")), str)


def test_a_frame_without_a_cell_is_not_periodic(tmp_path):
    assert not read(tmp_path, text(lattice="")).pbc.any()
    assert "no volume" in read(tmp_path, text('energy=-1.5 pbc="T T T"', lattice=""))


@pytest.mark.parametrize(
    "lattice",
    [
        *("Lattice", "Lattice=None", 'Lattice="5 0 0"', 'Lattice="5 0 0 0 6 0 0 0 T"'),
        *('Lattice="5 0 0 0 6 0 0 0 nan"', 'Lattice="5 0 0 0 6 0 0 0 7', f"{LATTICE} lattice=1"),
    ],
)
def test_a_cell_that_is_no_cell_is_refused(tmp_path, lattice):
    assert isinstance(read(tmp_path, text(lattice=lattice)), str)


@pytest.mark.parametrize(
    ("column", "held", "free"),
    [
        *(("fixed:L:1", "T", "F"), ("fixed:S:1", "yes", "no"), ("fixed:I:1", "1", "0")),
        *(("fixed:R:1", "1.0", "0.0"), ("fixed:S:1", "t", "f"), ("fixed:L:3", "T T T", "F F F")),
        *(("move_mask:L:1", "F", "T"), ("move_mask:S:1", "f", "t"), ("move_mask:I:1", "0", "1")),
        *(("move_mask:L:3", "F F F", "T T T"), ("move_mask:I:3", "0 0 0", "1 1 1")),
        *(("move_mask:S:3", "no no no", "yes yes yes"), ("move_mask:L:3", "F F F", "T F T")),
        *(("move_mask:S:1", ".false.", ".true."), ("fixed:I:3", "1 1 1", "0 1 0")),
    ],
)
def test_flags_of_fixed_atoms_are_read_in_every_spelling(tmp_path, column, held, free):
    found = read(tmp_path, more(column, held, free))
    assert found.fixed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        *(("fixed:S:1", ("maybe", "T")), ("fixed:I:1", ("2", "0")), ("fixed:R:1", ("0.5", "0"))),
        *(("move_mask:L:2", ("T T", "F F")), ("move_mask:I:1", ("-1", "1"))),
        *(("fixed:S:1", ("None", "T")), ("move_mask:R:3", ("1.5 0 0", "1 1 1"))),
        ("fixed:L:1:move_mask:L:1", ("T T", "F F")),
    ],
)
def test_a_column_that_is_no_flag_is_refused(tmp_path, column, values):
    assert "fix" in read(tmp_path, more(column, *values)) or "move_mask" in read(
        tmp_path, more(column, *values)
    )


@pytest.mark.parametrize(
    "field",
    [
        *("stress=None", "stress=0.1", 'stress="0.1 0.1 0.1 0 0 0"', "stress", 'virial="1 2"'),
        *("stress=[[1, 2, 3], [4, 5, 6], [7, 8, 9]]", "dipole=None", 'dipole="None None None"'),
        *("magmom=abc", "charge=T", "free_energy=None", "config_type=don't", "author=O'Brien"),
        *('note="a = b"', 'meta={"a": {"b": 1}}', 'json="_JSON {\\"a\\": [1"', "==3", "x=y=z"),
        *("energies=abc", "relaxed", 'name="M\u00fcller \u03b1"', "uid=12e3", "cutoff=-1. a-b=c"),
        *("stress='a b'", "hessian={1 2}", 'path="C:\\\\new folder\\\\x"', "title=[draft]"),
    ],
)
def test_fields_that_nobody_reads_do_not_matter(tmp_path, field):
    for comment in (f"{field} energy=-1.5", f"energy=-1.5 {field}"):
        found = read(tmp_path, text(comment))
        assert found.energy == -1.5
        assert found.forces.tolist() == [[1, 2, 3], [-1, -2, -3]]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        *(("mtt::x:R:1", ("0.0", "1.0")), ("stress:R:9", ("1 " * 9,) * 2)),
        *(("energies:R:1", ("nan", "abc")), ("magmoms:S:1", ("None", "****"))),
        *(("a:b:c:L:2", ("T maybe", "F 5")), ("label:S:1", ("Cu", "Z"))),
    ],
)
def test_columns_that_nobody_reads_do_not_matter(tmp_path, column, values):
    assert read(tmp_path, more(column, *values)).energy == -1.5


def test_names_with_colons_and_free_energy_can_be_keys(tmp_path):
    content = text("free_energy=-2.5 energy=-1.5", COLUMNS.replace("forces", "mtt::f"))
    found = read(tmp_path, content, "free_energy", "mtt::f")
    assert (found.energy, found.forces[0].tolist()) == (-2.5, [1, 2, 3])


@pytest.mark.parametrize("comment", ['author="M energy=-1.5', "energy=-1.5 note='it is"])
def test_a_quote_that_is_not_closed_is_refused(tmp_path, comment):
    assert "is not closed" in read(tmp_path, text(comment))


def test_plain_xyz_with_words_and_more_columns_is_read(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\ndon't panic, energy unknown\n29 0 0 0 0.5\nO 0 0 2 0.5\n")
    frame = next(ExtXYZReader("energy", "forces", ()).frames(path, 0, 0, None))
    assert frame.structure.atomic_numbers.tolist() == [29, 8]
    assert frame.structure.energy is None


def test_text_is_read_as_ase_reads_it_where_ase_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for number in range(12):
        atoms = Atoms("CuOH", positions=rng.normal(size=(3, 3)), cell=rng.normal(size=(3, 3)) * 9)
        atoms.pbc = rng.integers(2, size=3)
        atoms.info = {
            **{"a b": 1.5, "quote": 'say "x" = 3', "list": [1, 2], "none": None, "flag": True},
            **{"text": "T T", "matrix": np.eye(3), "nested": {"k": [1, {"z": "}"}]}, "n": number},
            "back": "a\\b c",
        }
        atoms.arrays["own"] = rng.normal(size=(3, 2))
        frames.append(atoms)
    path = tmp_path / "a.extxyz"
    ase_write(path, frames)
    reader = ExtXYZReader("n", "forces", ("energy",))
    found = list(reader.frames(path, 0, 0, None))
    for frame, atoms in zip(found, ase_read(path, ":"), strict=True):
        assert frame.fault == ""
        assert np.array_equal(frame.structure.pos, atoms.positions)
        assert np.array_equal(frame.structure.cell, atoms.cell.array)
        assert np.array_equal(frame.structure.pbc, atoms.pbc)
        assert frame.structure.energy == atoms.info["n"]


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.extxyz", lambda content: b"\xef\xbb\xbf" + content),
        ("a.extxyz", lambda content: content.replace(b"\n", b"\r\n")),
        *((name, gzip.compress) for name in ("a.extxyz", "a.extxyz.gz", "a.xyz.xz")),
        *((name, lzma.compress) for name in ("a.extxyz", "a.extxyz.bz2")),
        ("a.extxyz", bz2.compress),
        ("a.extxyz.gz", lambda content: content),
        ("a.extxyz", lambda content: gzip.compress(b"\xef\xbb\xbf" + content)),
    ],
)
def test_marks_and_compression_are_told_by_content(tmp_path, name, encode):
    (tmp_path / name).write_bytes(encode(text().encode()))
    frames = list(ExtXYZReader("energy", "forces", BOTH).frames(tmp_path / name, 0, 0, None))
    assert [frame.fault for frame in frames] == [""]
    assert frames[0].structure.energy == -1.5


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda t: t.encode("utf-16"), "the file is UTF-16 text, expected UTF-8"),
        (lambda t: t.encode("utf-16-le"), "the file is UTF-16LE text"),
        (lambda t: t.encode("utf-16-be"), "the file is UTF-16BE text"),
        (lambda t: t.encode("utf-32-le"), "the file is UTF-32LE text.*-f UTF-32LE"),
        (lambda t: t.encode("utf-32-be"), "the file is UTF-32BE text"),
        (lambda t: t.encode("utf-32"), "the file is UTF-32 text"),
        (lambda t: t.encode("latin-1"), "not UTF-8 text: it holds the byte 0xfc, as Latin-1"),
        (lambda t: b"\x28\xb5\x2f\xfd" + t.encode(), "compressed by zstd"),
        (lambda t: b"PK\x03\x04" + t.encode(), "compressed by zip"),
        (lambda t: gzip.compress(t.encode() * 9)[:-20], "cut off or damaged"),
        (lambda t: gzip.compress(t.encode())[:-8] + b"\0" * 8, "cut off or damaged"),
        (lambda t: b"\x1f\x8b" + b"\xff" * 50, "cut off or damaged"),
        (lambda t: b"BZh9" + b"\0" * 50, "cut off or damaged"),
        (lambda t: lzma.compress(t.encode())[:-20], "cut off or damaged"),
        (lambda t: t.encode() + b"\x00\x01\x02\n", "expected a number of atoms"),
    ],
)
def test_other_encodings_and_damage_are_named(tmp_path, encode, message):
    path = tmp_path / "a.extxyz"
    path.write_bytes(encode(text('energy=-1.5 author="M\u00fcller"')))
    for on_error in ("raise", "skip"):
        assert re.search(f"frame . of {path}: .*{message}", told(path, tmp_path / "r", on_error))


def told(path, root, on_error):
    """What a user is told of a file that cannot be read."""
    source = ExtXYZ(str(path), str(root), on_error=on_error, val_fraction=0)
    try:
        source.prepare(progress=False)
    except DataError as error:
        return str(error)
    return " ".join(source.skipped["train"])  # some frames before the damage could be read


def test_only_the_frame_with_a_foreign_letter_is_refused(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_bytes(text().encode() + text('energy=-1.5 a="\u00fc"').encode("latin-1") * 2)
    reader = ExtXYZReader("energy", "forces", BOTH)
    assert [bool(one.fault) for one in reader.frames(path, 0, 0, None)] == [False, True, True]


def test_a_note_beside_frames_is_no_sidecar(tmp_path):
    path = tmp_path / "frames.extxyz"
    path.write_text(text() + text())
    reader = ExtXYZReader("energy", "forces", BOTH)
    note = tmp_path / "frames.txt"
    for words in ("PBE, 400 eV, k 4x4x1. Ask me.\n", "1, 2, 3 and more\n", "\xfc\n", "a,b,c\n" * 9):
        note.write_bytes(words.encode("latin-1"))
        assert reader.beside(path) == []
        assert [one.structure.energy for one in reader.frames(path, 0, 0, None)] == [-1.5, -1.5]
    note.write_text("")
    with pytest.raises(DataError, match=r"frames.txt is empty; it may be the sidecar"):
        list(reader.frames(path, 0, 0, None))
    for words in ("random1,frame0,-1\nrandom1,frame1,x\n", "garbage\nrandom1,frame1,-2\n"):
        note.write_text(words)
        with pytest.raises(DataError, match=r"frames.txt, line \d: expected random<sid>"):
            list(reader.frames(path, 0, 0, None))
    note.write_text("random1,frame0,-1\nrandom1,frame1,-2\n")
    assert reader.beside(path) == [note]
    assert [one.structure.energy for one in reader.frames(path, 0, 0, None)] == [-0.5, 0.5]


def test_files_without_a_usable_frame_are_described_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.extxyz"
    path.write_text(text("dft=-1.5") * 12)
    for command in (["describe", str(path)], ["convert", str(path), "out.lmdb"]):
        assert main(command) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert f"frame 0 of {path}: it carries no energy (named energy); there is dft" in error
    assert main(["describe", str(path), "--energy-key", "dft"]) == 0
    assert "mean -1.5000" in capsys.readouterr().out
    assert main(["convert", str(path), "out.lmdb", "--energy-key", "dft", "--workers", "1"]) == 0
