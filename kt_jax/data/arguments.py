"""Command-line arguments that name a set of images: PATH ..., --source and --option."""

import argparse
import os
from typing import Any


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds PATH ..., --source and --option to the parser of a command."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="where the images are")
    parser.add_argument("--source", default="auto", help="what PATH is, if it does not tell (auto)")
    parser.add_argument("--option", type=_option, action="append", default=[],
        metavar="NAME=VALUE", help="option of the source, such as label_column=class")  # fmt: skip


def read_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of the source for `make_source`, with absolute paths.

    Raises:
      ValueError: there is no PATH, or several for a source that takes one.
    """
    options, source = dict(arguments.option), arguments.source
    if not arguments.paths:
        if source == "auto":
            raise ValueError("there is no PATH: say where the images are")
        return options
    # Sorted: the order of paths does not change the set.
    paths = sorted(os.path.abspath(os.path.expanduser(path)) for path in arguments.paths)
    if len(paths) > 1 and source not in ("auto", "folder", "webdataset"):
        raise ValueError(f"--source={source} takes one PATH, not {len(paths)}")
    return {"path": paths[0] if len(paths) == 1 else paths, **options}


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name in ("path", "source"):
        raise argparse.ArgumentTypeError(f"{text}: give NAME=VALUE of an option of the source")
    return name, value
