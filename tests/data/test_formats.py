"""Files of every format but TIFF, whose pixels a library reads wrong, or not at all."""

import struct
import zlib

import numpy as np
import pytest
from pictures import chunk, encode
from PIL import Image

from kt_jax.data import decode_image, jpeg
from kt_jax.data.decode import examine_image

X, Y = np.meshgrid(np.arange(64), np.arange(48))
NOISE = np.random.default_rng(0).normal(0, 20, (48, 64, 3))
SLOPES = np.clip(np.stack([4 * X, 5 * Y, 255 - 2 * X - Y], -1) + NOISE, 0, 255).astype(np.uint8)
WHITE = [255, 255, 255]


JPEGS = {
    "baseline": encode(Image.fromarray(SLOPES), "JPEG"),
    "progressive": encode(Image.fromarray(SLOPES), "JPEG", progressive=True),
    "restarts": encode(Image.fromarray(SLOPES), "JPEG", restart_marker_blocks=3),
    "grey": encode(Image.fromarray(SLOPES).convert("L"), "JPEG"),
    "cmyk": encode(Image.fromarray(SLOPES).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_marker_is_whole(name):
    data = JPEGS[name]
    expected = decode_image(data, 48)
    thumbnail = examine_image(data).thumbnail
    for ending in (b"", b"\xff", bytes(100), b"\xff" + bytes(100), b"\xff" * 100_000):
        np.testing.assert_array_equal(decode_image(data[:-2] + ending, 48), expected)
        np.testing.assert_array_equal(examine_image(data[:-2] + ending).thumbnail, thumbnail)
    for ending in (b"\r\n", b"saved by a program", bytes(range(100, 190)) + b"\0"):
        found = decode_image(data[:-2] + ending, 48).astype(int)
        assert np.abs(found - expected).mean() < 2  # another decoder reads it


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_is_cut_off_is_not(name):
    data = JPEGS[name]
    half, rows = data[: len(data) // 2], data[:-60]
    for cut in (data[:-3], data[:-5], rows, half):
        for filling in (b"", bytes(9000), b"\xff" * 9000, b"a" * 9000, b"lost and found, " * 600):
            for ending in (b"", b"\xff\xd9"):
                if filling and ending:
                    continue  # not to be told from pixels that say so
                if len(cut) > len(rows) and filling:
                    continue  # no row is lost
                with pytest.raises(ValueError, match="truncated"):
                    decode_image(cut + filling + ending, 48)
                with pytest.raises(ValueError, match="truncated"):
                    examine_image(cut + filling + ending)


def test_a_progressive_jpeg_without_its_last_scan():
    data = JPEGS["progressive"]
    cut = data[: data.rindex(b"\xff\xda")]  # no scan begins that does not end
    with pytest.raises(ValueError, match="truncated: the end marker is missing, and scans before"):
        decode_image(cut, 48)
    with pytest.raises(ValueError, match="truncated: pixels are missing before the end marker"):
        decode_image(data[:-40] + b"\xff\xd9", 48)
    with pytest.raises(ValueError, match="the end marker is missing, and scans before it"):
        jpeg.add_end(b"\xff\xd8\xff\xda\0\2")  # the header of a scan says nothing


def make_png(rows, depth, colour_type, *chunks):
    """A PNG of packed rows, each of 8 pixels."""
    header = struct.pack(">IIBBBBB", 8, len(rows), depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


GREYS = [bytes(range(0, 80, 10))] * 8
BOMB = zlib.compress(bytes(50_000_000), 9)
METADATA = {
    "profile": chunk(b"iCCP", b"name\0\0" + BOMB),
    "packed text": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "packed international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "packed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "packed EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "many texts": chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000) * 40,
    "broken profile": chunk(b"iCCP", b"name\0\7nothing that is packed"),
    "broken texts": chunk(b"iTXt", b"") + chunk(b"zTXt", b"\0") + chunk(b"tEXt", b"\xff"),
    "wrong checksum": chunk(b"gAMA", struct.pack(">I", 100_000))[:-1] + b"x",
    "too short": chunk(b"gAMA", b"") + chunk(b"pHYs", b"") + chunk(b"acTL", b""),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_do_not_cost_a_png(name):
    found = decode_image(make_png(GREYS, 8, 0, METADATA[name]), 8)
    np.testing.assert_array_equal(found[..., 1], [list(row) for row in GREYS])


def test_what_a_png_cannot_do_without():
    wrong = chunk(b"tRNS", b"\0\12")[:-1] + b"x"
    with pytest.raises(ValueError, match="a PNG whose chunks before the pixels are broken"):
        decode_image(make_png(GREYS, 8, 0, wrong), 8)
    with pytest.raises(ValueError, match="Truncated File Read"):
        decode_image(make_png(GREYS, 8, 0, METADATA["profile"])[:-60], 8)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png(depth):
    greys = np.arange(8) % 2**depth if depth < 16 else np.arange(8) + 0x4000
    bits = greys[:, None] >> np.arange(depth - 1, -1, -1) & 1
    transparent = chunk(b"tRNS", struct.pack(">H", greys[1]))
    data = make_png([np.packbits(bits.astype(np.uint8)).tobytes()] * 8, depth, 0, transparent)
    expected = greys >> 8 if depth == 16 else greys * 255 // (2**depth - 1)
    expected = np.where(greys == greys[1], 255, expected)
    np.testing.assert_array_equal(decode_image(data, 8)[3, :, 0], expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png(depth):
    colours = np.stack([np.arange(8), np.full(8, 40), np.full(8, 50)], -1) + (depth == 16) * 0x4000
    rows = [colours.astype(f">u{depth // 8}").tobytes()] * 8
    data = make_png(rows, depth, 2, chunk(b"tRNS", struct.pack(">HHH", *colours[3])))
    expected = colours >> depth - 8
    expected[3] = 255
    np.testing.assert_array_equal(decode_image(data, 8)[5], expected)


def make_gif(screen, frame, at, transparent=None):
    """A GIF of 4 colours, whose first frame counts 0, 1, 2, 3 from left to right, again and again.

    A code of 3 bits for each pixel: the table of codes is cleared before it would grow.
    """
    palette = bytes([10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    bits = ""
    for number in range(frame[0] * frame[1]):
        bits += ("001" if number % 2 == 0 else "") + f"{number % 4:03b}"[::-1]
    bits += "101"
    bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    control = b"" if transparent is None else bytes([0x21, 0xF9, 4, 1, 0, 0, transparent, 0])
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, 2, 0) + palette + control
    return (
        head + struct.pack("<BHHHHB", 0x2C, *at, *frame, 0) + bytes([2, len(data)]) + data + b"\0;"
    )


@pytest.mark.parametrize("transparent", [None, 1])
def test_a_gif_is_transparent_around_its_first_frame(transparent):
    colours = [[10, 20, 30], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    if transparent is not None:
        colours[transparent] = WHITE
    found = decode_image(make_gif((8, 8), (4, 6), (3, 1), transparent), 8)
    expected = np.full((8, 8, 3), 255)
    expected[1:7, 3:7] = colours
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("alpha", "colour"), [(0, [30, 20, 10]), (255, [30, 20, 10])])
def test_a_bmp_without_any_opaque_pixel_has_no_alpha(alpha, colour):
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = bytes([10, 20, 30, alpha]) * 64
    header = struct.pack("<IiiHHIIiiII", 56, 8, 8, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    head = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header))
    assert (decode_image(head + header + pixels, 8) == colour).all()
    half = head + header + pixels[:128] + bytes([10, 20, 30, 255 - alpha]) * 32
    assert sorted({*decode_image(half, 8)[:, 0, 0]}) == [30, 255]


@pytest.mark.parametrize("white", [1, 15, 200, 255, 256, 1023, 4095, 65535])
def test_pgm_and_ppm_of_any_range(white):
    levels = np.linspace(0, white, 8).astype(int)
    expected = levels * 65535 // white >> 8
    dtype = ">u2" if white > 255 else np.uint8
    grey, colour = np.tile(levels, (8, 1)), np.stack([np.tile(levels, (8, 1))] * 3, -1)
    for magic, pixels in ((b"P5", grey), (b"P6", colour)):
        data = magic + b"\n# a comment\n8 8\n%d\n" % white + pixels.astype(dtype).tobytes()
        assert np.abs(decode_image(data, 8)[4, :, 2].astype(int) - expected).max() <= 1
        assert examine_image(data).bits == (16 if white > 255 else 8)
        with pytest.raises(ValueError, match="truncated"):
            decode_image(data[:-9], 8)
    for magic, pixels in ((b"P2", grey), (b"P3", colour)):
        data = magic + b" 8 8 %d\n" % white + " ".join(map(str, pixels.ravel())).encode()
        assert np.abs(decode_image(data, 8)[4, :, 2].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("comment", [b"", b"# by another program\n"])
@pytest.mark.parametrize("more", [b"", b"P6 8 8 255 "])
def test_a_ppm_gives_its_pixels_in_an_array_of_its_own(comment, more):
    pixels = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    data = b"P6\n" + comment + b"9 8\n255\n" + pixels.tobytes() + more
    for side in (8, 9):
        square = np.ascontiguousarray(pixels[:, :8])
        found = decode_image(b"P6 8 8 255 " + square.tobytes() if side == 8 else data, 8)
        assert (found == square).all()
        found += 1
    assert (decode_image(data, 8) == square).all()
    seen = examine_image(data)
    assert (seen.height, seen.width, seen.mode, seen.bits) == (8, 9, "RGB", 8)
    with pytest.raises(ValueError, match="9 x 7 pixels: both sides must be at least 8"):
        decode_image(b"P6 9 7 255 " + bytes(9 * 7 * 3), 8)


def test_pbm_and_pfm():
    expected = [0, 255] * 4  # 1 is black
    for data in (b"P4 8 8\n" + b"\xaa" * 8, b"P1 8 8\n" + b"10101010\n" * 8):
        np.testing.assert_array_equal(decode_image(data, 8)[2, :, 0], expected)
    with pytest.raises(ValueError, match=r"mode 'F' .* no known range: save as 8 or 16 bits"):
        decode_image(b"Pf 8 8 -1.0\n" + bytes(256), 8)
