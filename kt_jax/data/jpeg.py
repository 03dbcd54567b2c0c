"""What the markers of a JPEG say, without decoding it."""

import re

import numpy as np

# Encoders of progressive JPEGs make about ten. Each may cost a walk over all pixels, in few bytes.
MAX_SCANS = 100

_SCAN = b"\xff\xda"
_END_OF_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # the next marker but RSTn
_WITH_LENGTH = bytes([*range(0xC0, 0xD0), *range(0xDA, 0xFF)])


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


def find_exif(data: bytes) -> bytes | None:
    """Returns the EXIF segment, None if there is none before the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN[1]:
        length = int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 4 : at + 2 + length]
        at += 2 + length
    return None
