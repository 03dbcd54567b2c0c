"""Caches decoded images, so that epochs after the first need no decoding."""

import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable

import numpy as np
import psutil

from kt_jax.data.decode import VERSION
from kt_jax.data.descriptor import Descriptor

_log = logging.getLogger(__name__)

PLACES = ("auto", "ram", "disk", "none")
# "auto" uses at most these shares of the free space.
_SHARE_OF_MEMORY = 1 / 4
_SHARE_OF_DISK = 1 / 2

Load = Callable[[int], np.ndarray]


def keep_decoded(
    load: Load,
    count: int,
    size: int,
    *,
    place: str,
    name: str,
    fingerprint: str,
    cache_dir: str | os.PathLike | None,
    workers: int,
) -> Load:
    """Returns a decoder that caches the results of `load`, and logs where.

    Args:
      load: the decoder: index -> uint8 `[size, size, 3]`.
      count: number of images.
      size: side of the images, in pixels.
      place: "ram", "disk" (below cache_dir), "none", or "auto". "auto" uses memory if the images
        fit and there are no worker processes (each would have a copy), else the disk if they fit
        there, else none. Images that are already on disk are used.
      name: name of the images, for messages.
      fingerprint: fingerprint of the images, which identifies the file on disk.
      cache_dir: directory for "disk"; None if there is none.
      workers: number of worker processes that decode; 0 if this process does.

    Raises:
      ValueError: the place is unknown, or is "disk" without cache_dir.
    """
    if place not in PLACES:
        raise ValueError(f"cache is {place!r} but must be one of {', '.join(PLACES)}")
    needed = count * size * size * 3
    path = None
    if cache_dir is not None:
        path = pathlib.Path(cache_dir) / f"decoded-{fingerprint[:16]}-{VERSION}.bin"
    if place in ("auto", "disk") and path is not None:
        _log_others(path, name)
    if place == "auto":
        place = _choose(needed, path, workers)
    if place == "disk":
        if path is None:
            raise ValueError("cache is 'disk', but there is no cache_dir to keep images in")
        path.parent.mkdir(parents=True, exist_ok=True)
        _log.info("%s: decoded images are kept in %s (%.2f GB)", name, path, needed / 1e9)
        return _OnDisk(load, path, size)
    if place == "ram":
        _log.info("%s: decoded images are kept in memory (%.2f GB)", name, needed / 1e9)
        return _InMemory(load, count, size)
    _log.info("%s: decoded images are not kept (%.2f GB)", name, needed / 1e9)
    return load


def _choose(needed: int, path: pathlib.Path | None, workers: int) -> str:
    # Images from an earlier run need no more space, and are not decoded again.
    written = 0 if path is None else _size_on_disk(path)
    if written >= needed:
        return "disk"
    if not workers and needed <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return "ram"
    if path is not None:
        free = shutil.disk_usage(next(place for place in path.absolute().parents if place.exists()))
        if needed - written <= _SHARE_OF_DISK * free.free:
            return "disk"
    return "none"


def _log_others(path: pathlib.Path, name: str) -> None:
    others = [other for other in sorted(path.parent.glob("decoded-*.bin")) if other != path]
    if others:
        _log.info(
            "%s: %s also holds decoded images of other sets, or of these as they were or in other "
            "sizes; delete what no run uses: %s",
            *(name, path.parent),
            ", ".join(f"{other.name} ({_size_on_disk(other) / 1e9:.2f} GB)" for other in others),
        )


def _size_on_disk(path: pathlib.Path) -> int:
    """Returns the size of a file on disk in bytes, without its holes; 0 if it does not exist."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


class _InMemory:
    """Caches images in this process's memory."""

    def __init__(self, load: Load, count: int, size: int) -> None:
        self._load, self._count, self._size = load, count, size
        # The pages of np.empty take memory only when they are written.
        self._decoded = np.empty((count, size, size, 3), np.uint8)
        self._known = np.zeros(count, bool)

    def __call__(self, i: int) -> np.ndarray:
        # Two threads may decode the same image: they write the same bytes.
        if not self._known[i]:
            self._decoded[i] = self._load(i)
            self._known[i] = True
        pixels = self._decoded[i]
        # Read-only: writing to the view would change the image in all epochs.
        pixels.flags.writeable = False
        return pixels

    def __reduce__(self) -> tuple:
        return _InMemory, (self._load, self._count, self._size)


class _OnDisk:
    """Caches images in a file with rows of fixed size: the pixels and their CRC-32.

    A row is valid if its CRC is. Holes in the file, half-written rows, and zeros that some file
    systems leave after a power cut are decoded again. The file is read and written at offsets, not
    mapped to memory: on a full disk this raises an error, but writing to a map kills the process.
    """

    def __init__(self, load: Load, path: pathlib.Path, size: int) -> None:
        self._load, self._path, self._shape = load, path, (size, size, 3)
        self._row = size * size * 3 + 4
        self._full = False
        self._file = Descriptor(path, os.O_RDWR | os.O_CREAT)

    def __call__(self, i: int) -> np.ndarray:
        row = os.pread(self._file.number, self._row, i * self._row)
        if len(row) == self._row and zlib.crc32(row[:-4]) == int.from_bytes(row[-4:], "little"):
            return np.frombuffer(row, np.uint8, self._row - 4).reshape(self._shape)
        pixels = self._load(i)
        if not self._full:
            data = pixels.tobytes()
            try:
                row = data + zlib.crc32(data).to_bytes(4, "little")
                os.pwrite(self._file.number, row, i * self._row)
            except OSError as error:
                self._full = True
                _log.warning("%s: %s: no more images are kept", self._path, error.strerror)
        return pixels
