"""Decodes image files to square RGB arrays, and examines them."""

import contextlib
import re
import threading
from dataclasses import dataclass

import cv2
import numpy as np
import PIL
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from kt_jax.data import jpeg, ppm
from kt_jax.data.formats import FORMATS, Stored, make_opaque, open_picture
from kt_jax.data.orientation import find_orientation, read_exif, swaps_sides, turn

# Raise this if decoded pixels change: images are then examined and cached again.
VERSION = 3
# Identifies the decoder that refused an image: another version may read it.
DECODER = f"{VERSION}, Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"
MAX_PIXELS = 200_000_000
# More than the allowed pixels take uncompressed. Larger files are not read at all.
MAX_BYTES = 2**30
MIN_SIDE = 8
MAX_ASPECT = 50
THUMBNAIL = 32

# Pillow would warn of each image above 89 megapixels. The limit is checked below.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Several threads already decode batches.
cv2.setNumThreads(1)
# A broken file is excluded with a reason, so OpenCV's own log lines are not needed.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Pictures with more pixels are decoded one at a time, to limit the memory that many threads take
# together.
_LARGE_PIXELS = 25_000_000
_STRIP_PIXELS = 4_000_000
_large = threading.Lock()

_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB", "RGB": "RGB"}
# Messages of libjpeg for truncated data; 0xd9 is the end marker.
_CUT_OFF = re.compile("[Pp]remature end|found marker 0xd9")
# Its message for bytes between the pixels and the end marker.
_UNUSED = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


# Pixels, grey `[h, w]` or RGB `[h, w, 3]`, and the picture that they come from.
_Decoded = tuple[np.ndarray, Stored]


@dataclass(frozen=True, eq=False)
class Examined:
    """Properties of a readable image.

    Attributes:
      height: height of the upright picture, in pixels.
      width: width of the upright picture, in pixels.
      mode: Pillow's mode of the stored pixels, such as "RGB", "L", "CMYK", "P", "I;16".
      bits: bits per stored sample, such as 8, 12, 16.
      thumbnail: the whole upright picture in grey, uint8 `[32, 32]`, to find near duplicates.
    """

    height: int
    width: int
    mode: str
    bits: int
    thumbnail: UInt8[np.ndarray, "32 32"]


