"""Values of others' files are what they say, or are refused: no default, no guess."""

import numpy as np
import pytest

from atomsweep.data.structure import DataError
from atomsweep.data.values import directions, flags, integers, number, numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1.5, -1.5),
        (3, 3.0),
        (np.float32(0.25), 0.25),
        (np.array([2.5]), 2.5),
        (np.array(2.5), 2.5),
        ("-1.5e-3", -0.0015),
        ("+.5", 0.5),
        ("7.", 7.0),
    ],
)
def test_a_number_is_read(value, expected):
    assert number("energy", value) == expected


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e400", float("nan")])
def test_what_is_not_finite_is_left_to_the_check_of_the_structure(value):
    assert not np.isfinite(number("energy", value))


@pytest.mark.parametrize(
    "value",
    [
        *("T", "False", "", "None", "nul", "**********", "1_000", "1.0 eV", "1,5", "-1.5D+02"),
        *("1+2j", "0x10", "\u0661", "1.0.0", "--1", "e5", "."),
        *(True, np.bool_(False), None, 1 + 2j, [1.0, 2.0], [], [[1.0], [2.0, 3.0]], {}, object()),
        *(np.array([True]), np.array([1.0, 2.0]), np.array(["a"]), b"1.0", [None], 10**400),
    ],
)
def test_anything_else_is_no_number(value):
    with pytest.raises(DataError, match="energy"):
        number("energy", value)


@pytest.mark.parametrize("value", [["1.0", "T"], [[1.0], [2.0, 3.0]], [True], [1.0, None], [1j]])
def test_a_column_with_one_wrong_value_is_refused(value):
    with pytest.raises(DataError, match=r"forces (must be|is no)"):
        numbers("forces", value)


def test_whole_numbers_are_not_rounded():
    assert integers("tags", ["2", "0"]).tolist() == [2, 0]
    assert integers("tags", np.array([1.0, 2.0])).dtype == np.int64
    for value in (["1.5"], [np.nan], ["inf"], ["T"], [1e300]):
        with pytest.raises(DataError, match="tags must be"):
            integers("tags", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["T", "F", "t", "f"], [True, False, True, False]),
        (["yes", "No", "Y", "n"], [True, False, True, False]),
        ([".TRUE.", ".false.", ".T.", "off"], [True, False, True, False]),
        (["1", "0", "1.0", "0.000"], [True, False, True, False]),
        ([1, 0], [True, False]),
        (np.array([1.0, 0.0]), [True, False]),
        (np.array([[True, False]]), [[True, False]]),
    ],
)
def test_flags_are_read_in_every_spelling(value, expected):
    assert flags("fixed", value).tolist() == expected


@pytest.mark.parametrize("value", [["maybe"], ["2"], [2], [0.5], ["T", "x"], [None], None, ["nan"]])
def test_what_is_no_flag_is_refused(value):
    with pytest.raises(DataError, match="fixed (must be flags|has no value)"):
        flags("fixed", value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        *(("T T F", "TTF"), ("TTF", "TTF"), ("t t f", "TTF"), ("ttf", "TTF"), ("FFF", "FFF")),
        *(("f f f", "FFF"), ("none", "FFF"), ("None", "FFF"), ("yes yes no", "TTF")),
        *((".true. .true. .false.", "TTF"), ("110", "TTF"), ("1 1 0", "TTF"), ("1 0 1", "TFT")),
        *(("T,T,F", "TTF"), ("[T, T, F]", "TTF"), ("(1, 0, 1)", "TFT"), ("yyn", "TTF")),
        *(("_JSON [true, false, true]", "TFT"), ("1.0 1.0 0.0", "TTF"), ("TRUE False tRuE", "TFT")),
        *(("T", "TTT"), ("False", "FFF"), ("0", "FFF"), ("000", "FFF"), ("ON on off", "TTF")),
        *(
            ([True, True, False], "TTF"),
            ([1, 0, 0], "TFF"),
            (True, "TTT"),
            (["T", "T", "F"], "TTF"),
        ),
    ],
)
def test_periodic_directions_are_read_as_they_are_said(said, expected):
    assert "".join("FT"[int(one)] for one in directions(said)) == expected


@pytest.mark.parametrize(
    "said",
    [
        *("", " ", "T T", "T T F F", "TT", "TTFF", "maybe", "2 0 0", "slab", "xy", "T T X", "TTX"),
        *("111000", "nan", "none none none", "T T F = 1", [True, True], [2, 0, 0], ["a", "b", "c"]),
        *("TFT F", "-1 1 1", {}, 7, "T;T;F;"[:4]),
    ],
)
def test_other_words_for_periodic_directions_are_refused(said):
    with pytest.raises(DataError, match="pbc must be three flags"):
        directions(said)
