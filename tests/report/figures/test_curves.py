import math
import re

import pandas as pd
import pytest
from matplotlib.figure import Figure

from atomsweep.report.figures.curves import draw, spread
from atomsweep.report.figures.files import inline, save
from atomsweep.report.figures.style import SERIES, make_room
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.curves import MOST_OF_ROW, left_out, series

AXES = ["choice.basis", "choice.act"]


@pytest.fixture
def points(table5):
    runs = read_directories(table5.path)
    frame = runs.sweep("latest")
    logged = runs.curves(frame, ["val_id/forces_mae"])
    return series(logged, frame, AXES, "forcenet.table5")


def test_lines_of_one_basis_share_a_hue_and_of_one_act_a_dash(points):
    styles = points.groupby("label")[["hue", "dash"]].first()
    assert styles.loc["Spherical, Swish", "hue"] == styles.loc["Spherical, ReLU", "hue"]
    assert styles.loc["Spherical, Swish", "dash"] == styles.loc["Sine, Swish", "dash"]
    assert styles.drop_duplicates().shape[0] == 4


def test_series_are_the_logged_points_in_time_order(points):
    line = points[points["label"] == "Sine, ReLU"]
    assert line["device_seconds"].tolist() == [10.0 * i for i in range(9)]
    assert line["value"].iloc[-1] == pytest.approx(0.052)


def test_a_run_with_one_point_or_only_nan_has_no_line(table5):
    runs = read_directories(table5.path)
    frame = runs.sweep("latest")
    logged = pd.DataFrame(
        {
            "identity": ["0" * 12, "000000000001", "000000000001"],
            "device_seconds": [1.0, 1.0, 2.0],
            "value": [0.1, 0.1, math.nan],
        }
    )
    assert series(logged, frame, AXES).empty


def test_a_figure_names_its_lines_axes_and_units(points):
    figure = draw(points, "val_id/forces_mae", "cpu (Example 9000)", 0.1)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {
        "Spherical, ReLU", "Spherical, Swish", "Sine, ReLU", "Sine, Swish", "Median"
    }  # fmt: skip
    assert axes.get_xlabel() == "training time, CPU seconds"
    assert axes.get_title("left") == "Force MAE on ID, eV/Å"
    assert axes.get_xscale() == "linear"


def test_of_many_seeds_a_few_are_drawn_and_that_is_told(root):
    for seed in range(8):
        root.run(f"{seed:012x}", seed=seed)
    runs = read_directories(root.path)
    points = series(runs.curves(), runs.frame, AXES)
    assert points["identity"].nunique() == 8
    lines = draw(points, "val_id/forces_mae", "cpu").axes[0].lines
    assert len([line for line in lines if len(line.get_xdata()) > 1]) == MOST_OF_ROW
    assert left_out(points) == " Of rows with more than 5 runs the first 5 are drawn."
    assert left_out(points[points["rank"] < 5]) == ""


@pytest.mark.parametrize(
    ("device", "scale", "label"),
    [
        ("NVIDIA H200", 60.0, "training time, GPU-minutes"),
        ("NVIDIA H200", 86400.0, "training time, GPU-days"),
        ("abacus", 3600.0, "training time, device-hours"),
    ],
)
def test_time_has_the_unit_of_its_device_and_length(points, device, scale, label):
    longer = points.assign(device_seconds=points["device_seconds"] / 10 * scale)
    assert draw(longer, "val_id/forces_mae", device).axes[0].get_xlabel() == label


def test_time_over_decades_is_logarithmic(points):
    wide = points.assign(device_seconds=10 ** (points["device_seconds"] / 20))
    figure = draw(wide, "val_id/forces_mae", "cpu")
    assert figure.axes[0].get_xscale() == "log"


def test_an_untrained_start_does_not_press_the_rest_against_the_bottom(points):
    wild = points.copy()
    wild.loc[wild["device_seconds"] == 0, "value"] = 5.0
    bottom, top = draw(wild, "val_id/forces_mae", "cpu", 0.1).axes[0].get_ylim()
    assert top == pytest.approx(0.14)
    assert bottom < wild["value"].min()
    assert draw(points, "val_id/forces_mae", "cpu", 0.1).axes[0].get_ylim()[1] < 0.12


def test_a_drawing_is_the_same_each_time(points, tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figure = draw(points, "val_id/forces_mae", "cpu", 0.1)
        files = save(figure, tmp_path / name / "curves")
        written.append({file.name: file.read_bytes() for file in files})
    assert set(written[0]) == {"curves.svg", "curves.pdf", "curves.png"}
    assert written[0] == written[1]


def test_an_inline_drawing_has_its_own_ids_and_the_pages_colours(points):
    figure = draw(points, "val_id/forces_mae", "cpu", 0.1)
    svg = inline(figure, "first", "Force MAE <1>")
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(name.startswith("first-") for name in ids)
    assert len(set(ids)) == len(ids)
    used = re.findall(r'(?:href="|url\()#([^")]*)', svg)
    assert used
    assert set(used) <= set(ids)
    assert "http" not in svg
    assert "<style" not in svg
    assert "#" + SERIES[0][1:] not in svg
    assert "var(--series-2)" in svg
    assert "Force MAE &lt;1>" in svg


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.50, 0.52, 0.54], [0.42, 0.52, 0.62]),
        ([0.1, 0.45, 0.5, 0.56], [0.1, 0.403333, 0.503333, 0.603333]),
        ([], []),
    ],
)
def test_names_move_apart_around_where_they_belong(wanted, placed):
    assert spread(wanted, 0.1) == pytest.approx(placed, abs=1e-6)


def test_a_figure_is_as_wide_as_its_longest_name_asks():
    figure = Figure(figsize=(4.9, 3.3))
    axes = figure.add_axes((0.1, 0.1, 0.5, 0.8))
    other = figure.add_axes((0.8, 0.1, 0.15, 0.8))
    make_room(figure, axes, ["short"], 8.5)
    assert figure.get_size_inches()[0] == pytest.approx(4.9)
    make_room(figure, axes, ["Equiformer + DeNS, Malonaldehyde, 100"], 8.5)
    width = figure.get_size_inches()[0]
    assert 5.5 < width < 9
    places = [one.get_position() for one in (axes, other)]
    assert [place.width * width for place in places] == pytest.approx([0.5 * 4.9, 0.15 * 4.9])
    assert places[0].x0 * width == pytest.approx(0.49)
    assert places[1].x0 * width == pytest.approx(0.8 * 4.9 + width - 4.9)  # moved
