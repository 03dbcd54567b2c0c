"""The image files below one folder or several."""

import glob
import os
import pathlib
from collections.abc import Callable, Container, Iterator, Sequence

import pyarrow as pa

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.names import NOT_UTF8, find_file, is_utf8, readable, tidy
from kt_jax.data.sources.source import (
    Excluded,
    Source,
    existing,
    make_entries,
    read_file,
    stat_file,
    to_choose,
)


class Folder(Source):
    """The image files below a folder, below several, or that globs find; links are followed.

    Several are as one: keys, and with them classes and subsets, are the paths below the deepest
    folder that holds them all, as if that folder held nothing else. That of a glob is the one
    before its first wildcard, whatever it finds, so that a new file changes no other's key. Files
    are hidden only below the places that are named: a folder below ~/.cache is as any other.
    """

    def __init__(
        self, path: str | os.PathLike | Sequence[str | os.PathLike], entries: pa.Table | None = None
    ) -> None:
        """With `entries` of an earlier listing, the disk is not asked again."""
        super().__init__()
        places, prefixes = _places(path)
        if len(places) == 1 and not prefixes and not places[0].is_dir():
            raise ValueError(
                f"{places[0]} is a file, not a folder: name its source (zip, tar, manifest, ...), "
                f"or let it be found out: {to_choose('auto')}"
            )
        holders = [place if place.is_dir() else place.parent for place in places]
        self.root = pathlib.Path(os.path.commonpath([*holders, *prefixes]))
        self.identity = "folder:" + ":".join(map(str, places))
        few = len(places) <= 3
        self.name = (
            ", ".join(place.name for place in places)
            if few
            else f"{len(places)} places in {self.root.name}"
        )
        self.entries = self._list(places) if entries is None else entries

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        return read_file(find_file(self.root, self.entries["key"][row].as_py()))

    def _list(self, places: list[pathlib.Path]) -> pa.Table:
        root = _with_slash(self.root)
        found: dict[str, tuple[int, int]] = {}
        named = set(map(str, places))
        for place in places:
            # A place that lies in another is passed over there: it is listed by itself.
            files = _walk(place, named, self._refuse) if place.is_dir() else [str(place)]
            below = len(_with_slash(place))
            for path in files:
                # A file that was itself named is not hidden.
                name = path[below:] or place.name.lstrip(".")
                key = tidy(path[len(root) :])
                if self.admits(name, key):
                    self._take(path, key, found)
        self.refused.sort(key=lambda excluded: excluded.key)
        keys = sorted(found)
        return make_entries(keys, [found[k][0] for k in keys], [found[k][1] for k in keys])

    def _take(self, path: str, key: str, found: dict[str, tuple[int, int]]) -> None:
        """Adds an image file to those that were found, or refuses it."""
        try:
            if not is_utf8(key):
                raise ValueError(NOT_UTF8)
            if not key.isascii() and path != find_file(self.root, key):
                raise ValueError("its name equals that of another file, in another Unicode form")
            size, stamp = stat_file(path)
            if reason := why_too_large(size):
                raise ValueError(reason)
        except ValueError as error:
            self._refuse(path, str(error))
        else:
            found[key] = size, stamp

    def _refuse(self, path: str, reason: str) -> None:
        key = tidy(os.path.relpath(path, self.root))
        self.refused.append(Excluded(readable(key), reason))


def _with_slash(folder: pathlib.Path) -> str:
    return os.path.join(folder, "")


def _places(
    path: str | os.PathLike | Sequence[str | os.PathLike],
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The files and folders that are meant, each once, in order; the folders of globs; absolute."""
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not given:
        raise ValueError("path is an empty list: give the folders that hold the images")
    places, prefixes = [], []
    for each in given:
        text = os.path.expanduser(os.fspath(each))
        if glob.has_magic(text) and not os.path.exists(text):
            found = sorted(glob.glob(text, recursive=True))
            if not found:
                raise FileNotFoundError(
                    f"the glob {text} finds nothing (looked from {pathlib.Path.cwd()})"
                )
            literal = text[: min(text.find(c) for c in "*?[" if c in text)]
            prefixes.append(pathlib.Path(os.path.abspath(os.path.dirname(literal))))
        else:
            found = [existing(text)]
        places += [pathlib.Path(os.path.abspath(place)) for place in found]
    return sorted(set(places)), prefixes


def _walk(
    folder: pathlib.Path, others: Container[str], refuse: Callable[[str, str], None]
) -> Iterator[str]:
    """The paths of all that are no folders below a folder, links followed, except back up.

    Paths in `others` are passed over.
    """
    status = folder.stat()
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [
        (str(folder), ((status.st_dev, status.st_ino),))
    ]
    while pending:
        path, above = pending.pop()
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            refuse(path, f"a folder that cannot be listed: {error.strerror}")
            continue
        for entry in entries:
            if entry.path in others:
                continue
            try:
                if not entry.is_dir():
                    yield entry.path
                    continue
                # Only a link leads to where the walk has come from.
                inode = (status := entry.stat()).st_dev, status.st_ino
            except OSError as error:
                refuse(entry.path, f"{type(error).__name__}: {error.strerror}")
                continue
            if inode in above:
                refuse(entry.path, "a link back to a folder that it lies in")
            else:
                pending.append((entry.path, (*above, inode)))
