"""One rule for what is fixed: an atom that is held in all three directions, by what it may be."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    Hookean,
)

from atomsweep.data.atoms import structure_from_atoms, unkept_constraints
from atomsweep.data.constraints import held_atoms, held_by_flags
from atomsweep.data.structure import DataError

SKEW = np.array([[5.0, 0, 0], [2.0, 4.0, 0], [0, 1.0, 9.0]])


class Foreign:
    """A constraint of somebody else, without a record of itself."""

    index = np.array([0])


@pytest.mark.parametrize(
    ("constraints", "fixed", "unkept"),
    [
        ([FixAtoms([0, 2])], [0, 2], []),
        ([FixAtoms(mask=[True, False, False, True])], [0, 3], []),
        ([FixAtoms([-1])], [3], []),
        ([FixAtoms([])], [], []),
        ([FixCartesian([1, 2])], [1, 2], []),
        ([FixCartesian([1], [True, True, False])], [], ["FixCartesian in one or two directions"]),
        ([FixScaled([3])], [3], []),
        ([FixScaled([3], [True, False, True])], [], ["FixScaled in one or two directions"]),
        (
            [FixCartesian([1], [True, True, False]), FixCartesian([1], [False, False, True])],
            [1],
            [],
        ),
        ([FixAtoms([0]), FixCartesian([0], [True, False, False])], [0], []),
        ([FixedPlane([0], [0, 0, 1])], [], ["FixedPlane in one or two directions"]),
        ([FixedLine([0], [1, 2, 3])], [], ["FixedLine in one or two directions"]),
        ([FixedLine([0], [1, 2, 3]), FixedPlane([0], [1, 2, 3])], [0], []),
        ([FixedPlane([2], axis) for axis in np.eye(3)], [2], []),
        # a plane across c* and two scaled coordinates hold all three; across one of theirs only two
        ([FixScaled([1], [True, True, False]), FixedPlane([1], [0, 0, 1])], [1], []),
        (
            [FixScaled([1], [True, True, False]), FixedLine([1], [0, 1, 9.0])],
            [],
            ["FixScaled in one or two directions", "FixedLine in one or two directions"],
        ),
        ([FixBondLengths([[0, 1]])], [], ["FixBondLengths"]),
        ([FixInternals(bonds=[[1.0, [0, 1]]])], [], ["FixInternals"]),
        ([FixCom(), FixCom(), FixAtoms([1])], [1], ["FixCom"]),
        ([Hookean(0, 1, 5.0, 2.0)], [], ["Hookean"]),
        ([Foreign()], [], ["Foreign"]),
    ],
)
def test_atoms_held_in_all_directions_are_fixed_and_other_constraints_named(
    constraints, fixed, unkept
):
    atoms = Atoms("CuCuCuO", positions=np.eye(4, 3) * 2, cell=SKEW, pbc=True)
    atoms.constraints = constraints
    assert np.flatnonzero(structure_from_atoms(atoms).fixed).tolist() == fixed
    assert unkept_constraints(atoms) == unkept


def test_records_of_earlier_versions_are_read():
    fixed, unkept = held_atoms(
        [
            {"__name__": "ase.constraints.FixAtoms", "indices": [0]},
            {"name": "FixCartesian", "kwargs": {"a": 1, "mask": [True, True, True]}},
            {"name": "FixedPlane", "kwargs": {"a": 2, "direction": [0, 0, 1]}},
            {"name": "FixSomething", "kwargs": {"x": 1}},
        ],
        3,
        np.zeros((3, 3)),
    )
    assert fixed.tolist() == [True, True, False]
    assert unkept == ["FixSomething", "FixedPlane in one or two directions"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "FixAtoms", "kwargs": {"indices": [4]}}, "an atom that is not there, of 4"),
        ({"name": "FixAtoms", "kwargs": {"indices": [0.5]}}, "must be whole numbers"),
        ({"name": "FixAtoms", "kwargs": {"indices": "all"}}, "atoms of FixAtoms must be"),
        ({"name": "FixAtoms", "kwargs": {"indices": [True, False]}}, "2 flags for 4 atoms"),
        ({"name": "FixAtoms", "kwargs": {}}, "atoms of FixAtoms"),
        ({"name": "FixAtoms", "kwargs": 3}, "has no arguments"),
        ({"name": "FixCartesian", "kwargs": {"a": [0], "mask": [1, 1]}}, "three flags, got 2"),
        ({"name": "FixCartesian", "kwargs": {"a": [0], "mask": "x"}}, "mask of FixCartesian"),
        ({"name": "FixedLine", "kwargs": {"indices": [0]}}, "direction of FixedLine has no value"),
        ({"name": "FixedLine", "kwargs": {"indices": [0], "direction": [0, 0, 0]}}, "a vector"),
        ({"kwargs": {}}, "has no name"),
        ({"name": 5}, "has no name"),
    ],
)
def test_a_malformed_constraint_is_refused(record, message):
    with pytest.raises(DataError, match=message):
        held_atoms([record], 4, SKEW)


@pytest.mark.parametrize(
    ("name", "value", "fixed", "partly"),
    [
        ("fixed", ["T", "F"], [True, False], False),
        ("move_mask", ["T", "F"], [False, True], False),
        ("move_mask", [["F"] * 3, ["T"] * 3], [True, False], False),
        ("move_mask", [["F", "F", "T"], ["F"] * 3], [False, True], True),
        ("fixed", [[1, 1, 1], [0, 0, 1]], [True, False], True),
        ("fixed", [["yes"], ["no"]], [True, False], False),
    ],
)
def test_flags_of_one_and_three_columns_fix_alike(name, value, fixed, partly):
    found, unkept = held_by_flags(name, value, 2)
    assert found.tolist() == fixed
    assert bool(unkept) == partly


@pytest.mark.parametrize("value", [["T"], [["T", "F"]] * 2, ["T", "maybe"], [["T"] * 9] * 2])
def test_columns_of_another_shape_are_no_flags_of_atoms(value):
    with pytest.raises(DataError, match="fixed must"):
        held_by_flags("fixed", value, 2)
