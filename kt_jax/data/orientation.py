"""Reads the orientation of pictures, and turns them upright."""

import re

import numpy as np
from PIL import ExifTags, Image

# As an XML attribute or element.
_IN_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""")


def find_orientation(said: int | None, xmp: bytes | None) -> int:
    """Returns the orientation of a picture: 1 to 8, where 1 is upright.

    The rule is Pillow's, for every format: EXIF or the tag of a TIFF has priority. XMP is used if
    these have no orientation.

    Args:
      said: the orientation in EXIF or in the tag of a TIFF; None if there is none.
      xmp: the XMP packet; None if there is none.
    """
    if said is None and xmp is not None and (found := _IN_XMP.search(xmp)):
        said = int(found[1])
    return 1 if said is None or said not in range(1, 9) else said


def read_exif(exif: bytes | None) -> int | None:
    """Returns the orientation in EXIF data; None if there is none, or the data are broken.

    It is read from the first directory. The second belongs to the thumbnail.
    """
    if exif is None:
        return None
    directory = Image.Exif()
    try:
        directory.load(exif)
        return directory.get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:
        return None  # Pillow raises many types. Broken EXIF does not make the picture broken.


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an upright view of the pixels, `[h, w]` or `[h, w, c]`."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right]


def swaps_sides(orientation: int) -> bool:
    """Whether turning the picture upright swaps height and width."""
    return orientation >= 5
