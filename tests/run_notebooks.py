"""Runs the notebooks at tiny size, each in an empty directory; one that fails ends with status 1.

    python tests/run_notebooks.py [NAME ...]

Prints their outputs and seconds. Nothing is written into notebooks/.
"""

import sys
import tempfile
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
OTHERS = 'student={"steps": 2}, probe={"max_dims": 100}'
# What takes the place of what, so that trainings take seconds.
SMALLER = {
    'load_config("quickstart.py")': 'load_config("quickstart.py:tiny")',
    "views_per_photograph=100": "views_per_photograph=20",
    "[4, 8, 16, 32]": "[2, 3]",
    'clusters={"k": 16})': f'clusters={{"k": 4}}, {OTHERS})',
}


def run(path: Path, directory: str) -> None:
    """Runs a notebook in a directory and prints what its cells print.

    Raises:
      CellExecutionError: a cell failed.
    """
    # Of the extra [notebooks], which the tests of what notebooks hold do without.
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for old, new in SMALLER.items():
            cell.source = cell.source.replace(old, new)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": directory}})
    try:
        client.execute()
    finally:
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                print(output.get("text", ""), end="")


def main(names: list[str]) -> int:
    from nbclient.exceptions import CellExecutionError

    status = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kt_jax-notebook-") as directory:
            try:
                run(path, directory)
                said = "ran"
            except CellExecutionError as error:
                said, status = f"failed: {error}", 1
        print(f"{path.name} {said} ({time.monotonic() - begun:.0f} s)", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
