"""The marks of a directory of results: whether it is begun or finished, and with which options.

STARTED is written first. It has the options and inputs. MANIFEST is written last: a directory that
has it is finished. Results that were made with other options or inputs are refused.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_jax.runs import files, lock, progress

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STARTED = "started.json"
# In a workdir: the request of a --redo, from its deletions until the end of the run.
PENDING_REDO = ".redo.json"
FORMAT = 2  # of both files; files without a number are older than types of artifacts
_MEGABYTE = 1_000_000
_MANY_BYTES = 4_000 * _MEGABYTE  # hashing more than this takes seconds: show progress
_SHOWN = 10  # at most this many changes are named; there may be thousands of shards


@dataclass(frozen=True)
class Found:
    """The marks of a directory."""

    request: dict[str, Any]
    """The options and inputs that the work began with."""
    files: Mapping[str, str] | None = None
    """The SHA-256 of each file by name, "" if not known; None if the work is not finished."""


def is_finished(directory: Path) -> bool:
    """Whether a directory has a MANIFEST."""
    return (directory / MANIFEST).exists()


def start(directory: Path, request: Mapping[str, Any]) -> None:
    """Marks a directory as begun with these options and inputs."""
    files.write_json(directory / STARTED, {"format": FORMAT, "fingerprint": request})


def find(directory: Path) -> Found | None:
    """The marks of a directory; None if nothing was begun. Raises as `read` does."""
    for path in (directory / MANIFEST, directory / STARTED):
        if path.exists():
            written = read(path)
            return Found(written["fingerprint"], written.get("files"))
    return None


def read(path: Path) -> dict[str, Any]:
    """Reads a MANIFEST or STARTED.

    Raises:
      ValueError: the file is broken, or another version of kt_jax wrote it.
    """
    written = files.read_json(path)
    is_ours = isinstance(written, dict) and "fingerprint" in written
    if not is_ours or written.get("format") != FORMAT:
        raise ValueError(
            f"{path} was written by another version of kt_jax, with another format, or by another "
            "program: choose another directory, or delete this one"
        )
    return written


def check_files(directory: Path, hashes: Mapping[str, str], remedy: str) -> None:
    """Checks the files of a finished directory.

    Args:
      directory: the directory.
      hashes: the SHA-256 of each file by name; "" checks only that the file exists.
      remedy: how to make the files again, for error messages.

    Raises:
      FileNotFoundError: files are missing.
      ValueError: a file has changed.
    """
    gone = [name for name in hashes if not (directory / name).exists()]
    if gone:
        raise FileNotFoundError(
            f"{directory / gone[0]} has gone ({len(gone)} files in all), though its directory is "
            f"marked as finished: bring it back, or {remedy}"
        )
    found = hash_files(directory, [name for name, digest in hashes.items() if digest])
    for name, digest in found.items():
        if digest != hashes[name]:
            raise ValueError(
                f"{directory / name} has changed since it was written (its SHA-256 differs): bring "
                f"it back, or {remedy}"
            )


def hash_files(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files of a directory, by name. Shows progress for many gigabytes."""
    sizes = {name: (directory / name).stat().st_size for name in names}
    if sum(sizes.values()) < _MANY_BYTES:
        return {name: files.hash_file(directory / name) for name in sizes}
    found = {}
    with progress.Count(str(directory), sum(sizes.values()) // _MEGABYTE, "MB hashed") as count:
        for name, size in sizes.items():
            found[name] = files.hash_file(directory / name)
            count.add(size // _MEGABYTE)
    return found


def describe_files(paths: Sequence[Path]) -> dict[str, Any]:
    """Identifies files without reading them, by path, size and time of modification."""
    stats = [path.stat() for path in paths]
    return {
        f"{number:05d}": {"path": str(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        for number, (path, stat) in enumerate(zip(paths, stats, strict=True))
    }


def check_unchanged(found: dict[str, Any], directory: Path) -> None:
    """Checks that input files have not changed since `describe_files`.

    Args:
      found: the result of `describe_files`.
      directory: the directory of the results, for the error message.

    Raises:
      ValueError: a file has changed or is missing (the message names the first).
    """
    for file in found.values():
        path = Path(file["path"])
        if not path.exists() or describe_files([path])["00000"] != file:
            raise ValueError(
                f"{path} was changed or deleted while it was read: {directory} is not marked as "
                "finished. Delete it, and run the same command once nothing writes to the files"
            )


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Compares nested dicts: one line for each value, or file of `describe_files`, that differs."""
    if found == wanted:
        return
    pair: list[Any] = [{} if value is None else value for value in (found, wanted)]
    are_files = [isinstance(x, dict) and x.keys() == {"path", "bytes", "modified"} for x in pair]
    if not any(are_files) and all(isinstance(value, dict) for value in pair):
        for key in sorted(pair[0].keys() | pair[1].keys()):
            inner = f"{name}.{key}" if name else key
            yield from differences(pair[0].get(key), pair[1].get(key), inner)
        return
    before, now = (
        value["path"] if is_file else json.dumps(value)
        for value, is_file in zip((found, wanted), are_files, strict=True)
    )
    yield f"{name}: {now} has changed since" if before == now else f"{name}: {before} -> {now}"


def refuse(results: str, changes: Sequence[str], remedy: str) -> None:
    """Refuses to resume or reuse results that were made with other options or inputs.

    Args:
      results: the name of the results, for the message.
      changes: one line for each difference; nothing is raised if it is empty.
      remedy: what the user can do, for the message.

    Raises:
      ValueError: there are changes. The message names the first ten.
    """
    if changes:
        more = [f"and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
        lines = "\n  ".join([*changes[:_SHOWN], *more])
        raise ValueError(
            f"{results} was made with other options or from other inputs (found -> now asked "
            f"for):\n  {lines}\nNothing was changed. {remedy}"
        )


@contextlib.contextmanager
def working_in(
    directory: Path,
    request: dict[str, Any],
    find: Callable[[Path], Found | None] = find,
    start: Callable[[Path, dict[str, Any]], None] = start,
) -> Iterator[bool]:
    """Locks a command's --out and marks it as begun. Yields False if it is already finished.

    Args:
      directory: the directory of --out.
      request: the options and inputs.
      find: reads the marks of the directory.
      start: writes the mark of the beginning.

    Raises:
      ValueError: the directory was made with another request or contains other files, its files
        have changed, or another process works in it. Nothing is changed then.
      FileNotFoundError: the directory is finished, but files are missing.
      OSError: the directory cannot be made or written.
    """
    is_done = _is_done(directory, request, find)
    with contextlib.nullcontext() if is_done else lock.hold(directory):
        # Check again: another process may have worked here before this one had the lock.
        if is_done or _is_done(directory, request, find):
            _log.info("%s: finished, nothing to do", directory)
            yield False
        else:
            start(directory, request)
            yield True


def _is_done(
    directory: Path, request: dict[str, Any], find: Callable[[Path], Found | None]
) -> bool:
    """Whether a directory is finished. Raises as `working_in`."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    others = sorted(name for name in names if not name.startswith("."))
    found = find(directory)
    if found is None and others:
        raise ValueError(
            f"--out: {directory} holds other files, such as {others[0]}: choose another"
        )
    if found is None or names <= {STARTED, lock.NAME}:
        return False  # nothing was computed yet
    changes = list(differences(found.request, request))
    refuse(str(directory), changes, "Delete it, or choose another --out.")
    if found.files is not None:
        remedy = "delete the directory and run the same command"
        check_files(directory, found.files, remedy)
    return found.files is not None


def is_run(folder: Path) -> bool:
    """Whether a directory is the workdir of a run."""
    config = folder / "config.json"
    try:
        found = files.read_json(config) if config.exists() else {}
    except ValueError:  # a file of another program
        return False
    return isinstance(found, Mapping) and "stages" in found


def refuse_inside(out: Path) -> None:
    """Refuses to write into a run or a finished artifact: commands only read them.

    Raises:
      ValueError: `out` is inside one.
    """
    for folder in out.absolute().parents:
        if is_finished(folder) or is_run(folder):
            raise ValueError(
                f"--out={out} lies in {folder}, which is a run or an artifact: commands write "
                "nothing there. Choose another place"
            )
