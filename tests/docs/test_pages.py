"""What the documents say exists: their commands compose, their links and make targets are there."""

import re
import shlex
from functools import cache
from itertools import product

import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hydra.core.override_parser.overrides_parser import OverridesParser

from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from atomsweep.launch.typed import checked, vocabulary
from tests.contracts.compose import compose_with_choices
from tests.places import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINES = [(page, line) for page in PAGES for line in page.read_text().splitlines()]
RUNS = sorted(
    {
        line.partition("#")[0].strip()
        for _, line in LINES
        if line.startswith("    python run.py") and "http://" not in line and "<" not in line
    }
)
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def values_of(override):
    """Of a swept override; one seed is built like another."""
    values = list(override.sweep_string_iterator())
    return values[:1] if override.get_key_element() == "seed" else values


def cells(arguments):
    """Overrides of every cell that a command stands for."""
    parsed = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
    axes = [
        [f"{o.get_key_element()}={value}" for value in values_of(o)]
        if o.is_sweep_override()
        else [o.input_line]
        for o in parsed
    ]
    return [list(cell) for cell in product(*axes)]


def test_the_documents_have_commands():
    assert len(RUNS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_every_run_command_composes_and_builds(command, tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=[[0.0] * 3] * 3)
    for number, name in enumerate(("path", "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")):
        atoms.positions[0] += 0.01 * number
        write(tmp_path / f"{name}.extxyz", atoms)
    words = shlex.split(command)[2:]
    multirun = "-m" in words
    typed = [word for word in words if word != "-m"]
    assert checked(typed, vocabulary(), multirun) == typed
    for overrides in cells(words):
        real = [
            re.sub(r"^(data\.(\w+))=.*(xyz\"?|/)$", rf"\1={tmp_path}/\2.extxyz", o)
            for o in overrides
        ]
        builds(tuple(real))


@cache  # pages show the same cells again and again
def builds(overrides):
    assert preflight(cell_of(*compose_with_choices(list(overrides)), overrides).config) >= 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_make_target_that_is_named_exists():
    named = {name for _, line in LINES for name in re.findall(r"`make ([a-z-]+)", line)}
    named |= {line.split()[1] for _, line in LINES if line.startswith("    make ")}
    assert {"sweep", "test"} <= named
    assert named <= TARGETS


def test_the_readme_lists_every_choice():
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", (REPOSITORY / "README.md").read_text(), re.M)
    )
    groups = ("model", "basis", "act", "augmentation", "task", "dens", "data", "optim", "tracking")
    for group in groups:
        options = {path.stem for path in (REPOSITORY / "conf" / group).glob("*.yaml")} - {"none"}
        missing = {option for option in options if f"`{option}`" not in rows[group]}
        assert not missing, (group, missing)
