"""The options that the two commands share."""

import argparse
from pathlib import Path
from typing import Any

from kt_jax.kmeans.checks import PRECISIONS
from kt_jax.kmeans.seeding import METHODS

# How rows are moved, reduced and scaled before they are compared, and what is not done.
SCALING = {"centre": False, "l2": False, "spherical": False, "dims": 0, "whiten": False}
_LATER = ("dims", "whiten")  # options that a finished DIR may be older than
# Of `fit`, by the same names.
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
    """A parser of the options that both commands hand on to `fit`.

    With `of_run`, those of SCALING are None where they are not given.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=_directory, required=True, metavar="DIR", help="where the results go")
    add("--init", choices=METHODS, default=METHODS[0], help="how the seeds are chosen")
    add("--max_iterations", type=int, default=100, help="at most so many updates (100)")
    add("--tolerance", type=float, default=1e-4, help="stop at a smaller relative gain (1e-4)")
    choice: Any = {
        "action": argparse.BooleanOptionalAction,
        "default": None if of_run else False,
    }
    add("--centre", **choice, help="subtract the mean row")
    add("--l2", **choice, help="divide every row by its length")
    add("--spherical", **choice, help="as --l2, with centroids of length 1")
    add("--dims", type=int, default=None if of_run else 0, help="reduce rows to so many principal "
        "components, after --centre and before --l2 (0: keep all)")  # fmt: skip
    add("--whiten", **choice, help="give all of these components the variance 1")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the products")
    add("--restarts", type=int, default=1, help="the best of so many (1)")
    add("--chunk_rows", type=int, help="rows that a device works on at a time (chosen for it)")
    return parser


def without_later(options: dict[str, Any]) -> dict[str, Any]:
    """The options but for those that are newer than they, where they are off."""
    return {name: x for name, x in options.items() if x or name not in _LATER}


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a directory")
    return Path(text).expanduser().absolute()
