import io
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from atomsweep.report.figures.curves import STEP, TIME, draw, spread
from atomsweep.report.figures.files import inline, save
from atomsweep.report.figures.style import SERIES, line_settings, make_room, round_numbers
from atomsweep.report.pages import report
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.curves import MOST_OF_ROW, lines, series, told
from atomsweep.report.tables.styles import Styles

AXES = ["choice.basis", "choice.act"]


@pytest.fixture
def points(table5):
    runs = read_directories(table5.path)
    df = runs.sweep("latest")
    logged = runs.curves(df, ["val_id/forces_mae"])
    return series(logged, df, AXES, "forcenet.table5")


def test_lines_of_one_basis_share_a_hue_and_of_one_act_a_dash(points):
    styles = points.groupby("label")[["hue", "dash"]].first()
    assert styles.loc["Spherical, Swish", "hue"] == styles.loc["Spherical, ReLU", "hue"]
    assert styles.loc["Spherical, Swish", "dash"] == styles.loc["Sine, Swish", "dash"]
    assert styles.drop_duplicates().shape[0] == 4


def test_series_are_the_logged_points_in_time_order(points):
    line = points[points["label"] == "Sine, ReLU"]
    assert line["device_seconds"].tolist() == [10.0 * i for i in range(9)]
    assert line["step"].tolist() == [100 * i for i in range(9)]
    assert line["value"].iloc[-1] == pytest.approx(0.052)


def test_a_run_with_one_point_or_only_nan_has_no_line(table5):
    runs = read_directories(table5.path)
    df = runs.sweep("latest")
    logged = pd.DataFrame(
        {
            "identity": ["0" * 12, "000000000001", "000000000001"],
            "step": [1, 1, 2],
            "device_seconds": [1.0, 1.0, 2.0],
            "value": [0.1, 0.1, math.nan],
        }
    )
    assert series(logged, df, AXES).empty


def test_a_figure_names_its_lines_axes_and_units(points):
    figure = draw(points, "Force MAE on ID, eV/Å", "cpu (Example 9000)", 0.1)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {
        "Spherical, ReLU", "Spherical, Swish", "Sine, ReLU", "Sine, Swish", "Median"
    }  # fmt: skip
    assert axes.get_xlabel() == "step"
    beside = draw(points, "Force MAE", "cpu (Example 9000)", 0.1, TIME).axes[0]
    assert beside.get_xlabel() == "wall time of training, seconds"
    assert axes.get_title("left") == "Force MAE on ID, eV/Å"
    assert axes.get_xscale() == "linear"


def test_a_row_is_one_line_the_mean_of_its_seeds_in_a_band_from_lowest_to_highest(root):
    for seed, val_id in enumerate((0.05, 0.06, 0.10)):
        root.run(f"{seed:012x}", seed=seed, val_id=val_id)
    root.run("a" * 12, seed=3, state="failed", val_id=9.0)
    runs = read_directories(root.path)
    points = series(runs.curves(), runs.df, AXES)
    drawn = lines(points)
    last = drawn.iloc[-1]
    assert (last["step"], last["device_seconds"], last["n"]) == (800, 80.0, 3)  # of the finished
    assert [last["value"], last["low"], last["high"]] == pytest.approx([0.07, 0.05, 0.10])
    axes = draw(points, "Force MAE", "cpu").axes[0]
    assert len([line for line in axes.lines if len(line.get_xdata()) == 9]) == 1
    assert len(axes.collections) == 1  # the band
    assert "A line is the mean over the seeds of a row" in told(points)


def test_of_very_many_seeds_the_first_count_and_that_is_told(root):
    for seed in range(MOST_OF_ROW + 2):
        root.run(f"{seed:012x}", seed=seed)
    runs = read_directories(root.path)
    points = series(runs.curves(), runs.df, AXES)
    assert lines(points)["n"].unique().tolist() == [MOST_OF_ROW]
    assert told(points).endswith(f"runs the first {MOST_OF_ROW} count.")
    assert "first" not in told(points[points["rank"] < 5])


def test_a_setting_looks_the_same_in_every_figure_and_unlike_any_other():
    styles = Styles()
    df = [{"choice.basis": basis, "choice.act": act} for basis in "abcdefg" for act in "xy"]
    given = [styles.of(run, AXES) for run in df]
    assert len(set(given)) == len(df)
    assert [styles.of(run, AXES) for run in reversed(df)] == given[::-1]  # whatever the order
    in_grey = {(line_settings(s)["marker"], str(line_settings(s)["dashes"])) for s in given}
    assert len(in_grey) == len(df)


def test_colours_are_told_apart_by_eyes_that_lack_a_cone():
    css = (TEMPLATES / "base.html").read_text()
    found = re.findall(r"--series-\d: (#[0-9a-f]{6})", css)
    light, dark = found[: len(SERIES)], found[len(SERIES) :]
    assert light == list(SERIES)
    assert len(dark) == len(SERIES)
    for palette in (light, dark):
        for lacking in ONE_CONE_LESS:
            seen = [lab(np.clip(lacking @ linear(colour), 0, 1)) for colour in palette]
            apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
            assert min(apart) > 10  # CIELAB; 2.3 is just noticeable


