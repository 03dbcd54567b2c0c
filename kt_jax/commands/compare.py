"""kt-jax compare: compares runs.

    kt-jax compare runs/k500 runs/k2000
    kt-jax compare runs/* --html=compared.html

Shows which options differ (defaults included), the scores of each run (mean and standard deviation
over its seeds), how similar the clusterings of the same images are (adjusted mutual information),
and how long each stage took. Runs may be unfinished: finished stages are compared. Only FILE is
written, a page that works offline.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      FileNotFoundError, ValueError: as `comparison.compare` and `page.write_page`.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="W")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page instead of text")
    arguments = parser.parse_args(argv)
    from kt_jax.results import (
        comparison,
    )  # imports JAX: --help and wrong usage are answered at once

    found = comparison.compare(arguments.workdirs)
    if arguments.html is None:
        print(comparison.to_text(found))
        return 0
    from kt_jax.results.comparison import page  # matplotlib

    page.write_page(arguments.html, found)
    print(f"{arguments.html}: {len(found.runs)} runs")
    return 0
