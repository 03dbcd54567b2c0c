"""Zips and tars of image files, read in place."""

import hashlib
import os
import pathlib
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.source import (
    Excluded,
    Source,
    existing,
    is_image,
    is_safe,
    is_utf8,
    make_entries,
    readable,
    why_not,
)

# What lies before the data of an entry: this much, then its name and extra fields of these lengths.
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Zip(Source):
    """The image files in a zip.

    If all of them lie in one top-level folder, that folder is the root. The table of contents is
    read once, and of it only numbers are kept: of a million entries, `zipfile` would keep 0.8 GB in
    each thread that reads. Entries are read at offsets, so that all threads share one handle, and
    forked processes too.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _archive(path, "zip")
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.path} is not a zip, or was not copied to its end: check it with "
                f"`unzip -t {self.path}`, or unpack it and use source='folder'"
            )
        self.identity, self.name = f"zip:{self.path}", self.path.name
        self._open()
        members: dict[str, zipfile.ZipInfo] = {}
        self.refused = []
        try:
            with zipfile.ZipFile(self.path) as archive:
                listed = archive.infolist()
        except Exception as error:
            # zipfile raises what it meets in a broken table: NotImplementedError, UnicodeError ...
            raise ValueError(
                f"the table of contents of {self.path} cannot be read: {type(error).__name__}: "
                f"{error}; unpack it and use source='folder'"
            ) from error
        for member in listed:
            name = member.filename
            if name.endswith("/"):
                continue
            reason = _why_refused(name, name in members, member.file_size)
            if is_image(name) and reason is None:
                reason = _why_unreadable(member)
            if reason:
                self.refused.append(Excluded(name, reason))
            elif is_image(name):
                members[name] = member
        names = sorted(members)
        prefix = _common_folder(names)
        self.refused = _below(prefix, self.refused)
        found = [members[name] for name in names]
        # A table of contents can hold any number.
        offsets = [min(member.header_offset, 2**62) for member in found]
        self._offsets = np.array(offsets, np.int64)
        # No packer makes a file twice as large: of an entry that says so, no more is read.
        packed = [min(member.compress_size, 2 * member.file_size + 1024) for member in found]
        self._packed = np.array(packed, np.int64)
        self._deflated = np.array([bool(member.compress_type) for member in found], bool)
        self.entries = make_entries(
            [name.removeprefix(prefix) for name in names],
            [member.file_size for member in found],
            [member.CRC for member in found],
        )

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY)
        closing: Any = weakref.finalize(self, os.close, self._file)
        closing.atexit = False  # when threads may still read

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open()

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        size = self.entries["bytes"][row].as_py()
        try:
            data = self._unpack(row, size)
        except (OSError, zlib.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if zlib.crc32(data) != self.entries["stamp"][row].as_py():
            raise ValueError("BadZipFile: Bad CRC-32")
        if len(data) < size:
            raise ValueError(f"the entry declares {size} bytes, but holds {len(data)}")
        return data

    def _unpack(self, row: int, size: int) -> bytes:
        """The first `size` bytes of an entry, or as many as there are."""
        offset = int(self._offsets[row])
        header = os.pread(self._file, _LOCAL_HEADER.size, offset)
        if len(header) < _LOCAL_HEADER.size:
            raise ValueError("BadZipFile: Truncated file header")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            raise ValueError("BadZipFile: Bad magic number for file header")
        offset += _LOCAL_HEADER.size + name + extra
        data = os.pread(self._file, int(self._packed[row]), offset)
        if self._deflated[row]:
            # No more is decompressed than the entry declares; 0 would be all.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(size, 1))
        return data[:size]


class Tar(Source):
    """The image files in a tar that is not compressed; its root as of a zip."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _archive(path, "tar")
        self.identity, self.name = f"tar:{self.path}", self.path.name
        self.refused = []
        members: dict[str, tarfile.TarInfo] = {}
        for member in list_members(self.path):
            self._take(member, members)
        names = sorted(members)
        prefix = _common_folder(names)
        self.refused = _below(prefix, self.refused)
        self._offsets = np.array([members[name].offset_data for name in names], np.int64)
        self.entries = make_entries(
            [name.removeprefix(prefix) for name in names],
            [members[name].size for name in names],
            make_stamps(self.path, [members[name] for name in names]),
        )

    def _take(self, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> None:
        name = member.name.removeprefix("./")
        reason = why_refused(member, name in members)
        if reason:
            self.refused.append(Excluded(readable(name), reason))
        elif is_image(name):
            members[name] = member

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        return read_at(self.path, int(self._offsets[row]), self.entries["bytes"][row].as_py())


def list_members(path: pathlib.Path) -> list[tarfile.TarInfo]:
    """Returns the entries of a tar that are no folders.

    Raises:
      ValueError: it is compressed, damaged, or no tar.
    """
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
                # tarfile ends without a word where it finds no header.
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise ValueError(f"no header at byte {archive.offset:,}")
    except Exception as error:
        # tarfile raises what it meets in a broken header: RecursionError, MemoryError ...
        raise ValueError(
            f"{path} cannot be read in place: {error}. If it is compressed, decompress it once "
            "(gunzip, unxz, zstd -d): a compressed tar has no random access"
        ) from error
    return members


def make_stamps(path: pathlib.Path, members: Iterable[tarfile.TarInfo]) -> list[int]:
    """Returns what tells, with the sizes, that entries of a tar changed.

    The tar's own size and time are in each: tars that are made to be the same on every machine give
    all of their files one time.
    """
    status = path.stat()
    whole = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).digest()
    whole = int.from_bytes(whole[:8], "little")
    # A header can hold any number, and what is none.
    return [(whole + int(min(max(0, member.mtime), 2**62))) % 2**63 for member in members]


def why_refused(member: tarfile.TarInfo, known: bool) -> str | None:
    """Returns why an entry of a tar is refused, None if it is not; `known` is its name already."""
    name = member.name.removeprefix("./")
    reason = _why_refused(name, known, member.size)
    if is_image(name) and reason is None and (not member.isreg() or member.issparse()):
        return "a link or another entry that holds no file of its own"
    return reason


def read_at(path: pathlib.Path, offset: int, size: int) -> bytes:
    """Returns bytes of a tar; ValueError with the reason if they cannot be read.

    The tar is opened for this alone, so that any number of tars, threads and processes read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise ValueError(f"{type(error).__name__}: {error.strerror}") from error
    if len(data) < size:
        raise ValueError(f"the tar ends {size - len(data)} bytes before the file does")
    return data


def _archive(path: str | os.PathLike, kind: str) -> pathlib.Path:
    path = existing(path).absolute()
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a {kind}: use source='folder'")
    return path


def _why_refused(name: str, known: bool, size: int) -> str | None:
    if not is_image(name):
        return why_not(name)
    if not is_safe(name):
        return "an unsafe name: absolute, or with '..' in it"
    if not is_utf8(name):
        return "the name is not UTF-8"
    return "a second entry of the same name" if known else why_too_large(size)


def _why_unreadable(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 0x41:
        return "encrypted"
    # Of other methods, zipfile decompresses more than is asked for, to any size.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {member.compress_type}, not deflated: zip it again"
    return None


def _common_folder(names: list[str]) -> str:
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _below(prefix: str, refused: list[Excluded]) -> list[Excluded]:
    below = [
        Excluded(each.key.removeprefix(prefix) if is_safe(each.key) else each.key, each.reason)
        for each in refused
    ]
    return sorted(below, key=lambda each: each.key)
