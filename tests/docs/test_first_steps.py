"""docs/first-steps.ipynb: executed by the slow tests; its kept outputs are of a real execution.

`python tests/docs/test_first_steps.py` executes it and keeps the outputs.
"""

import ast
import importlib
import inspect
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import atomsweep
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


def returned_by(function):
    """The class that a function says it returns, though only a type checker may import it.

    None where it says more than a class.
    """
    kind = function.__annotations__["return"]
    if not isinstance(kind, str):
        return kind
    module = inspect.getmodule(function)
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and kind in [one.name for one in node.names]:
            return getattr(importlib.import_module(node.module), kind)
    return getattr(module, kind, None)


def test_what_its_cells_ask_of_ours_is_there():
    """Each attribute of what one of our functions gives, by the types that they say they give."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    tree = ast.parse(re.sub(r"^!.*$|\{python\}.*$", "", code, flags=re.M))
    known: dict[str, object] = {"atomsweep": atomsweep}
    kinds: dict[str, type] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("atomsweep"):
            module = importlib.import_module(node.module)
            known |= {one.name: getattr(module, one.name) for one in node.names}
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        made_by = node.value.func
        function = known.get(made_by.id) if isinstance(made_by, ast.Name) else None
        if isinstance(made_by, ast.Attribute) and isinstance(made_by.value, ast.Name):
            of = made_by.value.id
            function = getattr(kinds.get(of) or known.get(of), made_by.attr, None)
        kind = returned_by(function) if inspect.isfunction(function) else None
        if kind and isinstance(node.targets[0], ast.Name):
            kinds[node.targets[0].id] = kind
    assert {"found", "model", "source"} <= set(kinds)
    asked = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in kinds
    ]
    assert len(asked) > 6
    for name, attribute in asked:
        kind = kinds[name]
        fields = getattr(kind, "__dataclass_fields__", {})
        assert hasattr(kind, attribute) or attribute in fields, f"{name}.{attribute}"


@pytest.mark.long
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
