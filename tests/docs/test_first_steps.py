"""docs/first-steps.ipynb: executed by the slow tests; its kept outputs are of a real execution.

`python tests/docs/test_first_steps.py` executes it and keeps the outputs.
"""

import ast
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.places import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "first-steps.ipynb"
NEEDED = ("src", "conf", "sweeps", "analysis", "run.py")


def executed(place):
    """The notebook, executed afresh in a place that has the repository and no runs or data."""
    (place / "docs").mkdir()
    for name in NEEDED:
        (place / name).symlink_to(REPOSITORY / name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = {
        "PYTHONPATH": f"{place / 'src'}{os.pathsep}{place}",
        "OMP_NUM_THREADS": "1",
        "IPYTHONDIR": str(place / ".ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    kept = ("HOME", "LANG", "LC_ALL", "TMPDIR")
    settings |= {name: os.environ[name] for name in kept if name in os.environ}
    where = {"metadata": {"path": str(place / "docs")}}
    client = NotebookClient(notebook, timeout=300, resources=where, coalesce_streams=True)
    client.execute(env=settings)
    return notebook


def texts(notebook):
    """Text of the outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield output.get("text", "") + output.get("data", {}).get("text/plain", "")


def pictures(notebook):
    """Number of pictures among the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_has_the_outputs_of_one_whole_execution_and_nothing_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert pictures(notebook) == 4
    assert NOTEBOOK.stat().st_size < 500_000
    text = "".join(texts(notebook))
    assert "Traceback" not in text
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp|usr|var|opt)/", NOTEBOOK.read_text())


def test_its_cells_are_python_and_its_links_lead_somewhere():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(re.sub(r"^!.*$", "", cell.source, flags=re.M))
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            if cell.cell_type == "markdown":
                assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.slow
def test_it_runs_from_data_to_a_relaxation(tmp_path):
    notebook = executed(tmp_path)
    text = "".join(texts(notebook))
    assert re.search("3 cells: .*1 finished.*; a launch runs 2", text)
    assert "3 of 3 runs finished" in text
    assert pictures(notebook) == 4
    error = re.search(r"MAE (0\.\d+) eV/Å over \d+ free atoms", text)
    best = re.search(r"Best force MAE on ID: (0\.\d+) eV/Å", text)
    assert float(error[1]) == pytest.approx(float(best[1]), rel=0.02)  # two ways to one number
    found = re.findall(r"([-+]\d+\.\d+) eV by the model, ([-+]\d+\.\d+) eV by the pot", text)
    ours, best = zip(*[(float(one), float(two)) for one, two in found], strict=True)
    assert len(ours) == 4
    assert sum(drop < 0.01 for drop in ours) >= 3
    assert sum(ours) < 0.5 * sum(best) < 0
    assert (tmp_path / "reports" / "first-steps" / "report.html").exists()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "atomsweep"
        place.mkdir()
        text = nbformat.writes(executed(place)).replace(f"{place}/", "")
    NOTEBOOK.write_text(text + "\n")
