"""Reads the markers of a JPEG, without decoding it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Encoders of progressive JPEGs make about ten. A scan of few bytes may take a pass over all pixels.
MAX_SCANS = 100

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SCAN_DATA = 0  # not a marker: the coded pixels after the header of a scan
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # any number of 0xff may precede a marker
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # the next marker, except RSTn
_ALONE = (0x01, *range(0xD0, 0xD9))  # no length follows these
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_EXIF = b"Exif\0\0"
_MAX_EXIF = 2**20  # bytes: the first directory, which is used, is near the start
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# Wrong data that a disk or a download leaves: one repeated byte, or text.
_FILLING = re.compile(rb"(.)\1{7}|[\t-\r -~]{8}", re.DOTALL)


class Header(NamedTuple):
    """The segments before the pixels.

    Attributes:
      exif: the EXIF segment; None if there is none.
      xmp: the XMP packet; None if there is none.
      many_scans: whether there may be more than one scan.
    """

    exif: bytes | None
    xmp: bytes | None
    many_scans: bool


def read_header(data: bytes) -> Header:
    """Reads the segments before the pixels."""
    exif, xmp, sequential, components = None, None, False, 0
    for marker, start, end in _segments(data):
        if marker == _SCAN[1]:
            # A sequential JPEG has one scan if its first scan has all components.
            many_scans = not sequential or data[start : start + 1] != bytes([components])
            return Header(exif, xmp, many_scans)
        if marker == 0xE1:
            if data.startswith(_EXIF, start):
                # A second segment continues the first, which is limited to 64 KB.
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
    """Returns the JPEG, without data after its end that look like many scans.

    Raises:
      ValueError: the picture itself has more than 100 scans.
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
    # An unexpected marker may hide more scans: drop all data that were not walked.
    return data[:seen]


def add_end(data: bytes) -> bytes:
    """Adds an end marker after the last scan of a JPEG that has none, or half of one.

    Zeros at the end are dropped, because they would be decoded as pixels. It does not check that
    the last scan is complete: a decoder does.

    Raises:
      ValueError: the JPEG has an end marker, or lacks some scans.
    """
    if data.endswith(_END):
        raise ValueError("pixels are missing before the end marker")
    if not _has_all_scans(data):
        raise ValueError("the end marker is missing, and scans before it")
    coded = data.rstrip(b"\0")
    if coded.endswith(b"\xff") and len(coded) < len(data):
        return coded + b"\0" + _END  # in coded pixels, a zero follows 0xff
    return coded.removesuffix(b"\xff") + _END


def ends_in_filling(data: bytes, unused: int) -> bool:
    """Whether the data of the last pixels look like filling, not like pixels.

    Args:
      data: a JPEG that ends with its end marker.
      unused: bytes before the end marker that no pixel needed, by libjpeg's count. It has read up
        to eight more ahead.
    """
    end = len(data) - len(_END) - unused
    return _FILLING.fullmatch(data[end - 16 : end - 8]) is not None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start (after the length) and end of the segments up to an invalid one."""
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
    """Whether the started scans have every bit of every coefficient of every component."""
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
                elif bits & 15:  # another scan has the lowest bits
                    continue
                for component in body[1:behind:2]:
                    missing[component] -= set(range(first, last + 1))
    except (IndexError, KeyError, ValueError):  # a segment is short, or names no component
        return False
    return bool(missing) and not any(missing.values())
