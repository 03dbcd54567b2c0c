"""kt-jax run: the same as `python -m kt_jax.main`."""

import sys
from collections.abc import Sequence

from kt_jax import main as command_line


def main(argv: Sequence[str]) -> int:
    """Runs the stages of a config; see `kt_jax.main`."""
    sys.argv = ["kt-jax run", *argv]
    command_line.run()
    return 0