def decode_image(data: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Decodes an image: upright, RGB, short side resized to `size`, centre crop.

    Args:
      data: the bytes of the file.
      size: the side of the result, in pixels.

    Returns:
      uint8 `[size, size, 3]`. The picture is turned upright by its EXIF orientation (in a TIFF, the
      tag Orientation) or, if it has none, by its XMP orientation, in every format. Transparent
      pixels are put on white. Samples of 10 to 16 bits keep their high byte. CMYK is converted
      without a colour profile. An animation gives its first frame.

    Raises:
      ValueError: the bytes are not a complete image (a JPEG may lack its end marker); its pixels
        have no known range (float, signed, 32 bits) or a kind that may be read wrong; it has more
        than 200 megapixels, a side below 8 pixels, or a side of more than 50 times the other; or it
        is a JPEG with more than 100 scans. The message is the reason.
    """
    pixels, stored = _decode(data, size)
    # Turning the square after the crop gives the same pixels, and is cheaper.
    return _own(turn(fit_square(pixels, size), stored.orientation))


def fit_square(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the central square of a picture, resized to `size` px, as in `decode_image`."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(pixels[top : top + side, left : left + side], (size, size))


def decode_upright(data: bytes, short_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a whole image: upright, RGB, with the short side reduced to at most `short_side` px.

    Arguments, conversions and errors are as in `decode_image`.
    """
    pixels, stored = _decode(data, short_side)
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale < 1:
        pixels = _resize(pixels, (round(height * scale), round(width * scale)))
    return _own(turn(pixels, stored.orientation))


def examine_image(data: bytes) -> Examined:
    """Decodes an image, and returns its properties. Errors are as in `decode_image`."""
    pixels, (height, width, mode, bits, orientation) = _decode(data, THUMBNAIL, grey=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    thumbnail = turn(_resize(pixels, (THUMBNAIL, THUMBNAIL)), orientation)
    if swaps_sides(orientation):
        height, width = width, height
    return Examined(height, width, mode, bits, np.ascontiguousarray(thumbnail))


def why_too_large(size: int) -> str | None:
    """Returns the reason to refuse a file of `size` bytes; None if it may be read."""
    return f"{size:,} bytes are more than {MAX_BYTES:,}" if size > MAX_BYTES else None


def _decode(data: bytes, short_side: int, *, grey: bool = False) -> _Decoded:
    """Decodes to RGB, or to grey if `grey` is set and grey is cheaper.

    A JPEG is decoded at the smallest multiple of 1/8 of its size with at least `short_side` px.
    """
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    unknown = f"not an image in any format that is read here ({', '.join(FORMATS)})"
    if data[:2] == b"\xff\xd8":
        header = jpeg.read_header(data)
        if header.many_scans:
            data = jpeg.limit_scans(data)
        decoded, data, why_not = _try_jpeg(data, header, short_side, grey)
        if decoded is not None:
            return decoded
        unknown = f"a JPEG that cannot be read: {why_not}"
    elif (pixels := ppm.decode(data, _LARGE_PIXELS)) is not None:
        height, width = pixels.shape[:2]
        _check_shape(height, width)
        return pixels, Stored(height, width, "RGB", 8, 1)
    try:
        stored, load = open_picture(data, short_side)
        _check_shape(stored.height, stored.width)
        with _alone_if_large(stored.height, stored.width):
            return _to_rgb(load(), short_side), stored
    except (ValueError, MemoryError):
        # Out of memory: not an error of the image.
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError(unknown) from error
    except Exception as error:
        # Pillow's readers raise many types for a broken file: OSError, SyntaxError, struct.error,
        # zlib.error, IndexError ... All mean that it is not an image.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _try_jpeg(
    data: bytes, header: jpeg.Header, short_side: int, grey: bool
) -> tuple[_Decoded | None, bytes, str]:
    """Returns the picture, or None, the bytes for Pillow, and why simplejpeg does not read them.

    Pillow reads some files that simplejpeg refuses, and has better messages. But it fills the
    missing part of a truncated file with grey.
    """
    try:
        return _decode_jpeg(data, header, short_side, grey), data, ""
    except _Refused:
        raise
    except ValueError as error:
        why_not = str(error)
    if not _CUT_OFF.search(why_not):
        return None, data, why_not
    try:
        # A JPEG may lack its end marker only.
        data = jpeg.add_end(data)
        return _decode_jpeg(data, header, short_side, grey), data, ""
    except _Unconverted as error:
        return None, data, str(error)
    except ValueError as error:
        why_not = str(error)
    unused = _UNUSED.search(why_not)
    if unused and not jpeg.ends_in_filling(data, int(unused[1])):
        return None, data, why_not
    raise ValueError(f"truncated: {why_not}")


def _decode_jpeg(data: bytes, header: jpeg.Header, short_side: int, grey: bool) -> _Decoded:
    *shape, colours, _ = simplejpeg.decode_jpeg_header(data)
    height, width = map(int, shape)
    _check_shape(height, width)
    if colours not in _JPEG_MODES:
        simplejpeg.decode_jpeg(data, "CMYK", min_height=MIN_SIDE, min_width=MIN_SIDE)
        raise _Unconverted(f"simplejpeg reads {colours}, but does not convert it")
    with _alone_if_large(height, width):
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if grey else "RGB", min_height=short_side, min_width=short_side
        )
    if grey:
        pixels = pixels[..., 0]
    orientation = find_orientation(read_exif(header.exif), header.xmp)
    return pixels, Stored(height, width, _JPEG_MODES[colours], 8, orientation)


def _alone_if_large(height: int, width: int) -> contextlib.AbstractContextManager:
    return _large if height * width > _LARGE_PIXELS else contextlib.nullcontext()


def _own(pixels: np.ndarray) -> np.ndarray:
    """Returns contiguous pixels that may be written to, copied only if they are not."""
    return np.require(pixels, requirements=("C", "W"))


def _resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == shape:
        return pixels
    ratio = min(pixels.shape[:2]) / min(shape)
    if ratio >= 2:
        how = cv2.INTER_AREA
    else:
        # Below 2:1, bilinear interpolation skips no pixel, and takes a fifth of the time of areas.
        how = cv2.INTER_LINEAR if ratio > 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, shape[::-1], interpolation=how)


class _Refused(ValueError):
    """The image is refused with any decoder."""


class _Unconverted(ValueError):
    """A valid JPEG whose colours simplejpeg does not convert to RGB."""


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
        return np.asarray(make_opaque(image))
    # In strips, and reduced by a whole number while at least twice `short_side` remains: otherwise
    # the copies of a large picture would take several times its memory.
    factor = max(1, min(width, height) // (2 * short_side))
    rows = factor * -(-_STRIP_PIXELS // (factor * width))
    strips = []
    for top in range(0, height, rows):
        strip = make_opaque(image.crop((0, top, width, min(top + rows, height))))
        strips.append(np.asarray(strip.reduce(factor)))
    return np.concatenate(strips)
