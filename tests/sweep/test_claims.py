"""Claims: what their text means, which cells they compare, and what is wrong in a sentence."""

import pytest

from atomsweep.build import UserError
from atomsweep.sweep.claims import ClaimError, Point, comparisons, parse
from atomsweep.sweep.file import read_sweep

TABLE = [(None, {"basis": b, "act": a}) for b in ("sph", "sine", "none") for a in ("relu", "swish")]
ROWS = [
    ("ForceNet", {"model": "forcenet", "basis": "sph", "lr": "5e-4"}),
    ("GNS", {"model": "gns", "basis": "none", "lr": "0.0005"}),
    ("SchNet", {"model": "schnet", "lr": "0.0001"}),
]


def pairs(text, cells=TABLE):
    told = [" ".join(setting.values()) for _, setting in cells]
    return {(told[i], told[j]) for i, j in comparisons(parse(text), cells)}


def test_two_points_are_compared_at_equal_other_axes():
    expected = {(f"{b} swish", f"{b} relu") for b in ("sph", "sine", "none")}
    assert pairs("act=swish < act=relu for every basis") == expected
    assert pairs("act=swish < act=relu") == expected


def test_every_other_is_each_other_value_and_for_holds_an_axis():
    assert pairs("basis=sph <= every other basis for act=swish") == {
        ("sph swish", "sine swish"), ("sph swish", "none swish")
    }  # fmt: skip
    assert len(pairs("basis=none > every other basis for every act")) == 4


def test_several_axes_make_a_point():
    assert pairs("basis=sph and act=swish < basis=none and act=relu") == {
        ("sph swish", "none relu")
    }
    assert pairs("basis=sph and act=swish < every other basis") == {
        ("sph swish", "sine swish"), ("sph swish", "none swish")
    }  # fmt: skip


def test_single_cells_are_compared_whatever_else_differs():
    assert comparisons(parse("model=forcenet < model=gns"), ROWS) == [(0, 1)]
    assert comparisons(parse('"SchNet" > "GNS"'), ROWS) == [(2, 1)]


def test_labels_of_rows_are_compared_column_by_column():
    cells = [
        (row, {"model": row, "size": size, "data": data})
        for row, size in (("A", "1"), ("B", "2"))
        for data in ("x", "y")
    ]
    assert comparisons(parse('"A" < "B"'), cells) == [(0, 2), (1, 3)]


def test_selectors_and_factors():
    claim = parse("act=swish < 0.95 * act=relu for every basis on val_ood_both")
    assert (claim.factors, claim.split, claim.metric, claim.hours) == (
        (1.0, 0.95), "val_ood_both", None, None
    )  # fmt: skip
    assert parse("a=1 < a=2 on val_id/forces_cos").metric == "forces_cos"
    assert parse("a=1 < a=2 on val_id/forces_cos").split == "val_id"
    assert parse("a=1 < a=2 on rotation/forces_std").metric == "rotation/forces_std"
    assert parse("a=1 < a=2 on forces_cos").metric == "forces_cos"
    assert parse("a=1 < a=2 at equal device-time").hours == 0.0
    assert parse("a=1 < a=2 at 1.5 device-hours on val_id").hours == 1.5
    assert parse('2 * "A b" >= "C"').left == Point({}, "A b")


def test_values_are_compared_as_numbers():
    cells = [(None, {"w": "0.05"}), (None, {"w": "1.0"})]
    assert comparisons(parse("w=5e-2 <= every other w"), cells) == [(0, 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("swish beats relu", "compares two things with one of < <= > >="),
        ("act=swish < act=relu < act=tanh", "compares two things"),
        ("swish < act=relu", "expected axis=value"),
        ("act=swish < every other basis", "needs basis=… on its left"),
        ("act=swish and basis=sph < every other basis", "first on its left"),
        ("act=swish < act=relu for basis", "expected axis=value"),
        ("act=swish < act=relu on val id", "names a split or a metric"),
        ("act=swish < act=relu at noon", "is followed by `equal device-time`"),
        ("act=swish < act=relu on val_id on val_avg", "'on' is said twice"),
        ("colour=red < colour=blue", "colour is no axis of this table; it has basis, act"),
        ("act=tanh < act=relu", "act has no value tanh in this table; it has relu, swish"),
        ('"Wide" < "Deep"', 'no cell is labelled "Wide"; labels are none'),
        ("act=swish < act=relu for every act", "`for every act` cannot be"),
        ("act=swish < act=swish", "compares no two cells"),
    ],
)
def test_what_is_wrong_is_a_sentence(text, told):
    with pytest.raises(ClaimError, match=told.replace("(", r"\(")):
        comparisons(parse(text), TABLE)


def test_a_wrong_claim_is_found_when_its_file_is_read_with_line_and_key(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "title: T\nrows: {act: [relu, swish]}\nclaims:\n  - act=swish < act=relu\n"
        "  - act=swish < act=tanh\n"
    )
    with pytest.raises(UserError, match=r"t\.yaml:5: claims\.1: act has no value tanh"):
        read_sweep(path)


def test_every_other_cell_is_all_of_the_table_whatever_differs():
    assert pairs("basis=sph and act=swish <= every other cell") == {
        ("sph swish", " ".join(setting.values()))
        for _, setting in TABLE
        if setting != {"basis": "sph", "act": "swish"}
    }
    assert len(pairs("basis=sph <= every other cell")) == 2 * 4
    assert len(pairs("basis=sph and act=swish <= every other cell for act=swish")) == 2


def test_a_gap_is_between_two_splits():
    claim = parse("a=1 < a=2 on val_ood_both minus val_id")
    assert (claim.split, claim.metric, claim.minus) == ("val_ood_both", None, "val_id")
    claim = parse("a=1 < a=2 on val_ood_both/energy_mae minus val_id")
    assert (claim.split, claim.metric, claim.minus) == ("val_ood_both", "energy_mae", "val_id")
    for wrong in ("forces_mae minus val_id", "val_id minus forces_mae", "val_id minus val_id"):
        with pytest.raises(ClaimError, match="a gap is between two splits"):
            parse(f"a=1 < a=2 on {wrong}")
    with pytest.raises(ClaimError, match="cannot be taken `at` a time"):
        parse("a=1 < a=2 on val_ood_both minus val_id at equal device-time")
