"""What a class states is read from its source: as importing it would tell, without torch."""

import subprocess
import sys

import pytest

from atomsweep.build import PLUGINS, UserError
from atomsweep.stated import stated, targets

MODELS = """
from atomsweep.models.gns import GNS as Base
from atomsweep.tasks import s2f
from .inner import Inner as Again

class Forces(Base): pass
class Energy(Forces):
    predicts_energy: bool = True
class Unclear(Forces):
    predicts_energy = not False
class Stranger(s2f.S2F): pass
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    package = tmp_path / "my_parts"
    package.mkdir()
    (package / "__init__.py").write_text(MODELS + "raise RuntimeError('imported')\n")
    (package / "inner.py").write_text("from . import Energy\nclass Inner(Energy): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PLUGINS, "my_parts")


def test_classes_of_ours_state_what_importing_them_tells():
    from atomsweep.models.gns import GNS
    from atomsweep.models.schnet import SchNet
    from atomsweep.tasks.is2re import IS2RE

    for found, name in ((GNS, "predicts_energy"), (SchNet, "predicts_energy"), (IS2RE, "labels")):
        node = {"_target_": f"{found.__module__}.{found.__name__}"}
        assert stated(node, name) == getattr(found, name)


def test_a_statement_is_inherited_through_imports_and_nothing_is_imported(plugin):
    told = {
        name: stated({"_target_": f"my_parts.{name}"}, "predicts_energy")
        for name in ("Forces", "Energy", "Again", "Stranger", "Missing")
    }
    assert told == {
        "Forces": False,
        "Energy": True,
        "Again": True,
        "Stranger": None,  # a base behind a dot is not followed
        "Missing": None,
    }


def test_what_only_an_import_could_tell_is_refused(plugin):
    told = "Unclear.predicts_energy must be a literal .* got not False"
    with pytest.raises(UserError, match=told):
        stated({"_target_": "my_parts.Unclear"}, "predicts_energy")


def test_a_class_may_be_named_deeper_and_the_outer_one_counts_first():
    reader = {"_target_": "atomsweep.data.formats.flat_npz.FlatNPZReader"}
    source = {"_target_": "atomsweep.data.formats.files.FileSource", "reader": reader}
    assert targets([source]) == [source["_target_"], reader["_target_"]]
    assert stated(source, "own") is True
    reader["_target_"] = "atomsweep.data.formats.ocp_lmdb.S2EF"
    assert not stated(source, "own")
    assert stated({"path": "x"}, "own") is None
    assert stated({"_target_": "torch.nn.ReLU"}, "inplace") is None


def test_a_launch_asks_without_torch():
    code = (
        "import sys; from atomsweep.stated import stated\n"
        "assert stated({'_target_': 'atomsweep.models.gns.GNS'}, 'predicts_energy') is False\n"
        "assert 'torch' not in sys.modules and 'atomsweep.models.gns' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
