import importlib
import shutil

import pytest
from omegaconf import OmegaConf

from atomsweep.tracking import code
from atomsweep.tracking.code import changed, code_of
from tests.contracts.compose import compose

LAZY = ("data/generated/mini_oc_build.py", "engine/loop.py")  # imported inside functions


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that a test may edit."""
    copy = tmp_path / "atomsweep"
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    code.hash_of.cache_clear()
    code.imported_by.cache_clear()
    yield copy
    code.hash_of.cache_clear()
    code.imported_by.cache_clear()


def edit(path):
    path.write_text(path.read_text() + "\nEDITED = 1\n")
    code.hash_of.cache_clear()
    code.imported_by.cache_clear()


def config(*overrides):
    groups = ("data", "model", "task", "dens", "augmentation", "optim", "engine")
    found = compose(list(overrides))
    return {
        group: OmegaConf.to_container(found[group], resolve=True)
        for group in groups
        if found[group]
    }


def test_a_run_reaches_its_own_parts_and_no_others():
    forcenet, schnet = code_of(config()), code_of(config("model=schnet"))
    assert {"models/forcenet.py", "nn/basis.py", "nn/elements.csv", "augment.py"} <= set(forcenet)
    assert set(LAZY) <= set(forcenet)
    assert "models/schnet.py" in schnet
    assert "models/schnet.py" not in forcenet
    assert not {p for p in forcenet if p.startswith(("nn/so3", "dens", "tracking", "sweep"))}
    assert {p for p in code_of(config("model=equiformer_l2")) if p.startswith("nn/so3")}


def test_what_reached_modules_hold_of_others_is_reached_too():
    reached = code_of(config("model=equiformer_l2", "task=s2ef", "dens=md17"))
    held = set()
    for path in (p for p in reached if p.endswith(".py")):
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = importlib.import_module(f"atomsweep.{name}")
        held |= {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    files = {m.removeprefix("atomsweep.").replace(".", "/") for m in held if "atomsweep." in m}
    science = {f for f in files if f.split("/")[0] in code.SCIENCE}
    assert len(science) > 20
    assert science <= {p.removesuffix(".py").removesuffix("/__init__") for p in reached}


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("models/forcenet.py", True),
        ("nn/elements.csv", True),
        ("models/schnet.py", False),
        ("launch/plan.py", False),
    ],
)
def test_only_edits_of_what_a_run_reaches_change_it(package, file, stale):
    environment = {"code": [code_of(config())]}
    assert changed(environment) == []
    edit(package / file)
    assert changed(environment) == ([file] if stale else [])


def test_words_change_nothing_and_code_and_imports_do(package):
    file = package / "nn" / "cutoff.py"
    file.write_text(
        '"""What is here."""\n\nfrom atomsweep.nn.mlp import make_mlp, PairLinear\n\n\n'
        'def f(x: int) -> int:  # why\n    """What it does,\n\n    in lines."""\n'
        '    return "#" * x\n'
    )
    before = code.hash_of("nn/cutoff.py")
    code.hash_of.cache_clear()
    file.write_text(
        "# a note\nfrom atomsweep.nn.mlp import (\n    PairLinear,\n    make_mlp,\n)\n\n"
        'def f(x: int) -> int:\n    return "#" * x\n'
    )
    assert code.hash_of("nn/cutoff.py") == before
    code.hash_of.cache_clear()
    text = file.read_text()
    for edited in (text.replace('"#"', '"# "'), text.replace("nn.mlp", "nn.other")):
        code.hash_of.cache_clear()
        file.write_text(edited)
        assert code.hash_of("nn/cutoff.py") != before


def test_a_new_model_changes_no_run_and_a_removed_file_does(package):
    environment = {"code": [code_of(config())]}
    (package / "models" / "mine.py").write_text("import torch\n")
    assert changed(environment) == []
    (package / "nn" / "mlp.py").unlink()
    code.hash_of.cache_clear()
    assert changed(environment) == ["nn/mlp.py"]


def test_one_of_two_codes_is_enough(package):
    first = code_of(config())
    edit(package / "engine" / "loop.py")
    second = code_of(config())
    assert changed({"code": [second]}) == []
    assert changed({"code": [first, second]}) == ["engine/loop.py"]
    assert changed({}) == []


def test_code_of_a_plugin_counts_too(tmp_path, monkeypatch):
    lab = tmp_path / "mylab"
    (lab / "nets").mkdir(parents=True)
    for path, text in {
        "__init__.py": "",
        "nets/__init__.py": "from .parts import Part\n",
        "nets/parts.py": "from atomsweep.nn.bessel import Bessel\n",
        "nets/unused.py": "",
        "net.py": "def make():\n    from mylab.nets import Part\n",
    }.items():
        (lab / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATOMSWEEP_PLUGINS", "mylab")
    reached = code_of({"model": {"_target_": "mylab.net.Net"}})
    mine = {path for path in reached if ":" in path}
    assert mine == {
        f"mylab:{p}" for p in ("__init__.py", "net.py", "nets/__init__.py", "nets/parts.py")
    }
    assert "nn/bessel.py" in reached
    edit(lab / "nets" / "unused.py")
    assert changed({"code": [reached]}) == []
    edit(lab / "nets" / "parts.py")
    assert changed({"code": [reached]}) == ["mylab:nets/parts.py"]
    monkeypatch.delenv("ATOMSWEEP_PLUGINS")
    code.hash_of.cache_clear()
    assert changed({"code": [reached]}) == []  # nothing tells
    code.imported_by.cache_clear()
