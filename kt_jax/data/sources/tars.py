"""Uncompressed tars of image files, read without unpacking."""

import hashlib
import logging
import os
import pathlib
import shlex
import tarfile
from collections.abc import Iterable

import numpy as np

from kt_jax.data.sources.archives import Archive
from kt_jax.data.sources.source import PathLike, make_entries, to_choose
from kt_jax.data.sources.unread import explain, explain_split

_log = logging.getLogger(__name__)

# Extension of the files with the classes of a WebDataset.
_CLASS_EXTENSION = ".cls"
# At most this many zero bytes follow the last entry.
_MAX_PADDING = 2**21


class Tar(Archive):
    """The image files in an uncompressed tar."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(path, "tar")
        members = self.choose(
            (member.name, member.size, why_unreadable(member), member)
            for member in list_members(self.path)
        )
        found = members.values()
        self._offsets = np.array([member.offset_data for member in found], np.int64)
        sizes = [member.size for member in found]
        self.entries = make_entries(list(members), sizes, make_stamps(self.path, found))
        if classes := self.ignored[_CLASS_EXTENSION]:
            _log.warning(
                "%s: %s files %s say classes, which are not read: if it is a shard of a "
                "WebDataset, open it by %s",
                *(self.name, f"{classes:,}", _CLASS_EXTENSION, to_choose("webdataset")),
            )

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file. ValueError with the reason if it is unreadable."""
        return read_at(self.path, int(self._offsets[row]), self.entries["bytes"][row].as_py())


def list_members(path: pathlib.Path) -> list[tarfile.TarInfo]:
    """Returns the entries of a tar, without folders.

    Raises:
      ValueError: it is compressed, split, damaged, several tars in one file, or not a tar.
    """
    if why := explain_split(path) or explain(path):
        raise ValueError(why)
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if archive.offset <= member.offset:
                    raise ValueError(f"the entry at byte {member.offset:,} is of a negative size")
                if not member.isdir():
                    members.append(member)
            with path.open("rb") as file:
                file.seek(archive.offset)
                # tarfile stops silently if it finds no header.
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise ValueError(f"no header at byte {archive.offset:,}")
    except Exception as error:
        # tarfile raises many types for a broken header: RecursionError, MemoryError ...
        raise ValueError(
            f"{path} cannot be read in place: {error}. Was it copied to its end?"
        ) from error
    if second := _find_second(path, archive.offset):
        raise ValueError(
            f"{path} is several tars in one file: a second one begins at byte {second:,}. Unpack "
            f"all into a folder, tar -xif {shlex.quote(str(path))}, and name the folder as PATH"
        )
    return members


def _find_second(path: pathlib.Path, end: int) -> int | None:
    """Returns the start of a second tar after the zeros at the end of the first, or None."""
    with path.open("rb") as file:
        file.seek(end)
        for at in range(end, end + _MAX_PADDING, tarfile.BLOCKSIZE):
            block = file.read(tarfile.BLOCKSIZE)
            if block.strip(b"\0") or not block:
                return at if block[257:262] == b"ustar" else None
    return None


def make_stamps(path: pathlib.Path, members: Iterable[tarfile.TarInfo]) -> list[int]:
    """Returns stamps that show, together with sizes, that entries of a tar changed.

    Each stamp includes the size and time of the tar, because all files in a reproducible tar have
    the same time.
    """
    status = path.stat()
    whole = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).digest()
    whole = int.from_bytes(whole[:8], "little")
    # A header may have any number, or NaN.
    return [(whole + int(min(max(0, member.mtime), 2**62))) % 2**63 for member in members]


def why_unreadable(member: tarfile.TarInfo) -> str | None:
    """Returns why an entry cannot be read without unpacking; None if it can."""
    if not member.isreg() or member.issparse():
        return "a link or another entry that holds no file of its own"
    return None


def read_at(path: pathlib.Path, offset: int, size: int) -> bytes:
    """Returns bytes of a tar. ValueError with the reason if they cannot be read.

    Each call opens the tar, so that any number of tars, threads and processes can read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise ValueError(f"{type(error).__name__}: {error.strerror}") from error
    if len(data) < size:
        raise ValueError(f"the tar ends {size - len(data)} bytes before the file does")
    return data
