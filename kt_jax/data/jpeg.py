"""What the markers of a JPEG say, without decoding it."""

import re
from typing import NamedTuple

import numpy as np

# Encoders of progressive JPEGs make about ten. Each may cost a walk over all pixels, in few bytes.
MAX_SCANS = 100

_SCAN = b"\xff\xda"
_END_OF_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # the next marker but RSTn
_WITH_LENGTH = bytes([*range(0xC0, 0xD0), *range(0xDA, 0xFF)])


class Header(NamedTuple):
    """The EXIF segment, None if there is none, and whether there may be more than one scan."""

    exif: bytes | None
    many_scans: bool


def limit_scans(data: bytes) -> bytes:
    """Returns the JPEG, without what follows its end if that looks like many scans.

    Raises:
      ValueError: they are scans of the picture, and more than 100.
    """
    octets = np.frombuffer(data, np.uint8)
    if np.count_nonzero(octets[1:][octets[:-1] == _SCAN[0]] == _SCAN[1]) <= MAX_SCANS:
        return data
    at, scans = 2, 0
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] in _WITH_LENGTH:
        scan = data[at : at + 2] == _SCAN
        scans += scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if scan and (end := _END_OF_SCAN.search(data, at)):
            at = end.end() - 2
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans are more than {MAX_SCANS}")
    # A marker that the walk did not expect may hide more: what the walk has not seen is left out.
    return data[: at + 2]


def read_header(data: bytes) -> Header:
    """Returns what the segments before the pixels say."""
    at, exif, sequential, components = 2, None, False, 0
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN[1]:
            # A sequential JPEG whose first scan has all components is read no further.
            return Header(exif, not sequential or data[at + 4] != components)
        if marker == 0xE1 and exif is None and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = data[at + 4 : at + 2 + length]
        elif marker in (0xC0, 0xC1):
            sequential, components = True, data[at + 9]
        at += 2 + length
    return Header(exif, many_scans=True)
