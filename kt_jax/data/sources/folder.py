"""The image files below one or several folders."""

import os
import pathlib
from collections.abc import Container, Iterator

import pyarrow as pa

from kt_jax.data.sources.names import NOT_UTF8, find_file, is_utf8, tidy
from kt_jax.data.sources.source import (
    Paths,
    Source,
    existing,
    find_glob,
    given_paths,
    is_glob,
    make_entries,
    stat_image,
    to_choose,
)


class Folder(Source):
    """The image files below one or several folders, or from globs. Links are followed.

    Several places are one set: keys (and so classes and subsets) are paths below their deepest
    common folder. For a glob, this is the folder before its first wildcard, so that a new file does
    not change other keys. Only folders below the named places can hide files: a folder below
    ~/.cache is read like any other.
    """

    def __init__(self, path: Paths, entries: pa.Table | None = None) -> None:
        """Lists the files, unless `entries` of an earlier listing are given."""
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
        self.name = ", ".join(place.name for place in places)
        if len(places) > 3:
            self.name = f"{len(places)} places in {self.root.name}"
        self.entries = self._list(places) if entries is None else entries

    def _list(self, places: list[pathlib.Path]) -> pa.Table:
        found: dict[str, tuple[int, int]] = {}
        named = set(map(str, places))
        for place in places:
            # A place inside another one is skipped there, and listed by itself.
            files = self._walk(place, named) if place.is_dir() else [str(place)]
            below = len(os.path.join(place, ""))
            for path in files:
                # A file that the user named is not hidden.
                name = path[below:] or place.name.lstrip(".")
                key = self._key(path)
                if self.admits(name, key):
                    try:
                        found[key] = self._stat(path, key)
                    except ValueError as error:
                        self.refuse(key, str(error))
        self.refused.sort(key=lambda excluded: excluded.key)
        keys = sorted(found)
        return make_entries(keys, [found[k][0] for k in keys], [found[k][1] for k in keys])

    def _key(self, path: str) -> str:
        return tidy(path[len(os.path.join(self.root, "")) :])

    def _stat(self, path: str, key: str) -> tuple[int, int]:
        if not is_utf8(key):
            raise ValueError(NOT_UTF8)
        if not key.isascii() and path != find_file(self.root, key):
            raise ValueError("its name equals that of another file, in another Unicode form")
        return stat_image(path)

    def _walk(self, folder: pathlib.Path, others: Container[str]) -> Iterator[str]:
        """Yields the paths of all files below a folder. Follows links, except to parent folders.

        Skips the paths in `others`.
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
                self.refuse(self._key(path), f"a folder that cannot be listed: {error.strerror}")
                continue
            for entry in entries:
                if entry.path in others:
                    continue
                try:
                    if not entry.is_dir():
                        yield entry.path
                        continue
                    # Only a link can lead to a parent folder.
                    inode = (status := entry.stat()).st_dev, status.st_ino
                except OSError as error:
                    reason = f"{type(error).__name__}: {error.strerror}"
                    self.refuse(self._key(entry.path), reason)
                    continue
                if inode in above:
                    self.refuse(self._key(entry.path), "a link back to a folder that it lies in")
                else:
                    pending.append((entry.path, (*above, inode)))


def _places(path: Paths) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns absolute paths: the files and folders, without repeats, and the folders of globs."""
    places, prefixes = [], []
    for text in given_paths(path, "the folders that hold the images"):
        if is_glob(text):
            found = find_glob(text)
            literal = text[: min(text.find(c) for c in "*?[" if c in text)]
            prefixes.append(pathlib.Path(os.path.abspath(os.path.dirname(literal))))
        else:
            found = [existing(text)]
        places += [pathlib.Path(os.path.abspath(place)) for place in found]
    return sorted(set(places)), prefixes
