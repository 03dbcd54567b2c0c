"""What the two commands share: their options, their inputs, their directory, their errors."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kt_jax import artifacts
from kt_jax.kmeans.checks import PRECISIONS
from kt_jax.kmeans.seeding import METHODS

_SHOWN = 10  # lines of a difference; there may be thousands of shards

# Of `fit`, by the same names.
OPTIONS = (
    "init",
    "max_iterations",
    "tolerance",
    "centre",
    "l2",
    "spherical",
    "precision",
    "restarts",
    "chunk_rows",
)


def call(name: str, run: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit status; a user's error is one message and status 2."""
    try:
        run(argv)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command again", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def log_to_console() -> None:
    """Shows our progress, and of the libraries' chatter only what is wrong."""
    # force: libraries that were imported may have set up handlers of their own.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("kt_jax").setLevel(logging.INFO)


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser of the options that both commands hand on to `fit`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--init", choices=METHODS, default=METHODS[0], help="how the seeds are chosen")
    add("--max_iterations", type=int, default=100, help="at most so many updates (100)")
    add("--tolerance", type=float, default=1e-4, help="stop at a smaller relative gain (1e-4)")
    add("--centre", action="store_true", help="subtract the mean row")
    add("--l2", action="store_true", help="divide every row by its length")
    add("--spherical", action="store_true", help="as --l2, with centroids of length 1")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the products")
    add("--restarts", type=int, default=1, help="the best of so many (1)")
    add("--chunk_rows", type=int, help="rows that a device works on at a time (chosen for it)")
    return parser


def find_shards(origin: str, names: Sequence[str]) -> list[Path]:
    """The .npy files named, and those of the directories named, in the order of their rows.

    Of a directory, features-IIIII-of-NNNNN.npy if there are any, else all .npy by name.

    Raises:
      FileNotFoundError: where there is no file; ValueError: for a directory that lacks shards.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser().absolute()
        if not path.exists():
            raise FileNotFoundError(f"{origin}: there is no {path}")
        found += _list_shards(origin, path) if path.is_dir() else [path]
    return found


def _list_shards(origin: str, directory: Path) -> list[Path]:
    shards = sorted(directory.glob("features-*-of-*.npy"))
    if shards:
        wanted = shards[0].stem.rpartition("-of-")[2]
        if not wanted.isdigit() or int(wanted) != len(shards):
            raise ValueError(
                f"{origin}: {directory} holds {len(shards)} features-*-of-*.npy, of which the "
                f"first is of {wanted}: let what writes them finish first"
            )
        return shards
    shards = sorted(path for path in directory.glob("*.npy") if not path.name.startswith("."))
    if not shards:
        raise FileNotFoundError(f"{origin}: {directory} holds no .npy file")
    return shards


def describe_files(paths: Sequence[Path]) -> dict[str, Any]:
    """What tells files from others without reading them: path, size and time of modification."""
    stats = [path.stat() for path in paths]
    return {
        f"{number:05d}": {"path": str(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        for number, (path, stat) in enumerate(zip(paths, stats, strict=True))
    }


def begin(directory: Path, fingerprint: dict[str, Any]) -> bool:
    """Marks a directory as begun; returns whether there is anything to do.

    Raises:
      ValueError: if it was made with another fingerprint, or holds what is not ours; nothing is
        touched then.
      FileNotFoundError: if it is finished, and files of it have gone.
    """
    found = artifacts.read_fingerprint(directory)
    present = [path for path in directory.iterdir()] if directory.exists() else []
    present = [path.name for path in present if not path.name.startswith(".")]
    if not set(present) - ({artifacts.STARTED} if found else set()):
        artifacts.start(directory, fingerprint)  # what has begun so far has computed nothing
        return True
    if found is None:
        raise ValueError(
            f"--out: {directory} holds other files, such as {sorted(present)[0]}: choose another"
        )
    changes = list(artifacts.differences(found, fingerprint))
    if changes:
        more = [f"and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
        lines = "\n  ".join([*changes[:_SHOWN], *more])
        raise ValueError(
            f"{directory} was made with other arguments or from other files (found -> now asked "
            f"for):\n  {lines}\nNothing was changed. Delete it, or choose another --out."
        )
    if artifacts.MANIFEST not in present:
        return True
    manifest = artifacts.read_json(directory / artifacts.MANIFEST)
    gone = [name for name in manifest["files"] if not (directory / name).exists()]
    if gone:
        raise FileNotFoundError(
            f"{directory} is marked as finished, but {gone[0]} has gone ({len(gone)} files in "
            "all): bring it back, or delete the directory and run the same command"
        )
    return False
