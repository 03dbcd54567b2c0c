"""Zips and tars of image files, read in place."""

import os
import pathlib
import tarfile
import threading
import zipfile
import zlib

import numpy as np

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.base import (
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


class Zip(Source):
    """The image files in a zip.

    If all of them lie in one top-level folder, that folder is the root. Every thread of every
    process opens the file for itself: threads would wait for each other on one handle, and forked
    processes would move its position under each other.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _archive(path, "zip")
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.path} is not a zip, or was not copied to its end: check it with "
                f"`unzip -t {self.path}`, or unpack it and use source='folder'"
            )
        self.identity, self.name = f"zip:{self.path}", self.path.name
        self._handles = threading.local()
        places: dict[str, int] = {}
        self.refused = []
        try:
            listed = self._open().infolist()
        except Exception as error:
            # zipfile raises what it meets in a broken table: NotImplementedError, UnicodeError ...
            raise ValueError(
                f"the table of contents of {self.path} cannot be read: {type(error).__name__}: "
                f"{error}; unpack it and use source='folder'"
            ) from error
        for place, member in enumerate(listed):
            name = member.filename
            if name.endswith("/"):
                continue
            reason = _why_refused(name, name in places, member.file_size)
            if is_image(name) and reason is None:
                reason = _why_unreadable(member)
            if reason:
                self.refused.append(Excluded(name, reason))
            elif is_image(name):
                places[name] = place
        names = sorted(places)
        prefix = _common_folder(names)
        self.refused = _below(prefix, self.refused)
        # Not by name, which a second entry may have too.
        self._places = np.array([places[name] for name in names], np.int64)
        self.entries = make_entries(
            [name.removeprefix(prefix) for name in names],
            [listed[place].file_size for place in self._places],
            [listed[place].CRC for place in self._places],
        )

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_handles"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _handles=threading.local())

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        size = self.entries["bytes"][row].as_py()
        try:
            archive = self._open()
            with archive.open(archive.infolist()[self._places[row]]) as file:
                # With the size, no more is decompressed than the entry declares.
                data = file.read(size)
        except (
            OSError, RuntimeError, EOFError, KeyError, NotImplementedError,
            zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if len(data) < size:
            raise ValueError(f"the entry declares {size} bytes, but holds {len(data)}")
        return data

    def _open(self) -> zipfile.ZipFile:
        # A fork inherits the handle together with its position in the file, hence the process id.
        if getattr(self._handles, "pid", None) != os.getpid():
            self._handles.zip = zipfile.ZipFile(self.path)
            self._handles.pid = os.getpid()
        return self._handles.zip


class Tar(Source):
    """The image files in a tar that is not compressed; its root as of a zip."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _archive(path, "tar")
        self.identity, self.name = f"tar:{self.path}", self.path.name
        self.refused = []
        members: dict[str, tarfile.TarInfo] = {}
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in archive:
                    if archive.offset <= member.offset:
                        at = f"{member.offset:,}"
                        raise ValueError(f"the entry at byte {at} is of a negative size")
                    if not member.isdir():
                        self._take(member, members)
                with self.path.open("rb") as file:
                    file.seek(archive.offset)
                    # tarfile ends without a word where it finds no header.
                    if any(file.read(tarfile.BLOCKSIZE)):
                        raise ValueError(f"no header at byte {archive.offset:,}")
        except Exception as error:
            # tarfile raises what it meets in a broken header: RecursionError, MemoryError ...
            raise ValueError(
                f"{self.path} cannot be read in place: {error}. If it is compressed, decompress it "
                "once (gunzip, unxz, zstd -d): a compressed tar has no random access"
            ) from error
        names = sorted(members)
        prefix = _common_folder(names)
        self.refused = _below(prefix, self.refused)
        self._offsets = np.array([members[name].offset_data for name in names], np.int64)
        self.entries = make_entries(
            [name.removeprefix(prefix) for name in names],
            [members[name].size for name in names],
            # A header can hold any number, and what is none.
            [int(min(max(0, members[name].mtime), 2**62)) for name in names],
        )

    def _take(self, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> None:
        name = member.name.removeprefix("./")
        reason = _why_refused(name, name in members, member.size)
        if is_image(name) and reason is None and (not member.isreg() or member.issparse()):
            reason = "a link or another entry that holds no file of its own"
        if reason:
            self.refused.append(Excluded(readable(name), reason))
        elif is_image(name):
            members[name] = member

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        size = self.entries["bytes"][row].as_py()
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, int(self._offsets[row]))
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
    if member.flag_bits & 1:
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
