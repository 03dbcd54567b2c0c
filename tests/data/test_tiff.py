"""TIFF files: every kind of pixels is read right, or refused with a true reason."""

import io
import itertools

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiffs import DEFLATE, make_tiff

from kt_jax.data import decode_image
from kt_jax.data.decode import examine_image

SIDE = 16
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
ASSOCIATED, UNASSOCIATED, UNSPECIFIED = 1, 2, 0
ORIENTATION, XMP, EXTRA_SAMPLES, SAMPLE_FORMAT, COLOUR_MAP, INK_SET = 274, 700, 338, 339, 320, 332

# Slopes from 0 to 1 across, down and back, and a pattern: [16, 16, 4].
X, Y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
SLOPES = np.stack([X / 15, Y / 15, 1 - X / 15, np.where(X < 8, 1.0, 0.4)], -1)


def samples(bits, channels=1, of=SLOPES):
    return np.round(of[..., :channels] * (2**bits - 1)).astype(np.int64)


def read(data):
    return decode_image(data, SIDE).astype(int)


def high_byte(stored, bits):
    """The 8 bits of samples: the first of more, all values of fewer spread over 0 to 255."""
    stored = stored.astype(int)
    return stored >> bits - 8 if bits >= 8 else stored * 255 // (2**bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
def test_grey_of_every_depth(bits):
    stored = samples(bits)
    expected = np.repeat(high_byte(stored, bits), 3, axis=2)
    for order, compression, fill_order in itertools.product("<>", (1, DEFLATE), (1, 2)):
        kind = {"order": order, "compression": compression, "fill_order": fill_order}
        np.testing.assert_array_equal(
            read(make_tiff(stored, bits, BLACK_IS_ZERO, **kind)), expected
        )
        np.testing.assert_array_equal(
            read(make_tiff(2**bits - 1 - stored, bits, WHITE_IS_ZERO, **kind)), expected
        )


