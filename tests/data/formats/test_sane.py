"""Files in other units are asked about, of whatever kind, and described for what they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from atomsweep.cli.data import main
from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.describe import describe
from atomsweep.data.formats.extxyz import ExtXYZ, ExtXYZReader
from atomsweep.data.formats.files import FileSource
from atomsweep.data.formats.sane import EnergyGrid, atoms_energy
from atomsweep.data.formats.tallies import Drawn, Range
from atomsweep.data.structure import DataError
from atomsweep.units import BOHR, HARTREE, KCAL_PER_MOL

READER = ExtXYZReader("energy", "forces", ("energy", "forces"))
STIFFNESS = 12.0  # eV/Å²


def dynamics(energy, forces, offset=0.0, number=60):
    """Frames of ethanol on springs that follow one another closely, in the units of a program."""
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    rest = np.array([[1.5 * (i % 3), 1.5 * (i // 3), 0.3 * i] for i in range(9)])
    ways = np.random.default_rng(0).normal(0, 0.05, (3, 9, 3))
    made = []
    for time in range(number):
        moved = sum(w * np.sin(0.1 * (k + 1) * time) for k, w in enumerate(ways))
        labels = {
            "energy": (0.5 * STIFFNESS * float((moved**2).sum()) + offset) / energy,
            "forces": -STIFFNESS * moved / forces,
        }
        atoms = Atoms(numbers, rest + moved)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


ALL_ELECTRONS = -155.0 * HARTREE  # of ethanol
CASES = {
    "eV": (dynamics(1.0, 1.0), None),
    "all electrons in eV": (dynamics(1.0, 1.0, ALL_ELECTRONS), None),
    "kcal/mol": (
        dynamics(KCAL_PER_MOL, KCAL_PER_MOL, ALL_ELECTRONS),
        "data.energy_unit=kcal/mol",
    ),
    "hartree": (dynamics(HARTREE, HARTREE, ALL_ELECTRONS), "data.energy_unit=hartree"),
    "hartree/bohr": (
        dynamics(HARTREE, HARTREE / BOHR, ALL_ELECTRONS),
        "data.energy_unit=hartree data.force_unit=hartree/bohr",
    ),
    "eV, hartree/bohr": (dynamics(1.0, HARTREE / BOHR), "data.force_unit=hartree/bohr"),
    "hartree, eV/A": (
        dynamics(HARTREE, 1.0),
        "data.energy_unit=hartree data.force_unit=eV/A",
    ),
    "eV, kcal/mol/A": (dynamics(1.0, KCAL_PER_MOL), "data.force_unit=kcal/mol/A"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_typed_as_asked_gives_the_same_labels(tmp_path, case):
    frames, typed = CASES[case]
    write(tmp_path / "a.xyz", frames)
    options = {"path": str(tmp_path / "a.xyz"), "root": str(tmp_path / "root")}
    if typed is not None:
        with pytest.raises(DataError, match=rf"a\.xyz.*: .* type {typed}(,|;| )"):
            ExtXYZ(**options).prepare()
        keys = (word.partition("=") for word in typed.split())
        options |= {key.removeprefix("data."): value for key, _, value in keys}
    source = ExtXYZ(**options, val_fraction=0)
    right = dynamics(1.0, 1.0)
    zero = source.split("train")[0].energy - right[0].calc.results["energy"]
    for structure, atoms in zip(source.split("train"), right, strict=True):
        labels = atoms.calc.results
        assert structure.energy - zero == pytest.approx(labels["energy"], abs=1e-6)
        assert np.allclose(structure.forces, labels["forces"], atol=1e-5)


def test_gradients_are_told_and_may_be_kept(tmp_path):
    write(tmp_path / "a.xyz", dynamics(1.0, -1.0))
    options = {"path": str(tmp_path / "a.xyz"), "root": str(tmp_path / "root")}
    with pytest.raises(DataError, match=r"are gradients; reverse .* or data\.force_unit=eV/A"):
        ExtXYZ(**options).prepare()
    ExtXYZ(**options, force_unit="eV/A").prepare()


def test_every_format_asks_and_takes_the_answer(tmp_path):
    frames = dynamics(KCAL_PER_MOL, KCAL_PER_MOL, ALL_ELECTRONS)
    with connect(tmp_path / "a.db") as database:
        for atoms in frames:
            database.write(atoms)
    options = {"path": str(tmp_path / "a.db"), "root": str(tmp_path / "root"), "val_fraction": 0}
    with pytest.raises(DataError, match=r"type data\.energy_unit=kcal/mol, or"):
        FileSource(AseDb(), **options).prepare()
    source = FileSource(AseDb(), energy_unit="kcal/mol", **options)
    assert source.split("train")[3].energy == pytest.approx(
        frames[3].calc.results["energy"] * KCAL_PER_MOL
    )
    assert source.fingerprint() != FileSource(AseDb(), **options).fingerprint()
    with pytest.raises(ValueError, match="energy_unit must be one of eV, kcal/mol"):
        FileSource(AseDb(), energy_unit="kcal", **options)


def test_the_command_asks_in_its_own_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("a.extxyz", CASES["hartree/bohr"][0])
    command = ["convert", "a.extxyz", "a.lmdb", "--workers", "1"]
    for _ in range(2):
        assert main(command) == 1
        asked = "type --energy-unit hartree --force-unit hartree/bohr, or --energy-unit eV if"
        assert asked in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "a.lmdb").exists()
    assert main([*command, "--energy-unit", "hartree", "--force-unit", "hartree/bohr"]) == 0
    assert main(["describe", "a.extxyz"]) == 0
    told = capsys.readouterr().out
    assert "data.energy_unit=hartree data.force_unit=hartree/bohr" in told
    assert main(["describe", "a.lmdb"]) == 0
    assert "what looks odd                    nothing" in capsys.readouterr().out


def test_energies_of_atoms_are_those_of_tables():
    """Hartree-Fock energies of free atoms, hartree."""
    for z, energy in ((6, -37.689), (8, -74.809), (14, -288.854), (29, -1638.96), (47, -5197.7)):
        assert atoms_energy(np.array([z])) == pytest.approx(energy, rel=0.008)


def test_the_nearest_atoms_are_found_across_the_cell(tmp_path):
    cell = np.array([[4.0, 0, 0], [3.9, 1.2, 0], [0, 0, 9.0]])  # skewed: an image at 1.204 Å
    frames = [Atoms("Cu2", [[0, 0, 0], [1, 1, 4.0]], cell=cell, pbc=True) for _ in range(2)]
    frames.append(Atoms("CuO", [[0, 0, 0.1], [0, 0, 8.9]], cell=cell, pbc=True))
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
    write(tmp_path / "a.xyz", frames[:2])
    distance, whose = describe(READER, [tmp_path / "a.xyz"]).distance
    assert distance == pytest.approx(np.hypot(0.1, 1.2))
    assert whose.startswith("atoms 0 (Cu) and an image of it in frame 0")
    write(tmp_path / "a.xyz", frames)
    found = describe(READER, [tmp_path / "a.xyz"])
    assert found.distance[0] == pytest.approx(0.2)
    assert found.distance[1].startswith("atoms 0 (Cu) and 1 (O) in frame 2")
    assert "0.2 Å apart" in found.oddities()[-1]


def test_systems_are_counted_as_a_split_has_them(tmp_path):
    """Two files that begin to count anew hold more systems than there are ids."""
    for name, seed in (("a.xyz", 0), ("b.xyz", 1)):
        rng = np.random.default_rng(seed)
        frames = []
        for sid in range(3):
            atoms = Atoms("CuO", rng.uniform(0, 5, (2, 3)), info={"sid": sid, "fid": 0})
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
            frames.append(atoms)
        write(tmp_path / name, frames)
    rows = dict(describe(READER, [tmp_path / "a.xyz", tmp_path / "b.xyz"]).report())
    source = ExtXYZ(str(tmp_path), str(tmp_path / "root"), val_fraction=0)
    sids = {structure.sid for structure in source.split("train")}
    assert rows["systems"] == str(len(sids)) == "6"
    assert rows["frames that repeat another's ids"] == "3"


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    frames = dynamics(1.0, 1.0, number=20)
    for place in (3, 4, 9):
        frames[place].calc.results["forces"] = frames[place].calc.results["forces"] + 80.0
    for place in (5, 6):
        frames[place].calc.results["forces"][place] = np.nan
    write(tmp_path / "a.xyz", frames)
    found = describe(READER, [tmp_path / "a.xyz"])
    rows = dict(found.report())
    assert rows["frames"] == "18 of 20 that were read"
    assert rows["cannot be used"].splitlines() == [
        "2 (10 %)",
        f"2 (10 %): forces of atom 5 is NaN or Inf, first frame 5 of {tmp_path / 'a.xyz'}",
    ]
    assert rows["|F| > 50 eV/Å, left out"].startswith("3 (15 %)\n3 (15 %): |F| = ")
    assert found.odd.counts.total() == 3


def test_what_is_kept_of_many_numbers_is_a_fair_few():
    drawn, ends = Drawn(most=500), Range()
    values = np.random.default_rng(1).normal(3.0, 2.0, 20_000)
    for place, value in enumerate(values):
        drawn.add(value)
        ends.add(value, str(place))
    assert len(drawn.values) == 500
    assert drawn.values.mean() == pytest.approx(3.0, abs=0.4)
    assert ends.mean == pytest.approx(values.mean())
    assert ends.std == pytest.approx(values.std())
    assert ends.least == (values.min(), str(values.argmin()))
    assert ends.largest == (values.max(), str(values.argmax()))


@pytest.mark.parametrize("unit", [1.0, KCAL_PER_MOL, HARTREE])
def test_energies_that_were_rounded_before_references_were_subtracted_are_told(unit):
    """Steps of float32 near -60 000."""
    rng = np.random.default_rng(3)
    energies = -60_000.0 + rng.normal(0, 0.2, 100)
    for values, step in (
        (energies.astype("f4").astype("f8"), unit * 2.0**-8),
        (energies, 0.0),
        (np.round(energies, 6), 0.0),
    ):
        grid = EnergyGrid()
        for energy in values * unit + 59_999.123 * unit:
            grid.add(SimpleNamespace(energy=float(energy), atomic_numbers=np.array([6, 8, 1])))
        assert grid.step == pytest.approx(step, rel=1e-6)
        assert bool(grid.fault) is bool(step)


def test_rounded_energies_are_told_by_conversion_and_description(tmp_path, caplog):
    frames = dynamics(1.0, 1.0)
    for atoms in frames:
        rounded = np.float32(atoms.calc.results["energy"] - 40_000.0)
        atoms.calc.results["energy"] = float(rounded) + 40_000.0
    write(tmp_path / "a.xyz", frames)
    assert any(
        "rounded to float32" in one for one in describe(READER, [tmp_path / "a.xyz"]).oddities()
    )
