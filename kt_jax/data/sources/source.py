"""The base class of sources of image files."""

import glob
import os
import pathlib
import shlex
import stat
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.names import find_file, ignored_as, is_list, readable, tidy, why_not

PathLike = str | os.PathLike
Paths = PathLike | Sequence[PathLike]

# key: a unique, stable, sorted name: the POSIX path below the root. bytes and stamp (mtime in ns,
# CRC-32 or similar) show without reading that an entry changed; 0 if unknown.
ENTRIES = pa.schema([("key", pa.string()), ("bytes", pa.int64()), ("stamp", pa.int64())])
# Optional columns, from the source itself.
LABEL = pa.field("label", pa.string())
SUBSET = pa.field("subset", pa.string())

_MAX_REASONS = 40


@dataclass(frozen=True)
class Excluded:
    """A file that is not in the set, and the reason."""

    key: str
    reason: str


class Source:
    """The encoded images of one place in a fixed order, with random access by row.

    It can be pickled, and read from many threads and processes.

    Attributes:
      identity: unique text for the place.
      name: name for messages.
      entries: a table with one row per image: the columns of ENTRIES, and optionally LABEL and
        SUBSET. Without LABEL, the folders of the keys give the classes. Without SUBSET, the folders
        or a hash of the key give the subset.
      refused: files that are refused before they are decoded, with reasons.
      ignored: number of ignored files by kind. Every file is an entry, refused or ignored.
      lists: the ignored files that may say the splits of images, by their names.
      unsplit: message about names that look like splits but do not divide the entries; "" if there
        are none. Names in keys are found without it.
      class_names: class names in the source's own order; empty if it has none, to sort them.
      presence: int8 `[entries, classes]` if an image may show several classes: 1 present, 0
        present but only as "difficult", -1 absent.
      boxes: a table with the columns row, class, xmin, ymin, xmax, ymax (pixels), difficult and
        truncated, or None.
      manifest: the result of an earlier scan, if the source is a manifest of one; else None.
      originals: for a re-encoded set, the SHA-256 of the original file of each entry; else None.
      root: the folder that the keys are relative to, if every entry is a file of its own.
    """

    identity: str
    name: str
    entries: pa.Table
    refused: list[Excluded]
    ignored: Counter[str]
    lists: list[str]
    unsplit: str = ""
    class_names: tuple[str, ...] = ()
    presence: np.ndarray | None = None
    boxes: pa.Table | None = None
    manifest: pa.Table | None = None
    originals: pa.ChunkedArray | None = None
    root: pathlib.Path

    def __init__(self) -> None:
        self.refused, self.ignored, self.lists = [], Counter(), []

    def admits(self, name: str, key: str) -> bool:
        """Whether a file is an image by its name. If not, it is counted as ignored or refused.

        Args:
          name: its path below the place that the user named.
          key: its name in the list of refused files.
        """
        if word := ignored_as(name):
            self.ignored[word] += 1
            if word.startswith(".") and is_list(name):
                self.lists.append(key)
        elif reason := why_not(name):
            self.refuse(key, reason)
        else:
            return True
        return False

    def refuse(self, key: str, reason: str) -> None:
        """Adds a refused file. A key that is not UTF-8 is made printable."""
        self.refused.append(Excluded(readable(key), reason))

    def account_for_others(self, root: pathlib.Path, taken: Container[pathlib.Path]) -> None:
        """Counts or refuses all files below a folder of data files, except those in `taken`."""
        for folder, _, names in os.walk(root):
            for path in (pathlib.Path(folder, name) for name in names):
                key = tidy(path.relative_to(root).as_posix())
                if path not in taken and self.admits(key, key):
                    reason = "an image next to the data files: name its folder as PATH to read it"
                    self.refuse(key, reason)

    @property
    def given_subsets(self) -> list[str | None] | None:
        """The column SUBSET, or None if the source does not have it."""
        given = "subset" in self.entries.column_names
        return self.entries["subset"].to_pylist() if given else None

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file.

        Raises:
          ValueError: they cannot be read. The message is the reason.
        """
        return read_file(find_file(self.root, self.entries["key"][row].as_py()))

    def read_labelled(self, row: int) -> tuple[bytes, str | None]:
        """Returns the bytes and the class, which is None unless labels are stored with images."""
        return self.read(row), None


def make_entries(
    keys: list[str], sizes: list[int], stamps: list[int], **columns: list[str | None] | None
) -> pa.Table:
    """Returns the table of entries. `columns` are `label` and `subset`; None leaves one out."""
    there = [field for field in (LABEL, SUBSET) if columns.get(field.name) is not None]
    values = {"key": keys, "bytes": sizes, "stamp": stamps, **columns}
    return pa.table(values, schema=pa.schema([*ENTRIES, *there]))


def describe_excluded(excluded: Iterable[Excluded]) -> list[str]:
    """Returns a line with the number of files for every reason, the frequent ones first.

    If there are many reasons, it returns only some: each broken file may have its own.
    """
    keys: dict[str, list[str]] = {}
    for each in excluded:
        keys.setdefault(each.reason, []).append(each.key)
    lines = [
        f"{those[0]}: {reason}"
        if len(those) == 1
        else f"{len(those):,} files, such as {those[0]}: {reason}"
        for reason, those in sorted(keys.items(), key=lambda item: -len(item[1]))
    ]
    more = len(lines) - _MAX_REASONS
    return lines if more < 2 else [*lines[:_MAX_REASONS], f"and {more:,} more reasons"]


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Returns text with the number of ignored files, in all and by kind."""
    counts = sorted(ignored.items(), key=lambda each: (-each[1], each[0]))
    kinds = ", ".join(f"{count:,} {word}" for word, count in counts if count)
    return f"{sum(ignored.values()):,}{f': {kinds}' if kinds else ''}"


