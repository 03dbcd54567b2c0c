"""Architectures of one's own: --import=FILE.py of every command that computes with a network."""

import argparse

from kt_jax.config import import_file


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds --import=FILE.py, which may be given several times."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="run this file first: it registers the architecture, if it is your own",
    )


def import_files(given: argparse.Namespace) -> None:
    """Runs the files of --import.

    Raises:
      ValueError, FileNotFoundError: one is no Python file, or fails.
    """
    for path in given.imports:
        import_file(path)
