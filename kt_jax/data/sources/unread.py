"""Explains files that no source can read, by their first bytes, and says what to do."""

import contextlib
import lzma
import pathlib
import re
import shlex
import struct
import tarfile
import zlib

# First bytes of compressed files: the format, and the command to decompress them.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ\0": ("xz", "unxz -c"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -dc"),
    b"\x5d\0\0": ("lzma", "unlzma -c"),
    b"\x1f\x9d": ("compress", "uncompress -c"),
}
_SHORT = {".tgz": ".tar", ".tbz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar"}
_LONG = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".z", ".zstd")
# First bytes of other files: what they are, and what to do.
_OTHERS = {
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive, which is not read: unpack it, 7z x {path}",
    b"Rar!": "is a RAR archive, which is not read: unpack it, unrar x {path}",
    b"\xd0\xcf\x11\xe0": "is a document of Office: save its table as .csv",
    b"version https://git-lfs": (
        "is a pointer of Git LFS, not the file itself: fetch that, git lfs pull"
    ),
    b"<!DOCTYPE html": "is a web page, not what its name says: download it again",
    b"<html": "is a web page, not what its name says: download it again",
}
# Names of parts by 7-Zip and split. "gz" and similar endings are not numbers.
_PART = re.compile(
    r"(?P<whole>.+\.(zip|7z|tar|tar\.\w+|t\w?z2?))[._-](part[._-]?)?"
    r"(?P<number>\d{2,}|(?!gz|xz|lz|bz)[a-z]{2})"
)
_ZIP_PART = re.compile(r"(?P<whole>.+)\.z\d\d", re.IGNORECASE)
# The number of the last disk of a zip; for a zip64, the number of disks.
_END_OF_ZIP = struct.Struct("<4sH")
_ZIP64_LOCATOR = struct.Struct("<4s12xI")
_MAX_COMMENT = 65_535


def explain(path: pathlib.Path) -> str | None:
    """Returns a line about a file that no source reads, and what to do; None for other files."""
    with path.open("rb") as file:
        head = file.read(32)
    for magic, (how, command) in _COMPRESSED.items():
        if head.startswith(magic):
            what = "a tar compressed by" if _is_tar(path) else "compressed by"
            typed = f"{command} {_quote(path)} > {_quote(_decompressed(path))}"
            return (
                f"{path} is {what} {how}, which cannot be read in place: decompress it once, "
                f"{typed}, and name the result as PATH"
            )
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return f"{path} {what.format(path=_quote(path))}"
    return None


def explain_split(path: pathlib.Path) -> str | None:
    """Returns a line about a part of a split archive, and how to join it; None if not split."""
    if match := _ZIP_PART.fullmatch(str(path)):
        return _explain_zip_part(path, pathlib.Path(f"{match['whole']}.zip"))
    if match := _PART.fullmatch(str(path)):
        whole = pathlib.Path(match["whole"])
        if whole.suffix == ".7z":
            return f"{path} is one part of a split 7z archive: unpack it, 7z x {_quote(path)}"
        number = match["number"]
        parts = _quote(pathlib.Path(str(path)[: -len(number)])) + "?" * len(number)
        return (
            f"{path} is one part of a split archive: join its parts once, cat {parts} > "
            f"{_quote(_sibling(whole, 'joined'))}, and name the result as PATH"
        )
    return _explain_zip_part(path, path) if _is_last_part(path) else None


def _explain_zip_part(path: pathlib.Path, last: pathlib.Path) -> str:
    joined = _sibling(last, "joined")
    return (
        f"{path} is one part of a split zip: join its parts once, zip -s 0 {_quote(last)} --out "
        f"{_quote(joined)}, and name {joined} as PATH"
    )


def _is_last_part(path: pathlib.Path) -> bool:
    """Whether a zip declares that it ends on another disk than the first."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MAX_COMMENT - 42))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END_OF_ZIP.size > len(tail):
        return False
    locator = tail[max(0, at - _ZIP64_LOCATOR.size) : at]
    if locator.startswith(b"PK\6\7"):
        return _ZIP64_LOCATOR.unpack(locator)[1] > 1
    return _END_OF_ZIP.unpack_from(tail, at)[1] > 0


def _is_tar(path: pathlib.Path) -> bool:
    if ".tar" in path.name.lower() or path.suffix.lower() in _SHORT:
        return True
    with contextlib.suppress(OSError, EOFError, zlib.error, lzma.LZMAError):
        return tarfile.is_tarfile(path)
    return False


def _decompressed(path: pathlib.Path) -> pathlib.Path:
    """Returns a name for the decompressed file."""
    suffix = path.suffix.lower()
    if suffix in _SHORT:
        return path.with_suffix(_SHORT[suffix])
    return path.with_suffix("") if suffix in _LONG else _sibling(path, "decompressed")


def _sibling(path: pathlib.Path, word: str) -> pathlib.Path:
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


def _quote(path: pathlib.Path) -> str:
    return shlex.quote(str(path))
