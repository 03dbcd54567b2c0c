"""How a stored picture must be turned to stand upright."""

import re

import numpy as np
from PIL import ExifTags, Image

_TURNS = {  # orientation: (whether axes are swapped, then which are reversed)
    2: (False, (slice(None), slice(None, None, -1))),
    3: (False, (slice(None, None, -1), slice(None, None, -1))),
    4: (False, (slice(None, None, -1), slice(None))),
    5: (True, (slice(None), slice(None))),
    6: (True, (slice(None), slice(None, None, -1))),
    7: (True, (slice(None, None, -1), slice(None, None, -1))),
    8: (True, (slice(None, None, -1), slice(None))),
}
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
    return said if said in _TURNS else 1


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
    if orientation not in _TURNS:
        return pixels
    swapped, reversed_axes = _TURNS[orientation]
    return (pixels.swapaxes(0, 1) if swapped else pixels)[reversed_axes]


def swaps_sides(orientation: int) -> bool:
    """Whether the height of the stored picture is the width of the upright one."""
    return orientation >= 5
