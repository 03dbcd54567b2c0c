"""Reads TIFF files: the tags, and the pixels by the library that reads them correctly."""

import io
import logging
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, TiffImagePlugin

from kt_jax.data.orientation import find_orientation, swaps_sides, turn

# Without it, Pillow reads uncompressed files itself, and gets planes of 16 bits, YCbCr and reversed
# bits wrong.
vars(TiffImagePlugin)["READ_LIBTIFF"] = True
# A wrong tag does not matter, or is reported as the reason for the exclusion.
tifffile.logger().setLevel(logging.CRITICAL)

PREFIXES = tuple(TiffImagePlugin.PREFIXES)
_BIG_BIG_ENDIAN = b"MM\0\x2b"

_REDUCED, _UNSIGNED, _PLANES, _CMYK_INKS = 1, 1, 2, 1
# PhotometricInterpretation: (name, number of colour samples, allowed bits of each).
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_GREY_BITS = (1, 2, 4, 8, 10, 12, 14, 16)
_KNOWN = {
    _WHITE_IS_ZERO: ("grey", 1, _GREY_BITS),
    _BLACK_IS_ZERO: ("grey", 1, _GREY_BITS),
    _RGB: ("RGB", 3, (8, 10, 12, 14, 16)),
    _PALETTE: ("palette", 1, (1, 2, 4, 8)),
    _CMYK: ("CMYK", 4, (8, 16)),
    _YCBCR: ("YCbCr", 3, (8,)),
    _CIELAB: ("CIELab", 3, (8,)),
}
_UNEVEN_BITS = (10, 12, 14)
_FORMATS = {2: "signed", 3: "floating-point", 4: "untyped", 5: "complex", 6: "complex"}
_REMEDY = "save it as a PNG of 8 or 16 bits"


class Tags(NamedTuple):
    """The tags of the first picture of a TIFF that affect its pixels.

    Attributes:
      height: stored height, in pixels.
      width: stored width, in pixels.
      bits: bits per sample.
      samples: samples per pixel.
      photometric: PhotometricInterpretation.
      orientation: 1 to 8.
      palette: uint16 `[3 * 2**bits]`, all reds first; empty if there is none.
    """

    height: int
    width: int
    bits: int
    samples: int
    photometric: int
    orientation: int
    palette: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        stored = self.height, self.width
        return stored[::-1] if swaps_sides(self.orientation) else stored

    @property
    def is_deep(self) -> bool:
        """Whether OpenCV reads it. Pillow reads 12 bits as 16, and lacks other depths."""
        return self.bits in _UNEVEN_BITS or (self.bits == 16 and self.samples == 1)


def read_tags(data: bytes) -> Tags:
    """Returns the tags of the first picture.

    Raises:
      ValueError: pixels of this kind may be read wrong. The message says what to do.
    """
    tags = _first_page(io.BytesIO(data)).tags
    why_not = _why_not(tags)
    if data.startswith(_BIG_BIG_ENDIAN):
        why_not = "a big-endian BigTIFF"
    if why_not is not None:
        raise ValueError(f"{why_not}: {_REMEDY}")
    palette = tags.valueof("ColorMap")
    xmp = tags.valueof("XMP")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return Tags(
        height=tags.valueof("ImageLength", 0),
        width=tags.valueof("ImageWidth", 0),
        bits=_each(tags, "BitsPerSample")[0],
        samples=tags.valueof("SamplesPerPixel", 1),
        photometric=int(tags.valueof("PhotometricInterpretation")),
        orientation=find_orientation(
            tags.valueof("Orientation"), xmp if isinstance(xmp, bytes) else None
        ),
        palette=np.ravel([] if palette is None else palette),
    )


def open_shallow(data: bytes) -> Image.Image:
    """Opens a TIFF with Pillow.

    Raises:
      ValueError: Pillow cannot read it.
    """
    try:
        return Image.open(io.BytesIO(data), formats=("TIFF",))
    except Image.UnidentifiedImageError as error:
        page = _first_page(io.BytesIO(data))
        raise ValueError(
            f"a TIFF that Pillow does not read ({page.samplesperpixel} samples of "
            f"{page.bitspersample} bits, PhotometricInterpretation {page.photometric:d}, "
            f"Compression {page.compression:d}): {_REMEDY}"
        ) from error


def load_shallow(image: Image.Image, tags: Tags) -> Image.Image:
    """Decodes an image from `open_shallow`, and turns it upright.

    Raises:
      ValueError: libtiff cannot read it.
    """
    # Pillow turns by the same tag, but also by XMP, which it reads less carefully.
    image.info.pop("xmp", None)
    image.getexif()[ExifTags.Base.Orientation] = tags.orientation
    try:
        image.load()
    except OSError as error:
        raise ValueError(
            f"a TIFF that is truncated or broken: libtiff cannot read its pixels ({error})"
        ) from error
    if tags.photometric == _PALETTE and tags.palette.max(initial=0) < 256:
        # Some writers use 8 bits for colours instead of 16. Pillow makes them black.
        image.putpalette(tags.palette.reshape(3, -1).T.astype(np.uint8).tobytes())
    return image