TEMPLATES = Path(report.__file__).parent / "templates"
# Machado, Oliveira, Fernandes (2009), severity 1: protan, deutan, tritan
ONE_CONE_LESS = np.loadtxt(
    io.StringIO("""
     0.152286  1.052583 -0.204868   0.114503  0.786281  0.099216  -0.003882 -0.048116  1.051998
     0.367322  0.860646 -0.227968   0.280085  0.672501  0.047413  -0.011820  0.042940  0.968881
     1.255528 -0.076749 -0.178779  -0.078411  0.930809  0.147602   0.004733  0.691367  0.303900
    """)
).reshape(3, 3, 3)


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.array(to_xyz) @ rgb / [0.9505, 1.0, 1.089]
    fx, fy, fz = (np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize(
    ("device", "scale", "label"),
    [
        ("NVIDIA H200", 60.0, "training time, GPU-minutes"),
        ("NVIDIA H200", 86400.0, "training time, GPU-days"),
        ("cpu (Example 9000)", 3600.0, "wall time of training, hours"),
        ("abacus", 3600.0, "wall time of training, hours"),
    ],
)
def test_time_has_the_unit_of_its_device_and_length(points, device, scale, label):
    longer = points.assign(device_seconds=points["device_seconds"] / 10 * scale)
    assert draw(longer, "Force MAE", device, across=TIME).axes[0].get_xlabel() == label


def test_time_over_decades_is_logarithmic(points):
    wide = points.assign(device_seconds=10 ** (points["device_seconds"] / 20))
    assert draw(wide, "Force MAE", "cpu", across=TIME).axes[0].get_xscale() == "log"
    assert draw(wide, "Force MAE", "cpu", across=STEP).axes[0].get_xscale() == "linear"


def test_an_untrained_start_does_not_press_the_rest_against_the_bottom(points):
    wild = points.copy()
    wild.loc[wild["device_seconds"] == 0, "value"] = 5.0
    bottom, top = draw(wild, "Force MAE", "cpu", 0.1).axes[0].get_ylim()
    assert top == pytest.approx(0.14)  # by the highest end
    assert bottom < wild["value"].min()
    assert draw(points, "Force MAE", "cpu", 0.1).axes[0].get_ylim()[1] < 0.12


def test_names_with_dollars_stand_as_they_are(points, tmp_path):
    name = "data.path=${data.root}/a_b_c.npz ${engine.steps}"
    named = points.assign(label=points["label"] + name)
    for _ in range(2):  # one drawing may be written twice
        figure = draw(named, f"Force {name}", "cpu", 0.1)
        save(figure, tmp_path / "curves")
        assert name in inline(figure, "x", "title")


def test_a_drawing_is_the_same_each_time(points, tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figure = draw(points, "Force MAE", "cpu", 0.1)
        files = save(figure, tmp_path / name / "curves")
        written.append({file.name: file.read_bytes() for file in files})
    assert set(written[0]) == {"curves.svg", "curves.pdf", "curves.png"}
    assert written[0] == written[1]


def test_an_inline_drawing_has_its_own_ids_and_the_pages_colours(points):
    figure = draw(points, "Force MAE", "cpu", 0.1)
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


def test_names_stay_beside_the_panel():
    assert spread([0.0, 0.0, 0.01], 0.1) == pytest.approx([0.0, 0.1, 0.2])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


def test_of_many_rows_every_name_is_inside_of_the_figure(points):
    one = points[points["label"] == "Sine, ReLU"]
    many = pd.concat(
        [one.assign(label=f"a long name of row {i}", identity=str(i), hue=i) for i in range(30)]
    )
    figure = draw(many, "Force MAE", "cpu", 0.1)
    FigureCanvasAgg(figure).draw()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_a_pdf_has_no_type_3_fonts(points, tmp_path):
    save(draw(points, "Force MAE", "cpu"), tmp_path / "curves")
    pdf = (tmp_path / "curves.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/Type42" in pdf or b"/CIDFontType2" in pdf or b"/TrueType" in pdf


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


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (9e-5, 0.011, 3, [1e-4, 1e-3, 1e-2]),
        (0.05, 0.11, 6, [0.05, 0.06, 0.08, 0.1]),
        (10.0, 500.0, 5, [10, 30, 100, 300]),
        (1e-6, 1e3, 4, [1e-6, 1e-3, 1, 1e3]),
    ],
)
def test_ticks_of_a_logarithm_are_round_and_no_more_than_have_room(low, high, most, ticks):
    assert round_numbers(low, high, most) == pytest.approx(ticks)


def test_an_axis_within_a_factor_of_two_has_ticks_too():
    found = round_numbers(0.21, 0.29, 4)
    assert 2 <= len(found) <= 4
    assert all(0.21 <= value <= 0.29 for value in found)
