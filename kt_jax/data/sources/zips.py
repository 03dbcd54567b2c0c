"""Zips of image files, read without unpacking."""

import os
import shlex
import stat
import struct
import zipfile
import zlib

import numpy as np

from kt_jax.data.descriptor import Descriptor
from kt_jax.data.sources.archives import Archive
from kt_jax.data.sources.source import PathLike, make_entries
from kt_jax.data.sources.unread import explain, explain_split

# The header before the data of an entry; a name and extra fields of the given lengths follow.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# The flag of names in UTF-8, and the extra field with a name in UTF-8.
_IS_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_DOS_FOLDER = 0x10
# Every document of Office or OpenOffice is a zip with one of these files.
_OFFICE = {"[Content_Types].xml", "mimetype"}


class Zip(Archive):
    """The image files in a zip.

    The table of contents is read once, and only its numbers are kept. For a million entries,
    `zipfile` would take 0.8 GB in each thread.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__(path, "zip")
        if why := explain_split(self.path):
            raise ValueError(why)
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                explain(self.path)
                or f"{self.path} is not a zip, or was not copied to its end: check it with "
                f"`unzip -t {shlex.quote(str(self.path))}`, or unpack it and name the folder"
            )
        self._file = Descriptor(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                listed = archive.infolist()
        except Exception as error:
            # zipfile raises many types for a broken table: NotImplementedError, UnicodeError ...
            raise ValueError(
                f"the table of contents of {self.path} cannot be read: {type(error).__name__}: "
                f"{error}; unpack it and name the folder"
            ) from error
        if _OFFICE.intersection(member.filename for member in listed):
            raise ValueError(
                f"{self.path} is a document of Office, no zip of images: save its table as .csv"
            )
        named = ((_decode_name(member), member) for member in listed)
        members = self.choose(
            (name, member.file_size, _why_unreadable(member), member)
            for name, member in named
            if not _is_folder(member, name)
        )
        found = members.values()
        # A broken table of contents may have any number.
        offsets = [min(member.header_offset, 2**62) for member in found]
        self._offsets = np.array(offsets, np.int64)
        # Compression never doubles a file: read no more, even if an entry declares more.
        packed = [min(member.compress_size, 2 * member.file_size + 1024) for member in found]
        self._packed = np.array(packed, np.int64)
        self._deflated = np.array([bool(member.compress_type) for member in found], bool)
        self.entries = make_entries(
            list(members),
            [member.file_size for member in found],
            [member.CRC for member in found],
        )

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file. ValueError with the reason if it is unreadable."""
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
        """Returns the first `size` bytes of an entry, or all if it has fewer."""
        offset = int(self._offsets[row])
        header = os.pread(self._file.number, _LOCAL_HEADER.size, offset)
        if len(header) < _LOCAL_HEADER.size:
            raise ValueError("BadZipFile: Truncated file header")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            raise ValueError("BadZipFile: Bad magic number for file header")
        offset += _LOCAL_HEADER.size + name + extra
        data = os.pread(self._file.number, int(self._packed[row]), offset)
        if self._deflated[row]:
            # Decompress no more than the entry declares. A limit of 0 would mean all.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(size, 1))
        return data[:size]


def _decode_name(member: zipfile.ZipInfo) -> str:
    """Decodes the name of an entry: as UTF-8 if the zip has one, else as code page 437."""
    name = member.orig_filename
    if not member.flag_bits & _IS_UTF8:
        raw = name.encode("cp437")
        declared = _declared_name(member.extra, zlib.crc32(raw))
        try:
            # macOS writes UTF-8 without the flag.
            name = (declared or raw).decode()
        except UnicodeDecodeError:
            pass
    return name.partition("\0")[0]


def _is_folder(member: zipfile.ZipInfo, name: str) -> bool:
    """Whether an entry is a folder, by its name or by its DOS or Unix attributes."""
    marked = member.external_attr & _DOS_FOLDER or stat.S_ISDIR(_unix_mode(member))
    return name.endswith(("/", "\\")) or bool(marked and not member.file_size)


def _unix_mode(member: zipfile.ZipInfo) -> int:
    return member.external_attr >> 16


def _declared_name(extra: bytes, crc: int) -> bytes | None:
    """Returns the name in Info-ZIP's Unicode path field, if its CRC-32 is that of the name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[1:5] == crc.to_bytes(4, "little"):
            return field[5:]
    return None


def _why_unreadable(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 0x41:
        return "encrypted"
    if stat.S_ISLNK(_unix_mode(member)):
        return "a link, which holds no file of its own"
    # With other methods, zipfile may decompress more than the limit, to any size.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {member.compress_type}, not deflated: zip it again"
    return None
