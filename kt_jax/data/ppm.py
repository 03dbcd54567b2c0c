"""Pictures without compression: binary PPM (P6) of 8 bits, which any program reads."""

import re

import numpy as np
from jaxtyping import UInt8

# No comments, and 255 for white: others are Pillow's.
_HEADER = re.compile(rb"P6\s(\d{1,9})\s(\d{1,9})\s255\s")


def encode(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns the bytes of a picture: a header of about 15 bytes and 3 bytes for each pixel."""
    height, width = pixels.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def decode(data: bytes, most: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """Returns the pixels, which are a read-only view of `data`.

    None if Pillow must read the bytes or refuse them: they have another header, are too few, or
    have more than `most` pixels.
    """
    header = _HEADER.match(data)
    if header is None:
        return None
    width, height = map(int, header.groups())
    if width * height > most or len(data) - header.end() < 3 * width * height:
        return None
    flat = np.frombuffer(data, np.uint8, 3 * width * height, header.end())
    return flat.reshape(height, width, 3)
