"""Zips and tars of image files, read in place."""

import os
import pathlib
import tarfile
import threading
import zipfile
import zlib

import numpy as np

from kt_jax.data.sources.base import (
    Excluded,
    Source,
    existing,
    is_image,
    is_safe,
    make_entries,
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
        members: dict[str, zipfile.ZipInfo] = {}
        self.refused = []
        for member in self._open().infolist():
            if member.is_dir():
                continue
            reason = _why_refused(member.filename, member.filename in members)
            if is_image(member.filename) and reason is None and member.flag_bits & 1:
                reason = "encrypted"
            if reason:
                self.refused.append(Excluded(member.filename, reason))
            elif is_image(member.filename):
                members[member.filename] = member
        names = sorted(members)
        self._prefix = _common_folder(names)
        self.refused = _below(self._prefix, self.refused)
        self.entries = make_entries(
            [name.removeprefix(self._prefix) for name in names],
            [members[name].file_size for name in names],
            [members[name].CRC for name in names],
        )

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_handles"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _handles=threading.local())

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        name = self._prefix + self.entries["key"][row].as_py()
        try:
            return self._open().read(name)
        except (
            OSError, RuntimeError, EOFError, KeyError, NotImplementedError,
            zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            raise ValueError(f"{type(error).__name__}: {error}") from error

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
                    if not member.isdir():
                        self._take(member, members)
        except tarfile.ReadError as error:
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
            [int(members[name].mtime) for name in names],
        )

    def _take(self, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> None:
        name = member.name.removeprefix("./")
        reason = _why_refused(name, name in members)
        if is_image(name) and reason is None and (not member.isreg() or member.issparse()):
            reason = "a link or another entry that holds no file of its own"
        if reason:
            self.refused.append(Excluded(name, reason))
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


def _why_refused(name: str, known: bool) -> str | None:
    if not is_image(name):
        return why_not(name)
    if not is_safe(name):
        return "an unsafe name: absolute, or with '..' in it"
    return "a second entry of the same name" if known else None


def _common_folder(names: list[str]) -> str:
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _below(prefix: str, refused: list[Excluded]) -> list[Excluded]:
    below = [
        Excluded(each.key.removeprefix(prefix) if is_safe(each.key) else each.key, each.reason)
        for each in refused
    ]
    return sorted(below, key=lambda each: each.key)
