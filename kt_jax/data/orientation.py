"""How a stored picture must be turned to stand upright."""

import re

import numpy as np
from PIL import ExifTags, Image

# As an attribute, or as an element.
_IN_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""")


def find_orientation(said: int | None, xmp: bytes | None) -> int:
    """Returns the orientation of a picture: 1 to 8, where 1 is upright.

    The rule is that of Pillow, for every format: what EXIF or the tag of a TIFF says counts. XMP
    counts where they do not say anything.

    Args:
      said: the orientation that EXIF, or the tag of a TIFF, says; None if neither does.
      xmp: the XMP packet, None if there is none.
    """
    if said is None and xmp is not None and (found := _IN_XMP.search(xmp)):
        said = int(found[1])
    return 1 if said is None or said not in range(1, 9) else said


def read_exif(exif: bytes | None) -> int | None:
    """Returns the orientation that EXIF data say, None if they do not, or are broken.

    That of the first directory counts; the second is of the thumbnail.
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
        return None  # Pillow raises all sorts; broken EXIF does not make a broken picture.


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a view of the pixels (`[h, w]` or `[h, w, c]`) that is upright."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right]


def swaps_sides(orientation: int) -> bool:
    """Whether the height of the stored picture is the width of the upright one."""
    return orientation >= 5
