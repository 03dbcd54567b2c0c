"""Decoding an image file to a square RGB array, and examining one."""

import contextlib
import functools
import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import PIL
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from kt_jax.data import jpeg

# The only readers that Pillow may try. Others reach further than a data set should: EPS, for one,
# starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Tells who refused an image: another decoder may read it. Count up when one that was refused is
# read now.
DECODER = f"1, Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"
MAX_PIXELS = 200_000_000
# The pixels that are allowed, uncompressed, and then some. Larger files are not even read.
MAX_BYTES = 2**30
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
_STRIP_PIXELS = 4_000_000
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
# What libjpeg says of data that end too early; 0xd9 is the end marker.
_CUT_OFF = re.compile("[Pp]remature end|found marker 0xd9")


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
        side more than 50 times the other; or it is a JPEG of more than 100 scans. The message is
        the reason.
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


def why_too_large(size: int) -> str | None:
    """Why a file of this many bytes is refused, None if it may be read."""
    return f"{size:,} bytes are more than {MAX_BYTES:,}" if size > MAX_BYTES else None


def _decode(
    data: bytes, short_side: int, *, grey: bool = False
) -> tuple[np.ndarray, int, tuple[int, int], str]:
    """Pixels (RGB, or grey if asked for and cheaper), orientation, full size, mode.

    A JPEG is decoded at the smallest of the eighths of its size that leaves `short_side` px.
    """
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    unknown = f"not an image in any format that is read here ({', '.join(FORMATS)})"
    if data[:2] == b"\xff\xd8":
        header = jpeg.read_header(data)
        if header.many_scans:
            data = jpeg.limit_scans(data)
        try:
            return _decode_jpeg(data, header.exif, short_side, grey)
        except _Refused:
            raise
        except ValueError as error:
            # Pillow reads some that simplejpeg refuses, and says better what is wrong; but with
            # grey it fills up what an end marker cuts off.
            if _CUT_OFF.search(str(error)):
                raise ValueError(f"truncated: {error}") from error
            unknown = f"a JPEG that cannot be read: {error}"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_shape(height, width)
            mode = image.mode
            image.draft("RGB", (short_side, short_side))
            with _alone_if_large(height, width):
                image.load()
                pixels = _to_rgb(image, short_side)
            # Of a TIFF, loading has turned the picture, and removed the orientation.
            orientation = _orientation(image.getexif)
    except (ValueError, MemoryError):
        # Of a want of memory, the image is not to blame.
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError(unknown) from error
    except Exception as error:
        # Pillow's readers raise whatever they meet in a broken file: OSError, SyntaxError,
        # struct.error, zlib.error, IndexError ... To us it is one thing: no image.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return pixels, orientation, (height, width), mode


def _decode_jpeg(
    data: bytes, exif: bytes | None, short_side: int, grey: bool
) -> tuple[np.ndarray, int, tuple[int, int], str]:
    *shape, colours, _ = simplejpeg.decode_jpeg_header(data)
    height, width = map(int, shape)
    _check_shape(height, width)
    if colours not in _JPEG_MODES:
        simplejpeg.decode_jpeg(data, "CMYK", min_height=MIN_SIDE, min_width=MIN_SIDE)
        raise ValueError(f"simplejpeg reads {colours}, but does not convert it")
    with _alone_if_large(height, width):
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if grey else "RGB", min_height=short_side, min_width=short_side
        )
    if grey:
        pixels = pixels[..., 0]
    orientation = 1 if exif is None else _orientation(functools.partial(_exif, exif))
    return pixels, orientation, (height, width), _JPEG_MODES[colours]


def _exif(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        orientation = read().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
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
    ratio = min(pixels.shape[:2]) / min(shape)
    if ratio >= 2:
        how = cv2.INTER_AREA
    else:
        # Below 2:1 a bilinear look skips no pixel, and takes a fifth of the time of areas.
        how = cv2.INTER_LINEAR if ratio > 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, shape[::-1], interpolation=how)


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


def _to_rgb(image: Image.Image, short_side: int) -> np.ndarray:
    width, height = image.size
    if width * height <= _LARGE_PIXELS:
        return np.asarray(_opaque(image))
    # In strips, and smaller by whole numbers as far as `short_side` allows twice over: else the
    # copies of a large picture would take several times its memory.
    factor = max(1, min(width, height) // (2 * short_side))
    rows = factor * -(-_STRIP_PIXELS // (factor * width))
    strips = []
    for top in range(0, height, rows):
        strip = _opaque(image.crop((0, top, width, min(top + rows, height))))
        strips.append(np.asarray(strip.reduce(factor)))
    return np.concatenate(strips)


def _opaque(image: Image.Image) -> Image.Image:
    """The image in RGB, its transparent pixels laid on white."""
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
