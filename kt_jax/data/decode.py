"""Decoding an image file to a square RGB array."""

import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MAX_PIXELS = 200_000_000

# Pillow would warn from 89 megapixels on, one line an image. The limit is checked below.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes | str | os.PathLike, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Decodes an image: upright, RGB, short side resized to `size`, centre crop.

    Args:
      data: the bytes of the file, or its path.
      size: the side of the result, in pixels.

    Returns:
      uint8 `[size, size, 3]`. Transparent pixels are laid on white; 16-bit grey keeps its high
      byte; of an animation the first frame is taken.

    Raises:
      ValueError: the bytes are no complete image, or one of more than 200 megapixels, or one whose
        pixels have no known range (float and 32-bit integer TIFF). The message is the reason.
    """
    if data == b"":
        raise ValueError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
            # A JPEG is decoded at 1/2, 1/4 or 1/8 where that still leaves twice the size we need.
            image.draft("RGB", (2 * size, 2 * size))
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            square = _resize(_to_rgb(image), size)
    except ValueError:
        raise
    except Exception as error:
        # Pillow's readers raise whatever they meet in a broken file: OSError, SyntaxError,
        # struct.error, zlib.error, IndexError ... To us it is one thing: no image.
        raise ValueError(_reason(error)) from error
    if orientation in _UPRIGHT:
        # A square turned after the centre crop is the crop of the turned image, and cheaper.
        square = square.transpose(_UPRIGHT[orientation])
    return np.array(square)


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


def _resize(image: Image.Image, size: int) -> Image.Image:
    # Only the centre square is resized. Pillow reads across the edge of `box`, so that this is the
    # crop of the resized image without computing what the crop throws away.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _reason(error: Exception) -> str:
    if "cannot identify image file" in str(error):
        return "not an image in any format that Pillow reads"
    return f"{type(error).__name__}: {error}"
