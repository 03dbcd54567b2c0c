"""Notebooks are stored without outputs and install kt_jax first (run_notebooks.py runs them)."""

import json

import pytest
import run_notebooks

PATHS = sorted(run_notebooks.NOTEBOOKS.glob("*.ipynb"))
SOURCES = {
    path.stem: ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    for path in PATHS
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    code = [x for x in json.loads(path.read_text())["cells"] if x["cell_type"] == "code"]
    assert "%pip install" in "".join(code[0]["source"])
    assert all(not x["outputs"] and x["execution_count"] is None for x in code)
    assert "log_to_console()" in "".join(code[1]["source"])  # progress is shown
    assert "absl" not in path.read_text()


def test_what_makes_notebooks_smaller_is_in_them():
    every = "\n".join(text for texts in SOURCES.values() for text in texts)
    assert all(old in every for old in run_notebooks.SMALLER)
    assert SOURCES.keys() == {"explore", "own_features"}