def to_give(option: str, value: str) -> str:
    """Returns text for messages: how to give an option of a source to each command."""
    given = f"{option}={shlex.quote(value)}"
    return (
        f"the option {option}: --option {given}; of kt_jax.main --config.images.train.{given}, and "
        "so for each other set of config.images"
    )


def to_choose(source: str) -> str:
    """Returns text for messages: how to choose the source of a path in each command."""
    return f"--source={source}; of kt_jax.main --config.images.train.source={source}"


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options for JSON, with paths (also in lists) as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    return {name: plain(value) for name, value in options.items()}


def existing(path: PathLike) -> pathlib.Path:
    """Returns the path, with ~ expanded.

    Raises:
      ValueError: it is "".
      FileNotFoundError: it does not exist.
    """
    if path == "":
        raise ValueError("path is empty: give one, or '.' for the current folder")
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist (looked from {pathlib.Path.cwd()}): check the path; it must be "
            "on a disk of this machine"
        )
    return path


def given_paths(path: Paths, what: str) -> list[str]:
    """Returns the given path or paths as a list, with ~ expanded.

    Raises:
      ValueError: there are none. The message asks for `what`.
    """
    several = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not several:
        raise ValueError(f"path is an empty list: give {what}")
    if "" in several:
        raise ValueError(f"path is empty: give {what}, or '.' for the current folder")
    return [os.path.expanduser(os.fspath(each)) for each in several]


def is_glob(text: str) -> bool:
    """Whether a path is a pattern, and not an existing file or folder."""
    return glob.has_magic(text) and not os.path.exists(text)


def find_glob(text: str) -> list[str]:
    """Returns the paths that a glob finds, sorted.

    Raises:
      FileNotFoundError: there are none.
    """
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise FileNotFoundError(f"the glob {text} finds nothing (looked from {pathlib.Path.cwd()})")
    return found


def stat_image(path: PathLike) -> tuple[int, int]:
    """Returns an image file's size in bytes, and its mtime in ns.

    Raises:
      ValueError: it is missing, not a regular file, or too large. The message is the reason.
    """
    size, stamp = stat_file(path)
    if reason := why_too_large(size):
        raise ValueError(reason)
    return size, stamp


def stat_file(path: PathLike) -> tuple[int, int]:
    """Returns a file's size in bytes, and its mtime in ns.

    Raises:
      ValueError: it is missing, or not a regular file. The message is the reason.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        link = "a link to a file that does not exist" if os.path.islink(path) else "no such file"
        raise ValueError(link) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    return status.st_size, status.st_mtime_ns


def read_file(path: PathLike) -> bytes:
    """Returns the bytes of a file. ValueError with the reason if it is unreadable."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{type(error).__name__}: {error.strerror}") from error