def load_deep(data: bytes, tags: Tags) -> Image.Image:
    """Decodes grey of 10 to 16 bits (mode "I;16") or RGB of 10 to 14 bits, and turns it upright.

    Raises:
      ValueError: neither OpenCV nor, if it is grey of 16 bits, Pillow can read it.
    """
    buffer = io.BytesIO(data)
    orientation = _first_page(buffer).tags.get("Orientation")
    if orientation is not None:
        orientation.overwrite(1)  # otherwise OpenCV would turn it
    # OpenCV shifts samples to 16 bits. The bits that are not stored are zero.
    pixels = cv2.imdecode(np.frombuffer(buffer.getbuffer(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None and tags.bits == 16:
        pixels = _load_by_pillow(buffer)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (tags.height, tags.width):
        raise ValueError("a TIFF that is truncated or broken: OpenCV cannot read its pixels")
    if tags.photometric == _WHITE_IS_ZERO:
        pixels = np.iinfo(np.uint16).max - pixels
    if pixels.ndim == 3:
        pixels = (pixels[..., ::-1] // 256).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(turn(pixels, tags.orientation)))


def _load_by_pillow(file: io.BytesIO) -> np.ndarray | None:
    """Returns grey of 16 bits as stored. OpenCV's libtiff lacks the compressions ZSTD and LZMA."""
    try:
        image = Image.open(file, formats=("TIFF",))
        # Otherwise Pillow would turn it.
        image.info.pop("xmp", None)
        image.getexif()[ExifTags.Base.Orientation] = 1
        return np.asarray(image).astype(np.uint16)
    except (OSError, ValueError, SyntaxError):
        return None


def _first_page(file: io.BytesIO) -> tifffile.TiffPage:
    try:
        return tifffile.TiffFile(file, mode="r+").pages.first
    except MemoryError:
        raise
    except Exception as error:
        # tifffile raises many types: TiffFileError, IndexError, struct.error, TypeError ...
        raise ValueError(
            f"a TIFF whose tags cannot be read ({type(error).__name__}: {error})"
        ) from error


def _why_not(tags: tifffile.TiffTags) -> str | None:
    """Returns why pixels of this kind may be read wrong; None if they are read correctly."""
    photometric = tags.valueof("PhotometricInterpretation")
    if "DNGVersion" in tags:
        return "the raw file of a camera (DNG)"
    if tags.valueof("NewSubfileType", 0) & _REDUCED and "SubIFDs" in tags:
        return "a TIFF whose first picture is a small copy of another"
    if photometric is None:
        return "a TIFF that does not say what its samples mean (PhotometricInterpretation)"
    if photometric not in _KNOWN:
        return f"a TIFF of PhotometricInterpretation {photometric:d}"
    name, colours, known_bits = _KNOWN[photometric]
    samples = tags.valueof("SamplesPerPixel", 1)
    bits = _each(tags, "BitsPerSample")
    formats = {*_each(tags, "SampleFormat")} - {_UNSIGNED}
    if formats:
        kind = " and ".join(_FORMATS.get(each, f"unknown ({each})") for each in sorted(formats))
        return f"{bits[0]}-bit {kind} samples have no known range"
    if len({*bits}) > 1:
        return f"a TIFF of samples of {', '.join(map(str, bits))} bits"
    if bits[0] not in known_bits:
        return f"a TIFF of {name} of {bits[0]} bits"
    if samples < colours:
        return f"a TIFF of {name} of {samples} samples a pixel"
    in_planes = tags.valueof("PlanarConfiguration", 1) == _PLANES
    if bits[0] in _UNEVEN_BITS and (samples > colours or (in_planes and colours > 1)):
        return f"a TIFF of {bits[0]} bits in planes, or with other samples than {name}"
    if in_planes and samples > colours and (colours == 1 or "ExtraSamples" not in tags):
        return "a TIFF whose transparency lies in a plane of its own"
    if photometric == _CMYK and tags.valueof("InkSet", _CMYK_INKS) != _CMYK_INKS:
        return "a TIFF of other inks than CMYK"
    return None


def _each(tags: tifffile.TiffTags, name: str) -> tuple[int, ...]:
    """Returns the values of a tag, one per sample or one for all; 1 if the tag is missing."""
    value = tags.valueof(name, 1)
    samples = tags.valueof("SamplesPerPixel", 1)
    return tuple(map(int, value))[:samples] if isinstance(value, tuple) else (int(value),)
