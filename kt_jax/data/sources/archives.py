"""Zips and tars of image files, read in place."""

import hashlib
import os
import pathlib
import shlex
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.names import NOT_UTF8, is_safe, is_utf8, readable, tidy_packed
from kt_jax.data.sources.source import Excluded, Source, existing, make_entries, to_choose
from kt_jax.data.sources.unread import explain, explain_split

# What lies before the data of an entry: this much, then its name and extra fields of these lengths.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# The flag of names in UTF-8, and the extra field of names that are also there in UTF-8.
_IS_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_DOS_FOLDER = 0x10
# Every document of Office or OpenOffice is a zip and holds one of these.
_OFFICE = {"[Content_Types].xml", "mimetype"}


class Zip(Source):
    """The image files in a zip.

    Keys are as of the folder that it would be unpacked to, whichever tool made the zip. If all
    images lie in one top-level folder, that folder is the root. The table of contents is read once,
    and of it only numbers are kept: of a million entries, `zipfile` would keep 0.8 GB in each
    thread that reads. Entries are read at offsets, so that all threads share one handle, and forked
    processes too.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__()
        self.path = _archive(path, "zip")
        if why := explain_split(self.path):
            raise ValueError(why)
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                explain(self.path)
                or f"{self.path} is not a zip, or was not copied to its end: check it with "
                f"`unzip -t {shlex.quote(str(self.path))}`, or unpack it and name the folder"
            )
        self.identity, self.name = f"zip:{self.path}", self.path.name
        self._open()
        members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                listed = archive.infolist()
        except Exception as error:
            # zipfile raises what it meets in a broken table: NotImplementedError, UnicodeError ...
            raise ValueError(
                f"the table of contents of {self.path} cannot be read: {type(error).__name__}: "
                f"{error}; unpack it and name the folder"
            ) from error
        if _OFFICE.intersection(member.filename for member in listed):
            raise ValueError(
                f"{self.path} is a document of Office, no zip of images: save its table as .csv"
            )
        for member in listed:
            name = _decode_name(member)
            if _is_folder(member, name):
                continue
            key = tidy_packed(name)
            if not self.admits(key, key):
                continue
            reason = _why_refused(name, key in members, member.file_size)
            if reason := reason or _why_unreadable(member):
                self.refused.append(_exclude(name, reason))
            else:
                members[key] = member
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
        super().__init__()
        self.path = _archive(path, "tar")
        self.identity, self.name = f"tar:{self.path}", self.path.name
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
        key = tidy_packed(member.name)
        if not self.admits(key, key):
            return
        reason = why_refused(member, key in members)
        if reason:
            self.refused.append(_exclude(member.name, reason))
        else:
            members[key] = member

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        return read_at(self.path, int(self._offsets[row]), self.entries["bytes"][row].as_py())


def list_members(path: pathlib.Path) -> list[tarfile.TarInfo]:
    """Returns the entries of a tar that are no folders.

    Raises:
      ValueError: it is compressed, split, damaged, or no tar.
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
                # tarfile ends without a word where it finds no header.
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise ValueError(f"no header at byte {archive.offset:,}")
    except Exception as error:
        # tarfile raises what it meets in a broken header: RecursionError, MemoryError ...
        raise ValueError(
            f"{path} cannot be read in place: {error}. Was it copied to its end?"
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
    if reason := _why_refused(member.name, known, member.size):
        return reason
    if not member.isreg() or member.issparse():
        return "a link or another entry that holds no file of its own"
    return None


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
        raise ValueError(f"{path} is a folder, not a {kind}: {to_choose('folder')}")
    return path


def _decode_name(member: zipfile.ZipInfo) -> str:
    """The name of an entry, in UTF-8 where the zip has it in any way, else in code page 437."""
    name = member.orig_filename
    if not member.flag_bits & _IS_UTF8:
        raw = name.encode("cp437")
        declared = _declared_name(member.extra, zlib.crc32(raw))
        try:
            # macOS writes UTF-8, and does not say so.
            name = (declared or raw).decode()
        except UnicodeDecodeError:
            pass
    return name.partition("\0")[0]


def _is_folder(member: zipfile.ZipInfo, name: str) -> bool:
    """Whether an entry is a folder: by its name, or as DOS marks one."""
    marked = member.external_attr & _DOS_FOLDER and not member.file_size
    return name.endswith(("/", "\\")) or bool(marked)


def _declared_name(extra: bytes, crc: int) -> bytes | None:
    """The name in Info-ZIP's field for Unicode paths, if it is of the name with this CRC-32."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[1:5] == crc.to_bytes(4, "little"):
            return field[5:]
    return None


def _exclude(name: str, reason: str) -> Excluded:
    # A name that is unsafe is shown as it is written.
    return Excluded(readable(tidy_packed(name) if is_safe(name) else name), reason)


def _why_refused(name: str, known: bool, size: int) -> str | None:
    if not is_safe(name):
        return "an unsafe name: absolute, or with '..' in it"
    if not is_utf8(name):
        return NOT_UTF8
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
