"""Single structures: errors by hand, files that are wrong, and that they reach the page."""

import numpy as np
import pytest

from atomsweep.report.figures.structures import _draw_structures, _round_force
from atomsweep.report.pages import report, writing
from atomsweep.report.read.directories import read_directories
from atomsweep.report.read.predictions import read_predictions
from atomsweep.report.tables.structures import element_grid, force_grid, formula, worst_grid
from atomsweep.tracking import schema


def arrays(seed=0):
    """Two structures: H2O with a fixed H, and CO."""
    dice = np.random.default_rng(seed)
    forces = np.array([[0.0, 0, 3], [0, 0.03, 0], [9, 9, 9], [0.3, 0, 0], [0, 0, 0.15]])
    wrong = np.array([[0.3, 0, 0], [0, 0, 0], [5, 5, 5], [0, 0, 0], [0, 0.6, 0]])
    return {
        "pos": dice.normal(size=(5, 3)), "atomic_numbers": np.array([8, 1, 1, 6, 8]),
        "natoms": np.array([3, 2]), "forces": forces, "forces_pred": forces + wrong,
        "fixed": np.array([False, False, True, False, False]),
        "sid": np.array(["water", "monoxide"]), "fid": np.array([4, 0]),
    }  # fmt: skip


@pytest.fixture
def found(tmp_path):
    np.savez(tmp_path / "val_id.npz", **arrays())
    return read_predictions(tmp_path / "val_id.npz")


def texts(grid):
    return [[cell.text for cell in row] for row in grid.rows]


def test_errors_are_means_over_free_atoms_and_components(found):
    assert found.structure_errors() == pytest.approx([0.05, 0.1])
    assert texts(worst_grid(found, [1, 0])) == [
        ["monoxide", "0", "CO", "2", "0.1000", "0.3000"],
        ["water", "4", "H2O", "3", "0.0500", "3.0000"],
    ]


def test_formulas_are_in_hills_order():
    assert formula(np.array([8, 6, 1, 6, 1, 1])) == "C2H3O"
    assert formula(np.array([28, 47, 1])) == "AgHNi"


def test_an_arrows_scale_is_a_round_number_below_the_longest_arrow():
    assert [_round_force(f) for f in (0.013, 0.19, 1.0, 4.9, 5.0, 73.0)] == [
        0.01, 0.1, 1.0, 2.0, 5.0, 50.0
    ]  # fmt: skip


def test_a_picture_shows_cell_error_scale_and_all_ends_of_arrows(tmp_path):
    cell = np.broadcast_to(np.diag([4.0, 5.0, 6.0]), (2, 3, 3))
    np.savez(tmp_path / "val_id.npz", **arrays(), cell=cell)
    axes, _ = _draw_structures(read_predictions(tmp_path / "val_id.npz"), [1, 0]).axes
    assert axes.get_title() == "CO, id monoxide, frame 0\nerror 0.1000 eV/Å"
    assert [text.get_text() for text in axes.texts] == ["0.2 eV/Å"]  # the longest seen is 0.3
    assert len(axes.lines) == 12  # edges of the cell
    reference, predicted, _ = (c for c in axes.collections)
    assert reference.width > predicted.width  # so that it shows below the other
    left, right = axes.get_xlim()
    for arrows in (reference, predicted):
        ends = arrows.X + arrows.U
        assert left < ends.min() <= ends.max() < right


def test_errors_by_element_and_by_force(found):
    assert [row[:3] for row in texts(element_grid(found))] == [
        ["H", "1", "0.0000"], ["C", "1", "0.0000"], ["O", "2", "0.1500"]
    ]  # fmt: skip
    assert [row[:3] for row in texts(force_grid(found))] == [
        ["0 to 0.05", "1", "0.0000"], ["0.1 to 0.2", "1", "0.2000"],
        ["0.2 to 0.5", "1", "0.0000"], ["2 to 5", "1", "0.1000"],
    ]  # fmt: skip


def without(name):
    return {key: value for key, value in arrays().items() if key != name}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (without("sid"), "it has no sid"),
        (arrays() | {"forces_pred": np.zeros((4, 3))}, r"forces_pred must have shape \(5, 3\)"),
        (arrays() | {"fid": np.zeros(3)}, r"fid must have shape \(2,\)"),
        (arrays() | {"sid": np.array([{}, {}], dtype=object)}, "cannot be read"),
    ],
)
def test_a_wrong_file_is_a_sentence_and_a_pickle_is_never_run(tmp_path, content, told):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(ValueError, match=told):
        read_predictions(tmp_path / "x.npz")


def test_structures_of_the_best_run_are_on_the_page_and_a_wrong_file_is_a_problem(table5, tmp_path):
    for identity, content in (("000000000000", without("pos")), ("000000000002", arrays())):
        folder = next(table5.path.glob(f"*-{identity}")) / schema.PREDICTIONS
        folder.mkdir()
        np.savez(folder / "val_id.npz", **content)
    runs = read_directories(table5.path)
    made = report.build(runs, runs.sweep("latest"))
    assert any("it has no pos" in problem for problem in made.problems)
    (section,) = [s for s in made.sections if s.slug == "structures-1"]
    assert "Sine, Swish, run 000000000002, on ID" in section.text[0]
    page = writing.write(made, tmp_path / "out")
    assert "monoxide" in page.read_text()
    assert (tmp_path / "out" / "parity-1.pdf").is_file()
