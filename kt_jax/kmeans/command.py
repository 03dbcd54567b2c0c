"""What the two commands share: their options, their inputs, their directory, their errors."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kt_jax.kmeans.checks import PRECISIONS
from kt_jax.kmeans.seeding import METHODS
from kt_jax.machine import signals
from kt_jax.runs import artifacts, files, lock

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
    """Runs a command and returns its exit status; a user's error is one message and status 2.

    Raises:
      SystemExit: with status 75 (os.EX_TEMPFAIL) after SIGTERM: the same command resumes.
    """
    try:
        with signals.Notice():
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
    add("--out", type=_directory, required=True, metavar="DIR", help="where the results go")
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


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a directory")
    return Path(text).expanduser().absolute()


def describe_files(paths: Sequence[Path]) -> dict[str, Any]:
    """What tells files from others without reading them: path, size and time of modification."""
    stats = [path.stat() for path in paths]
    return {
        f"{number:05d}": {"path": str(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        for number, (path, stat) in enumerate(zip(paths, stats, strict=True))
    }


def check_unchanged(found: dict[str, Any], out: Path) -> None:
    """Refuses to finish results of files that are no longer as `describe_files` found them.

    Raises:
      ValueError: naming the first that has changed or has gone.
    """
    for file in found.values():
        path = Path(file["path"])
        if not path.exists() or describe_files([path])["00000"] != file:
            raise ValueError(
                f"{path} has changed or gone while it was read: {out} is not marked as finished. "
                "Delete it, and run the same command once nothing writes to the files"
            )


@contextlib.contextmanager
def working_in(directory: Path, fingerprint: dict[str, Any]) -> Iterator[bool]:
    """Whether there is anything to do in a directory; if so, keeps other processes out of it.

    Raises:
      ValueError: if it was made with another fingerprint, or holds what is not ours or is broken,
        or another process works in it; nothing is touched then.
      FileNotFoundError: if it is finished, and files of it have gone.
      OSError: if it can be neither made nor written.
    """
    if _is_finished(directory, fingerprint):
        yield False
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(directory))
        except OSError as error:
            raise OSError(f"--out: {error}; give a directory that can be written") from None
        # Another process may have done it, or something else, until now.
        if _is_finished(directory, fingerprint):
            yield False
            return
        try:
            artifacts.start(directory, fingerprint)
        except OSError as error:
            raise OSError(f"--out: {error}; give a directory that can be written") from None
        yield True


def _is_finished(directory: Path, fingerprint: dict[str, Any]) -> bool:
    """Refuses, too, to work in what is not ours or was made otherwise."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in directory.iterdir()}
        found = _read_fingerprint(directory)
        others = {name for name in present if not name.startswith(".")}
        if not others - ({artifacts.STARTED} if found else set()):
            return False  # what has begun so far has computed nothing
    except OSError as error:
        raise OSError(f"--out: {error}; give a directory that can be written") from None
    if found is None:
        raise ValueError(
            f"--out: {directory} holds other files, such as {min(others)}: choose another"
        )
    changes = list(_differences(found, fingerprint))
    if changes:
        more = [f"and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
        lines = "\n  ".join([*changes[:_SHOWN], *more])
        raise ValueError(
            f"{directory} was made with other arguments or from other files (found -> now asked "
            f"for):\n  {lines}\nNothing was changed. Delete it, or choose another --out."
        )
    if artifacts.MANIFEST not in present:
        return False
    manifest = files.read_json(directory / artifacts.MANIFEST)
    gone = [name for name in manifest["files"] if name not in present]
    if gone:
        raise FileNotFoundError(
            f"{directory} is marked as finished, but {gone[0]} has gone ({len(gone)} files in "
            "all): bring it back, or delete the directory and run the same command"
        )
    changed = [
        name
        for name, digest in manifest["files"].items()
        if artifacts.hash_file(directory / name) != digest
    ]
    if changed:
        raise ValueError(
            f"{directory} is marked as finished, but {', '.join(changed)} are no longer what was "
            "written: bring them back, or delete the directory and run the same command"
        )
    return True


def _read_fingerprint(directory: Path) -> dict[str, Any] | None:
    try:
        return artifacts.read_fingerprint(directory)
    except (ValueError, LookupError, TypeError):
        finished = (directory / artifacts.MANIFEST).exists()
        name = artifacts.MANIFEST if finished else artifacts.STARTED
        raise ValueError(
            f"--out: {directory / name} is broken, or another program's: choose another "
            "directory, or delete this one and run the same command"
        ) from None


def _differences(found: Any, asked: Any, name: str = "") -> Iterator[str]:
    """One line for each value that differs between two fingerprints, and for each file."""
    if any(isinstance(value, dict) and not _is_file(value) for value in (found, asked)):
        found, asked = found or {}, asked or {}
        for key in sorted(found.keys() | asked.keys()):
            inner = f"{name}.{key}" if name else key
            yield from _differences(found.get(key), asked.get(key), inner)
    elif found != asked:
        before, now = (
            value["path"] if _is_file(value) else json.dumps(value) for value in (found, asked)
        )
        yield f"{name}: {now} has changed since" if before == now else f"{name}: {before} -> {now}"


def _is_file(value: Any) -> bool:
    """Whether `describe_files` made it."""
    return isinstance(value, dict) and isinstance(value.get("path"), str)
