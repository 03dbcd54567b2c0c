"""Opens pictures of all supported formats: with Pillow, or others where Pillow is wrong."""

import functools
import io
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile, PpmImagePlugin

from kt_jax.data import png, tiff
from kt_jax.data.orientation import find_orientation, read_exif

# The only readers that Pillow may try. Others are not safe for downloaded data: EPS, for example,
# starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class Stored(NamedTuple):
    """Properties of a picture that are known before its pixels are decoded.

    Attributes:
      height: height of the decoded array, in pixels.
      width: width of the decoded array, in pixels.
      mode: Pillow's mode of the stored pixels.
      bits: bits per stored sample.
      orientation: EXIF orientation of the decoded array, 1 to 8.
    """

    height: int
    width: int
    mode: str
    bits: int
    orientation: int


Opened = tuple[Stored, Callable[[], Image.Image]]


def open_picture(data: bytes, short_side: int) -> Opened:
    """Opens a picture; returns its properties and a function that decodes it.

    Args:
      data: the bytes of the file.
      short_side: a JPEG may be decoded at a smaller size, down to 1/8, if its short side keeps at
        least this number of pixels.

    Raises:
      PIL.UnidentifiedImageError: the format is not supported, or the header is broken.
      ValueError: the kind of pixels is not supported.
    """
    if data.startswith(tiff.PREFIXES):
        return _open_tiff(data)
    if data.startswith(png.SIGNATURE):
        return _open_png(data)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        return _open_ppm(image, data)
    width, height = image.size
    mode = image.mode
    image.draft("RGB", (short_side, short_side))
    orientation = find_orientation(read_exif(image.info.get("exif")), image.info.get("xmp"))
    load = functools.partial(_LOADERS.get(image.format or "", _load), image)
    return Stored(height, width, mode, 8, orientation), load


def make_opaque(image: Image.Image) -> Image.Image:
    """Converts an image to RGB, with transparent pixels on white.

    Raises:
      ValueError: the range of the pixels is not known.
    """
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[deep == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixels of mode {image.mode!r} (32 bits) have no known range: save as 8 or 16 bits"
        )
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _open_tiff(data: bytes) -> Opened:
    tags = tiff.read_tags(data)
    if tags.is_deep:
        mode = "I;16" if tags.samples == 1 else "RGB"
        load = functools.partial(tiff.load_deep, data, tags)
    else:
        image = tiff.open_shallow(data)
        mode, load = image.mode, functools.partial(tiff.load_shallow, image, tags)
    return Stored(*tags.shape, mode, tags.bits, 1), load


def _open_png(data: bytes) -> Opened:
    chunks = png.read_chunks(data)
    try:
        image = Image.open(io.BytesIO(chunks.data), formats=("PNG",))
    except Image.UnidentifiedImageError as error:
        raise ValueError("a PNG whose chunks before the pixels are broken") from error
    width, height = image.size
    orientation = find_orientation(read_exif(chunks.exif), chunks.xmp)
    load = functools.partial(_load_png, image, chunks)
    return Stored(height, width, image.mode, chunks.depth, orientation), load


def _load(image: ImageFile.ImageFile) -> Image.Image:
    image.load()
    return image


def _load_png(image: ImageFile.ImageFile, chunks: png.Chunks) -> Image.Image:
    image.load()
    if "transparency" not in image.info:
        return image
    if image.mode == "L" and chunks.depth in (2, 4):
        # Pillow scales the greys to 255, but not the transparent grey.
        image.info["transparency"] *= 255 // (2**chunks.depth - 1)
    elif image.mode == "RGB" and chunks.depth == 16:
        # Pillow reduces colours to 8 bits, but not the transparent colour.
        pixels = cv2.imdecode(np.frombuffer(chunks.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[2:] != (4,):
            raise ValueError("a PNG that OpenCV cannot read: save it with an alpha channel")
        return Image.fromarray((pixels[..., [2, 1, 0, 3]] // 256).astype(np.uint8))
    return image


def _load_gif(image: ImageFile.ImageFile) -> Image.Image:
    frame = image.tile[0].extents
    image.load()
    if frame == (0, 0, *image.size):
        return image
    # Around its first frame a GIF is transparent, as in browsers. Pillow fills in a colour.
    screen = Image.new("RGB", image.size, "white")
    screen.paste(make_opaque(image.crop(frame)), frame)
    return screen


def _load_bmp(image: ImageFile.ImageFile) -> Image.Image:
    image.load()
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # the writer did not use the fourth byte
    return image


def _open_ppm(image: PpmImagePlugin.PpmImageFile, data: bytes) -> Opened:
    width, height = image.size
    codec, _, offset, options = image.tile[0]
    # The largest sample: if it is neither 255 nor 65535, samples must be scaled.
    white = options[-1] if isinstance(options, tuple) and image.mode != "F" else 255
    is_deep = image.mode == "I" or white > 255
    if codec == "ppm":
        load = functools.partial(_load_scaled_ppm, image, data[offset:], white)
    else:
        load = functools.partial(_load_ppm, image)
    mode = "I;16" if image.mode == "I" else image.mode
    return Stored(height, width, mode, 16 if is_deep else 8, 1), load


def _load_ppm(image: ImageFile.ImageFile) -> Image.Image:
    image.load()
    return image if image.mode != "I" else Image.fromarray(np.asarray(image).astype(np.uint16))


def _load_scaled_ppm(image: ImageFile.ImageFile, data: bytes, white: int) -> Image.Image:
    """Scales all samples at once. Pillow does it one by one, in Python."""
    dtype = np.dtype(np.uint8 if white < 256 else ">u2")
    shape = image.height, image.width, len(image.getbands())
    count = math.prod(shape)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"truncated: {len(data):,} bytes are too few for {count:,} samples")
    scaled = np.minimum(np.arange(256**dtype.itemsize), white) * 65535 // white
    if image.mode != "I":
        scaled >>= 8
    scaled = scaled.astype(np.uint16 if image.mode == "I" else np.uint8)
    pixels = scaled[np.frombuffer(data, dtype, count)].reshape(shape)
    return Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels)


_LOADERS = {"GIF": _load_gif, "BMP": _load_bmp}
