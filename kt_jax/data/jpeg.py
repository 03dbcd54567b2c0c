"""What the markers of a JPEG say, without decoding it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Encoders of progressive JPEGs make about ten. Each may cost a walk over all pixels, in few bytes.
MAX_SCANS = 100

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SCAN_DATA = 0  # no marker: the coded pixels that follow the header of a scan
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # any number of 0xff may lie before a marker
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # the next marker but RSTn
_ALONE = (0x01, *range(0xD0, 0xD9))  # no length follows these
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_EXIF = b"Exif\0\0"
_MAX_EXIF = 2**20  # bytes: its first directory, which counts, lies near its beginning
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# What a disk or a download leaves in the place of data: one byte again and again, or text.
_FILLING = re.compile(rb"(.)\1{7}|[\t-\r -~]{8}", re.DOTALL)


class Header(NamedTuple):
    """What is said before the pixels.

    Attributes:
      exif: the EXIF segment, None if there is none.
      xmp: the XMP packet, None if there is none.
      many_scans: whether there may be more than one scan.
    """

    exif: bytes | None
    xmp: bytes | None
    many_scans: bool


def read_header(data: bytes) -> Header:
    """Returns what the segments before the pixels say."""
    exif, xmp, sequential, components = None, None, False, 0
    for marker, start, end in _segments(data):
        if marker == _SCAN[1]:
            # A sequential JPEG whose first scan has all components is read no further.
            many_scans = not sequential or data[start : start + 1] != bytes([components])
            return Header(exif, xmp, many_scans)
        if marker == 0xE1:
            if data.startswith(_EXIF, start):
                # A second segment continues the first, which has room for 64 KB.
                if exif is None:
                    exif = data[start:end]
                elif len(exif) < _MAX_EXIF:
                    exif += data[start + len(_EXIF) : end]
            elif data.startswith(_XMP, start):
                xmp = data[start + len(_XMP) : end]
        elif marker in (0xC0, 0xC1):
            sequential, components = True, int.from_bytes(data[start + 5 : start + 6])
    return Header(exif, xmp, many_scans=True)


def limit_scans(data: bytes) -> bytes:
    """Returns the JPEG, without what follows its end if that looks like many scans.

    Raises:
      ValueError: they are scans of the picture, and more than 100.
    """
    octets = np.frombuffer(data, np.uint8)
    if np.count_nonzero(octets[1:][octets[:-1] == _SCAN[0]] == _SCAN[1]) <= MAX_SCANS:
        return data
    scans, seen = 0, 2
    for marker, _, end in _segments(data):
        scans += marker == _SCAN[1]
        seen = end
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans are more than {MAX_SCANS}")
    # A marker that the walk did not expect may hide more: what the walk has not seen is dropped.
    return data[:seen]


def add_end(data: bytes) -> bytes:
    """Returns a JPEG that lacks its end marker, or half of it, with one after its last scan.

    Zeros at its end are dropped: they would be decoded as pixels. Whether the last scan is complete
    is for a decoder to say.

    Raises:
      ValueError: it has an end marker, or not all its scans.
    """
    if data.endswith(_END):
        raise ValueError("pixels are missing before the end marker")
    if not _has_all_scans(data):
        raise ValueError("the end marker is missing, and scans before it")
    coded = data.rstrip(b"\0")
    if coded.endswith(b"\xff") and len(coded) < len(data):
        return coded + b"\0" + _END  # 0xff among coded pixels has a zero behind it
    return coded.removesuffix(b"\xff") + _END


def ends_in_filling(data: bytes, unused: int) -> bool:
    """Whether what was decoded as the last pixels looks like no pixels.

    Args:
      data: a JPEG that ends with its end marker.
      unused: bytes before the end marker that no pixel needed, as libjpeg counts them: up to eight
        more were read ahead.
    """
    end = len(data) - len(_END) - unused
    return _FILLING.fullmatch(data[end - 16 : end - 8]) is not None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end (behind marker and length) of every segment, up to nonsense."""
    at = 2
    while found := _MARKER.match(data, at):
        marker, start = data[found.end() - 1], found.end()
        if marker == _END[1]:
            yield marker, start, start
            return
        if marker in _ALONE:
            at = start
            continue
        at = start + int.from_bytes(data[start : start + 2])
        yield marker, start + 2, at
        if marker == _SCAN[1]:
            next_marker = _END_OF_SCAN.search(data, at)
            start, at = at, next_marker.start() if next_marker else len(data)
            yield _SCAN_DATA, start, at


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans that begin hold every bit of every coefficient of every component."""
    missing: dict[int, set[int]] = {}
    progressive = False
    try:
        for marker, start, end in _segments(data):
            body = data[start:end]
            if marker in _FRAMES:
                progressive = marker & 3 == 2
                missing = {body[6 + 3 * i]: set(range(64)) for i in range(body[5])}
            elif marker == _SCAN[1]:
                behind = 1 + 2 * body[0]
                first, last, bits = body[behind : behind + 3]
                if not progressive:
                    first, last = 0, 63
                elif bits & 15:  # the lowest bits follow in another scan
                    continue
                for component in body[1:behind:2]:
                    missing[component] -= set(range(first, last + 1))
    except (IndexError, KeyError, ValueError):  # a segment is too short, or names no component
        return False
    return bool(missing) and not any(missing.values())
