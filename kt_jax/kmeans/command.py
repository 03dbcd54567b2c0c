"""Command-line options that `kmeans` and `sweep` share."""

import argparse
from pathlib import Path
from typing import Any

from kt_jax.kmeans.checks import PRECISIONS
from kt_jax.kmeans.seeding import METHODS

# Options that transform rows before they are compared, with their defaults.
SCALING = {"centre": False, "l2": False, "spherical": False, "dims": 0, "whiten": False}
# Newer options: results in an old DIR do not have them.
_LATER = ("dims", "whiten", "balanced", "nearest")
# Options of `fit` with the same names.
OPTIONS = (
    "init",
    "max_iterations",
    "tolerance",
    "centre",
    "l2",
    "spherical",
    "dims",
    "whiten",
    "precision",
    "restarts",
    "chunk_rows",
)


def make_parser(name: str, doc: str | None, *, of_run: bool = False) -> argparse.ArgumentParser:
    """Returns a parser with the options that both commands pass to `fit`.

    With `of_run`, the options in SCALING are None if they are not given.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=_directory, required=True, metavar="DIR", help="directory for the results")
    add("--init", choices=METHODS, default=METHODS[0], help="how the seeds are chosen")
    add("--max_iterations", type=int, default=100, help="largest number of updates (100)")
    add("--tolerance", type=float, default=1e-4, help="stop at a relative gain up to this (1e-4)")
    choice: Any = {
        "action": argparse.BooleanOptionalAction,
        "default": None if of_run else False,
    }
    add("--centre", **choice, help="subtract the mean row")
    add("--l2", **choice, help="divide every row by its length")
    add("--spherical", **choice, help="as --l2, with centroids of length 1")
    add("--dims", type=int, default=None if of_run else 0, help="keep this number of principal "
        "components of the rows, after --centre and before --l2 (0: keep all)")  # fmt: skip
    add("--whiten", **choice, help="give all of these components the variance 1")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the matrix products")
    add("--restarts", type=int, default=1, help="number of runs; the best is kept (1)")
    add("--chunk_rows", type=int, help="rows per device at a time (default: by device)")
    return parser


def without_later(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options, without the newer ones that are off, to compare with an old DIR."""
    return {name: x for name, x in options.items() if x or name not in _LATER}


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a directory")
    return Path(text).expanduser().absolute()
