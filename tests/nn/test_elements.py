import numpy as np
import pytest
import torch
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from atomsweep.nn.elements import (
    PROPERTIES,
    _rows,
    atomic_radii,
    element_names,
    element_properties,
    elements_without_properties,
    elements_without_radius,
)

# Of two kinds of carbon, manganese, iron and cobalt the table has the smaller one, ASE another.
OTHER_SPIN_OR_BOND = {"C", "Mn", "Fe", "Co"}


def test_covalent_radii_are_those_of_cordero_as_ase_has_them():
    for number, row in _rows().items():
        if row["symbol"] not in OTHER_SPIN_OR_BOND:
            assert float(row["covalent_radius_pm"]) / 100 == pytest.approx(covalent_radii[number])


def test_symbols_belong_to_their_atomic_numbers():
    assert {number: row["symbol"] for number, row in _rows().items()} == {
        number: chemical_symbols[number] for number in _rows()
    }


def test_periods_and_groups_follow_the_periodic_table():
    noble = [0, 2, 10, 18, 36, 54, 86, 118]
    for number, row in _rows().items():
        period = next(k for k, last in enumerate(noble) if number <= last)
        assert int(row["period"]) == period
    for symbol, group in {"H": 1, "Mg": 2, "Fe": 8, "Cu": 11, "C": 14, "O": 16, "Xe": 18}.items():
        assert int(_rows()[atomic_numbers[symbol]]["group"]) == group


def test_properties_are_scaled_by_the_extremes_over_the_table():
    table = element_properties()
    known = sorted(_rows())
    assert table.shape == (119, 9)
    np.testing.assert_allclose(table[known].amin(dim=0), 0, atol=1e-7)
    np.testing.assert_allclose(table[known].amax(dim=0), 1, atol=1e-7)
    copper = dict(zip(PROPERTIES, table[29].tolist(), strict=True))
    assert copper["group"] == pytest.approx((11 - 1) / 17)
    assert copper["period"] == pytest.approx((4 - 1) / 6)
    assert copper["electronegativity"] == pytest.approx((0.917554 - 0.048868) / 2.138903)
    assert copper["electron_affinity"] == pytest.approx((1.235 + 19.7) / (3.612725 + 19.7))
    assert copper["atomic_volume"] == pytest.approx((7.1 - 4.6) / (70 - 4.6))


def test_elements_without_data_are_known_and_are_the_only_ones():
    missing = {0, 85, 87, *range(97, 119)}
    assert elements_without_properties() == missing
    assert elements_without_radius() == missing | {36, 54, 86, 96}
    absent = element_properties().isnan().any(dim=1)
    assert set(torch.nonzero(absent).flatten().tolist()) == missing
    no_radius = torch.nonzero(atomic_radii().isnan()).flatten().tolist()
    assert set(no_radius) == elements_without_radius()


def test_radii_are_in_angstrom():
    radii = atomic_radii()
    assert radii[1] == pytest.approx(0.25)
    assert radii[79] == pytest.approx(1.35)


def test_elements_are_named_with_their_numbers():
    assert element_names({85, 36}) == "Kr (Z=36), Z=85"