@pytest.mark.parametrize("compression", ["zstd", "lzma"])
def test_compressions_that_opencv_does_not_have(compression):
    stored = samples(16)
    file = io.BytesIO()
    image = Image.fromarray(stored[..., 0].astype(np.uint16))
    image.save(file, "TIFF", compression=compression)
    expected = np.repeat(high_byte(stored, 16), 3, axis=2)
    np.testing.assert_array_equal(read(file.getvalue()), expected)
    xmp = {XMP: b"<rdf:Description tiff:Orientation='6'/>"}
    image.save(file, "TIFF", compression=compression, tiffinfo=xmp)
    np.testing.assert_array_equal(read(file.getvalue()), np.rot90(expected, -1))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_colours_of_every_depth(bits):
    stored = samples(bits, 3)
    for order, compression, planes in itertools.product("<>", (1, DEFLATE), (False, True)):
        kind = {"order": order, "compression": compression, "planes": planes}
        data = make_tiff(stored, bits, RGB, **kind)
        if planes and bits in (10, 12, 14):
            with pytest.raises(ValueError, match=f"a TIFF of {bits} bits in planes, or with other"):
                read(data)
        else:
            np.testing.assert_array_equal(read(data), high_byte(stored, bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planes", [False, True])
def test_samples_beyond_the_colours(bits, planes):
    alpha = SLOPES[..., 3:]
    for kind in (UNASSOCIATED, ASSOCIATED, UNSPECIFIED):
        colours = SLOPES[..., :3] * (alpha if kind == ASSOCIATED else 1)
        stored = samples(bits, 4, np.concatenate([colours, alpha], axis=2))
        data = make_tiff(stored, bits, RGB, planes=planes, tags={EXTRA_SAMPLES: (3, [kind])})
        on_white = SLOPES[..., :3] * alpha + 1 - alpha
        expected = SLOPES[..., :3] if kind == UNSPECIFIED else on_white
        assert np.abs(read(data) - 255 * expected).max() <= 2
    data = make_tiff(stored, bits, RGB, planes=planes)  # does not say what the fourth sample is
    if planes:
        with pytest.raises(ValueError, match="transparency lies in a plane of its own: save it as"):
            read(data)
    else:
        assert np.abs(read(data) - 255 * on_white).max() <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_16_bits_and_of_8(bits):
    rng = np.random.default_rng(0)
    count = 2**bits
    stored = rng.integers(count, size=(SIDE, SIDE, 1), dtype=np.int64)
    colours = rng.integers(256, size=(3, count))
    expected = colours[:, stored[..., 0].astype(int)].transpose(1, 2, 0)
    for order, scale in itertools.product("<>", (1, 257)):
        palette = {COLOUR_MAP: (3, (colours * scale).ravel().tolist())}
        data = make_tiff(stored, bits, PALETTE, order=order, tags=palette)
        np.testing.assert_array_equal(read(data), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planes", [False, True])
def test_cmyk(bits, planes):
    expected = 255 * (1 - SLOPES[..., :3]) * (1 - SLOPES[..., 3:])
    data = make_tiff(samples(bits, 4), bits, CMYK, planes=planes)
    assert np.abs(read(data) - expected).max() <= 2
    with pytest.raises(ValueError, match="a TIFF of other inks than CMYK: save it as a PNG"):
        read(make_tiff(samples(bits, 4), bits, CMYK, tags={INK_SET: (3, [2])}))


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_ycbcr(planes, compression):
    image = Image.fromarray(np.round(40 + 150 * SLOPES[..., :3]).astype(np.uint8))
    stored = np.asarray(image.convert("YCbCr")).astype(np.int64)
    whole = {530: (3, [1, 1])}  # not subsampled
    data = make_tiff(stored, 8, YCBCR, planes=planes, compression=compression, tags=whole)
    assert np.abs(read(data) - np.asarray(image)).max() <= 3


def test_tiles_predictors_and_large_files():
    wide = np.tile(samples(12), (2, 2, 1)).astype(np.uint16)
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        stored = (wide >> 4 if bits == 8 else wide << 4).astype(dtype)[..., 0]
        for options in (
            {"tile": (16, 16)},
            {"tile": (16, 16), "compression": "zlib"},
            {"compression": "zlib", "predictor": 2},
            {"bigtiff": True},
            {"byteorder": ">", "compression": "zlib", "predictor": 2},
        ):
            file = io.BytesIO()
            tifffile.imwrite(file, stored, photometric="minisblack", **options)
            found = decode_image(file.getvalue(), 32)
            np.testing.assert_array_equal(found[..., 0], (wide >> 4)[..., 0])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_orientation_by_the_tag_or_by_xmp(bits):
    stored = samples(bits, of=np.roll(SLOPES[:, :, :1] * SLOPES[:, :, 1:2], 3, axis=0))
    upright = high_byte(stored, bits)[..., 0]
    xmp = b"<rdf:Description tiff:Orientation='6'/>"
    turned = np.rot90(upright, -1)
    for tags, expected in (
        ({ORIENTATION: (3, [6])}, turned),
        ({ORIENTATION: (3, [2])}, upright[:, ::-1]),
        ({XMP: (7, list(xmp))}, turned),
        ({XMP: (2, list(xmp))}, turned),
        ({XMP: (3, list(xmp))}, upright),  # no text
        ({XMP: (7, list(xmp)), ORIENTATION: (3, [1])}, upright),
    ):
        data = make_tiff(stored, bits, BLACK_IS_ZERO, tags=tags)
        np.testing.assert_array_equal(read(data)[..., 0], expected)
    tall = make_tiff(stored[:, :12], bits, BLACK_IS_ZERO, tags={XMP: (7, list(xmp))})
    seen = examine_image(tall)
    assert (seen.height, seen.width, seen.bits) == (12, 16, bits)


@pytest.mark.parametrize(
    ("bits", "photometric", "channels", "tags", "reason"),
    [
        (3, 1, 1, {}, "a TIFF of grey of 3 bits"),
        (24, 1, 1, {}, "a TIFF of grey of 24 bits"),
        (32, 2, 3, {}, "a TIFF of RGB of 32 bits"),
        (8, 1, 1, {SAMPLE_FORMAT: (3, [2])}, "8-bit signed samples have no known range"),
        (16, 2, 3, {SAMPLE_FORMAT: (3, [2] * 3)}, "16-bit signed samples have no known range"),
        (32, 1, 1, {SAMPLE_FORMAT: (3, [3])}, "32-bit floating-point samples have no known range"),
        (8, 1, 1, {SAMPLE_FORMAT: (3, [9])}, r"8-bit unknown \(9\) samples have no known range"),
        (8, 2, 3, {258: (3, [5, 6, 5])}, "a TIFF of samples of 5, 6, 5 bits"),
        (8, 2, 2, {}, "a TIFF of RGB of 2 samples a pixel"),
        (8, 4, 1, {}, "a TIFF of PhotometricInterpretation 4"),
        (8, 32803, 1, {}, "a TIFF of PhotometricInterpretation 32803"),
        (8, 1, 1, {262: None}, "does not say what its samples mean"),
        (8, 1, 1, {50706: (1, [1, 4, 0, 0])}, r"the raw file of a camera \(DNG\)"),
        (8, 1, 1, {254: (4, [1]), 330: (4, [8])}, "first picture is a small copy of another"),
        (16, 1, 2, {EXTRA_SAMPLES: (3, [2])}, r"Pillow does not read \(2 samples of 16 bits"),
        (8, 1, 1, {259: (3, [34712])}, "Pillow does not read .* Compression 34712"),
    ],
)
def test_what_is_not_known_to_be_right_is_refused(bits, photometric, channels, tags, reason):
    data = make_tiff(samples(bits, channels), bits, photometric, tags=tags)
    with pytest.raises(ValueError, match=f"{reason}.*: save it as a PNG of 8 or 16 bits"):
        read(data)


def test_a_big_endian_bigtiff_is_refused():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((9, 9), np.uint8), byteorder=">", bigtiff=True)
    with pytest.raises(ValueError, match="a big-endian BigTIFF: save it as a PNG"):
        read(file.getvalue())


@pytest.mark.parametrize(("bits", "library"), [(8, "libtiff"), (12, "OpenCV"), (16, "OpenCV")])
def test_pixels_or_tags_that_are_cut_off(bits, library):
    data = make_tiff(samples(bits), bits, BLACK_IS_ZERO, tags={273: (4, [8, 99, 180, 99999])})
    with pytest.raises(ValueError, match=f"truncated or broken: {library} cannot read its pixels"):
        read(data)
    with pytest.raises(ValueError, match="a TIFF whose tags cannot be read"):
        read(data[:50])
