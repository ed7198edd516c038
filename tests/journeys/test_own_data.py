"""A student with one file of frames: trained, compared and reported without reading a page."""

import re

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from tests.contracts.commands import Place, Started, environment

pytestmark = pytest.mark.slow

SHORT = ["engine.steps=60", "engine.eval_every=30", "tracking=none"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("student")
    images = []
    for seed in range(60):
        atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
        add_adsorbate(atoms, "O", 1.3, "fcc")
        atoms.pbc = [True, True, False]
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        plain = atoms.copy()
        del plain.arrays["tags"]
        plain.calc = SinglePointCalculator(plain, **labels)
        images.append(plain)
    write(path / "my.extxyz", images)
    return Place(path, environment(ATOMSWEEP_DATA=str(path / "datasets")))


def test_one_command_trains_and_one_reports(place):
    code, told = place.run("data=extxyz", "data.path=my.extxyz", *SHORT)
    assert code == 0, told
    assert told.count("is split by frame") == 1
    forces, median = map(
        float, re.findall(r"val_id/forces_mae +(\S+) eV/Å +\(Median (\S+)\)", told)[0]
    )
    assert 0.0 < forces < median
    assert re.search(r"val_id/energy_per_atom_mae +\S+ meV/atom +\(Median \S+\)", told)
    assert "nan" not in told
    assert sorted(run.run["choices"]["model"] for run in place.runs()) == [
        "forcenet_small",
        "median",
    ]

    code, told = place.type("report", "latest")
    assert code == 0, told
    assert "on my.extxyz" in told.splitlines()[0]
    assert "Energy MAE in meV/atom" in told
    (best,) = re.findall(r"Best force MAE on Validation: (\S+) eV/Å", told)
    assert float(best) == pytest.approx(forces, abs=1e-4)
    (shown,) = re.findall(r"^\| Median +\| +(\S+) \| +1.00 × \|$", told, re.MULTILINE)
    assert float(shown) == pytest.approx(median, abs=1e-4)
    assert "Without a number" not in told


def test_models_are_compared_in_one_command_each_with_what_it_needs(place):
    code, told = place.run(
        "-m", "data=extxyz", "data.path=my.extxyz", "model=schnet,forcenet_small", "size=small",
        *SHORT, root="several",
    )  # fmt: skip
    assert code == 0, told
    found = {run.run["choices"]["model"]: run for run in place.runs("several")}
    assert set(found) == {"schnet", "forcenet_small", "median"}
    assert all("val_id/energy_mae" in run.result["metrics"] for run in found.values())
    errors = [run.result["metrics"]["val_id/energy_per_atom_mae"] for run in found.values()]
    assert np.isfinite(errors).all()
    assert "its table: atomsweep report model-" in told


def test_a_model_without_energies_is_refused_with_what_would_do_it(place):
    code, told = place.run("-m", "data=extxyz", "data.path=my.extxyz", "model=schnet,gns")
    assert code == 1
    assert "GNS predicts none" in told
    assert "{model: gns, task: s2f}" in told
    assert told.count("\n") <= 4


def write_named(place, energy, forces):
    """The same frames with labels of these names; None leaves one out. Returns the file's name."""
    images = read(place.path / "my.extxyz", ":")
    for atoms in images:
        told = atoms.calc.results
        atoms.calc = None
        if energy:
            atoms.info[energy] = told["energy"]
        if forces:
            atoms.arrays[forces] = told["forces"]
    name = f"{energy}-{forces}.extxyz"
    write(place.path / name, images)
    return name


@pytest.mark.parametrize(
    ("energy", "forces", "typed"),
    [
        ("DFT_energy", "DFT_forces", "data.energy_key=DFT_energy data.forces_key=DFT_forces"),
        ("REF_energy", None, "data.labels=[energy] data.relaxed_energy=true task=is2re"),
        (None, None, "data.energy_key=<its name> data.forces_key=<its name>"),
    ],
)
def test_labels_of_other_names_are_answered_with_what_to_type(place, energy, forces, typed):
    name = write_named(place, energy, forces)
    code, told = place.run("data=extxyz", f"data.path={name}", *SHORT, root="named")
    assert code == 1
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert typed in error
    assert "frame 0 of " in error


def test_a_file_of_forces_alone_is_learned_as_such(place):
    name = write_named(place, None, "forces")
    code, told = place.run("data=extxyz", f"data.path={name}", *SHORT, "engine.steps=20",
                           "engine.eval_every=10", root="forces")  # fmt: skip
    assert code == 0, told
    assert "val_id/forces_mae" in told
    assert "energy" not in told
    assert {run.run["choices"]["task"] for run in place.runs("forces")} == {"s2f"}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("all.db", "data=ase_db reads it"), ("OUTCAR", "`ase convert OUTCAR frames.extxyz`")],
)
def test_a_file_of_another_kind_is_answered_with_what_reads_it(place, name, remedy):
    (place.path / name).write_text("what a program wrote")
    code, told = place.run("data=extxyz", f"data.path={name}", *SHORT)
    assert code == 1
    assert remedy in told
    assert told.count("error: ") == 1


@pytest.mark.parametrize("root", ["nan", "null"])
def test_a_root_that_is_no_text_is_asked_to_be_quoted(place, root):
    started = Started([str(place.script), f"root={root}"], place.path, place.env)
    told, _ = started.communicate()
    assert started.returncode == 1
    assert f"""quote it: 'root="{root}"'""" in told
    assert "Traceback" not in told
