"""The option --import=FILE.py of commands that run a network: registers a user's architecture."""

import argparse

from kt_jax.config import import_file


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds the option --import=FILE.py, which may be repeated."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="run this Python file first, such as one that registers your own architecture",
    )


def import_files(given: argparse.Namespace) -> None:
    """Runs the files of --import.

    Raises:
      FileNotFoundError: a file does not exist, or is not a Python file.
      Exception: whatever a file raises.
    """
    for path in given.imports:
        import_file(path)
