"""Decoding an image file to a square RGB array, and examining one."""

import contextlib
import functools
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

# The only readers that Pillow may try. Others reach further than a data set should: EPS, for one,
# starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 200_000_000
MIN_SIDE = 8
MAX_ASPECT = 50
THUMBNAIL = 32

# Pillow would warn from 89 megapixels on, one line an image. The limit is checked below.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Batches are decoded by several threads already.
cv2.setNumThreads(1)

# Pictures of more pixels than this are decoded one at a time, so that many threads that meet them
# together do not add up their memory.
_LARGE_PIXELS = 25_000_000
_large = threading.Lock()

_EXIF_ORIENTATION = 0x0112
_TURNS = {  # orientation: (whether axes are swapped, then which are reversed)
    2: (False, (slice(None), slice(None, None, -1))),
    3: (False, (slice(None, None, -1), slice(None, None, -1))),
    4: (False, (slice(None, None, -1), slice(None))),
    5: (True, (slice(None), slice(None))),
    6: (True, (slice(None), slice(None, None, -1))),
    7: (True, (slice(None, None, -1), slice(None, None, -1))),
    8: (True, (slice(None, None, -1), slice(None))),
}
_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB", "RGB": "RGB"}


@dataclass(frozen=True, eq=False)
class Examined:
    """What a readable image is.

    Attributes:
      height: of the upright picture, in pixels.
      width: of the upright picture, in pixels.
      mode: Pillow's word for how its pixels are stored, such as "RGB", "L", "CMYK", "P", "I;16".
      thumbnail: the whole upright picture in grey, uint8 `[32, 32]`: what tells near duplicates.
    """

    height: int
    width: int
    mode: str
    thumbnail: UInt8[np.ndarray, "32 32"]


def decode_image(data: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Decodes an image: upright, RGB, short side resized to `size`, centre crop.

    Args:
      data: the bytes of the file.
      size: the side of the result, in pixels.

    Returns:
      uint8 `[size, size, 3]`. Transparent pixels are laid on white; 16-bit grey keeps its high
      byte; CMYK is converted without colour profile; of an animation the first frame is taken.

    Raises:
      ValueError: the bytes are no complete image; or its pixels have no known range (float and
        32-bit integer TIFF); or it has more than 200 megapixels, a side of fewer than 8, or one
        side more than 50 times the other. The message is the reason.
    """
    pixels, orientation = _decode(data, size)[:2]
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = _resize(pixels[top : top + side, left : left + side], (size, size))
    # A square turned after the centre crop is the crop of the turned image, and cheaper.
    return np.ascontiguousarray(_turn(square, orientation))


def decode_upright(data: bytes, short_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a whole image: upright, RGB, resized to the short side if that is longer.

    Args, conversions and errors as in `decode_image`.
    """
    pixels, orientation = _decode(data, short_side)[:2]
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale < 1:
        pixels = _resize(pixels, (round(height * scale), round(width * scale)))
    return np.ascontiguousarray(_turn(pixels, orientation))


def examine_image(data: bytes) -> Examined:
    """Decodes an image to say what it is; errors as in `decode_image`."""
    pixels, orientation, (height, width), mode = _decode(data, THUMBNAIL, grey=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    thumbnail = _turn(_resize(pixels, (THUMBNAIL, THUMBNAIL)), orientation)
    if orientation >= 5:
        height, width = width, height
    return Examined(height, width, mode, np.ascontiguousarray(thumbnail))


def _decode(
    data: bytes, short_side: int, *, grey: bool = False
) -> tuple[np.ndarray, int, tuple[int, int], str]:
    """Pixels (RGB, or grey if asked for and cheaper), orientation, full size, mode.

    A JPEG is decoded at the smallest of the eighths of its size that leaves `short_side` px.
    """
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    if data[:2] == b"\xff\xd8":
        try:
            return _decode_jpeg(data, short_side, grey)
        except _Refused:
            raise
        except ValueError:
            pass  # Pillow reads some that simplejpeg refuses, and says better what is wrong.
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_shape(height, width)
            mode = image.mode
            image.draft("RGB", (short_side, short_side))
            orientation = _orientation(image.getexif)
            with _alone_if_large(height, width):
                pixels = np.asarray(_to_rgb(image))
    except ValueError:
        raise
    except Exception as error:
        # Pillow's readers raise whatever they meet in a broken file: OSError, SyntaxError,
        # struct.error, zlib.error, IndexError ... To us it is one thing: no image.
        raise ValueError(_reason(error)) from error
    return pixels, orientation, (height, width), mode


def _decode_jpeg(
    data: bytes, short_side: int, grey: bool
) -> tuple[np.ndarray, int, tuple[int, int], str]:
    *shape, colours, _ = simplejpeg.decode_jpeg_header(data)
    height, width = map(int, shape)
    _check_shape(height, width)
    if colours not in _JPEG_MODES:
        raise ValueError(f"simplejpeg does not convert {colours}")
    with _alone_if_large(height, width):
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if grey else "RGB", min_height=short_side, min_width=short_side
        )
    if grey:
        pixels = pixels[..., 0]
    return pixels, _jpeg_orientation(data), (height, width), _JPEG_MODES[colours]


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation, 1 where there is none: the markers are walked up to the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _orientation(functools.partial(_exif, data[at + 4 : at + 2 + length]))
        at += 2 + length
    return 1


def _exif(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        orientation = read().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1  # Pillow raises all sorts; broken EXIF does not make a broken picture.
    return orientation if orientation in _TURNS else 1


def _alone_if_large(height: int, width: int) -> contextlib.AbstractContextManager:
    return _large if height * width > _LARGE_PIXELS else contextlib.nullcontext()


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _TURNS:
        return pixels
    swapped, reversed_axes = _TURNS[orientation]
    return (pixels.swapaxes(0, 1) if swapped else pixels)[reversed_axes]


def _resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == shape:
        return pixels
    smaller = min(shape) < min(pixels.shape[:2])
    return cv2.resize(
        np.ascontiguousarray(pixels),
        shape[::-1],
        interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC,
    )


class _Refused(ValueError):
    """Refused for what it is, whichever decoder would read it."""


def _check_shape(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _Refused(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if min(height, width) < MIN_SIDE:
        raise _Refused(f"{width} x {height} pixels: both sides must be at least {MIN_SIDE}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise _Refused(
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixels of mode {image.mode!r} (32 bits) have no known range: save as 8 or 16 bits"
        )
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if "cannot identify image file" in str(error):
        return f"not an image in any format that is read here ({', '.join(FORMATS)})"
    return f"{type(error).__name__}: {error}"
