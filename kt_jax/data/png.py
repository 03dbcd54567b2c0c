"""Reads the chunks of a PNG, without those that do not affect its pixels."""

import zlib
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Limit on unpacked metadata, which are only searched for an orientation.
_MAX_UNPACKED = 2**20
_ANCILLARY = 0x20  # this bit of a chunk's first letter: a reader may skip the chunk
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILES = {b"Raw profile type exif": "exif", b"Raw profile type APP1": "APP1"}


class Chunks(NamedTuple):
    """Contents of a PNG.

    Attributes:
      data: the PNG with only its critical chunks and the transparency.
      depth: bits per stored sample.
      exif: the EXIF data; None if there are none.
      xmp: the XMP packet; None if there is none.
    """

    data: bytes
    depth: int
    exif: bytes | None
    xmp: bytes | None


def read_chunks(data: bytes) -> Chunks:
    """Returns the chunks of a PNG.

    Ancillary chunks are dropped, with any size or checksum: profiles, texts, times, further frames
    of an animation. So a text that unpacks to gigabytes does no harm. The transparency is kept, as
    decoders need it. Data that are not chunks are kept, too.
    """
    kept, start, at = [], 0, len(SIGNATURE)
    found: dict[str, bytes] = {}
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        if end > len(data) or not kind.isalpha():
            break
        if kind[0] & _ANCILLARY and kind != b"tRNS":
            kept.append(data[start:at])
            start = end
            if kind == b"eXIf" or kind in _TEXTS:
                found |= _metadata(kind, data[at + 4 : end])
        at = end
    data = b"".join([*kept, data[start:]]) if kept else data
    exif = found.get("eXIf", found.get("exif", found.get("APP1")))
    depth = int.from_bytes(data[24:25])
    return Chunks(data, depth, exif, found.get("XML:com.adobe.xmp"))


def _metadata(kind: bytes, chunk: bytes) -> dict[str, bytes]:
    """Returns the metadata in a chunk (kind, body, checksum) by name; empty if broken."""
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        return {}
    body = chunk[4:-4]
    if kind == b"eXIf":
        return {"eXIf": body}
    name, _, text = body.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = text[:1] == b"\1"
        # Skip two bytes on compression, the language, and the name in that language.
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        text = text[1:]
    try:
        if name == b"XML:com.adobe.xmp":
            return {"XML:com.adobe.xmp": _unpack(text) if packed else text}
        if of := _PROFILES.get(name):
            # The text is a line feed, the name, the length, and hexadecimal digits.
            lines = (_unpack(text) if packed else text).split(b"\n")[3:]
            profile = bytes.fromhex(b"".join(lines).decode("ascii"))
            # APP1 may hold XMP instead.
            return {of: profile} if of == "exif" or profile.startswith(b"Exif\0\0") else {}
    except (zlib.error, ValueError):
        pass
    return {}


def _unpack(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, _MAX_UNPACKED)
