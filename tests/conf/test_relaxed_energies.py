"""Whose energies the data have: task=is2re takes none of which nothing says so."""

import pytest

from atomsweep.build import UserError
from atomsweep.cli.data import main
from atomsweep.launch.preflight import preflight
from tests.conf.test_options import DATA_FILES, IS2RE, config
from tests.conftest import data_source
from tests.contracts.compose import compose

SAID = "data.relaxed_energy=true"


def words(option, folder, *more):
    return [f"data={option}", f"data.path={DATA_FILES[option](folder)}", *more]


def test_energies_of_unknown_structures_are_taken_where_that_is_said(tmp_path):
    data = words("extxyz", tmp_path)
    sentence = f"nothing tells whose energies extxyz has; set {SAID} if they are those of the rel"
    with pytest.raises(UserError, match=sentence) as error:
        preflight(config(*data, *IS2RE))
    assert "\n" not in str(error.value)
    assert preflight(config(*data, *IS2RE, SAID)) > 0
    frames = ["task=s2ef", "model=schnet"]
    assert preflight(config(*data, *frames)) > 0
    with pytest.raises(UserError, match="that of the relaxed one; choose task=is2re"):
        preflight(config(*data, *frames, SAID))


@pytest.mark.parametrize("option", ["extxyz", "store", "ase_db", "flat_npz"])
def test_files_that_say_nothing_have_the_option(option, tmp_path):
    path = str(DATA_FILES[option](tmp_path))
    assert compose([f"data={option}", f"data.path={path}"]).data.relaxed_energy is None
    for said in (None, True, False):
        source = data_source(option, tmp_path, path=path, relaxed_energy=said)
        assert source.relaxed_energy is said


def test_energies_of_frames_are_refused(tmp_path):
    with pytest.raises(UserError, match="has frames with their own energies; choose data="):
        preflight(config(*words("oc20_s2ef", tmp_path), *IS2RE))
    for option, own in (("oc20_s2ef", "frames themselves"), ("oc20_is2re", "relaxed structures")):
        place = tmp_path / option
        place.mkdir()
        path = str(DATA_FILES[option](place))
        with pytest.raises(Exception, match=f"energies of {option} are those of the {own}"):
            data_source(option, tmp_path, path=path, relaxed_energy=option == "oc20_s2ef")


@pytest.mark.parametrize("option", ["oc20_is2re", "oc20_s2ef"])
def test_a_native_store_knows_what_its_files_said(option, tmp_path):
    labels = ["--labels", "energy"] if option == "oc20_is2re" else []
    out = tmp_path / "native.lmdb"
    assert main(["convert", str(DATA_FILES[option](tmp_path)), str(out), *labels]) == 0
    data = ["data=store", f"data.path={out}"]
    if option == "oc20_is2re":
        assert preflight(config(*data, *IS2RE)) > 0
    else:
        with pytest.raises(UserError, match="has frames with their own energies"):
            preflight(config(*data, *IS2RE))
