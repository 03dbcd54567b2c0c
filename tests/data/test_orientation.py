"""Pictures are turned upright, whatever legal way their metadata say how they lie."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import chunk
from PIL import Image, ImageOps

from kt_jax.data.decode import decode_upright, examine_image
from kt_jax.data.orientation import turn

# White with a red corner: 24 x 16 px.
STORED = np.full((16, 24, 3), 255, np.uint8)
STORED[:8, :8] = (255, 0, 0)
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def make_exif(orientation, order="<", kind="H", tag=0x0112):
    """A TIFF of one tag: a SHORT (H) or a LONG (I)."""
    entry = struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], 1)
    entry += struct.pack(f"{order}{kind}", orientation).ljust(4, b"\0")
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return magic + struct.pack(f"{order}H", 1) + entry + bytes(4)


def make_xmp(orientation, form='<rdf:Description tiff:Orientation="%d"/>'):
    return b"<x:xmpmeta><rdf:RDF>" + (form % orientation).encode() + b"</rdf:RDF></x:xmpmeta>"


def with_thumbnail(exif):
    """As `exif`, with a second directory, of a thumbnail, that says 3."""
    behind = struct.pack("<HHHII", 1, 0x0112, 3, 1, 3) + bytes(4)
    return exif[:-4] + struct.pack("<I", len(exif)) + behind


def segment(body, marker=0xE1):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


EXIF = segment(b"Exif\0\0" + make_exif(6))
BROKEN = b"Exif\0\0II*\0\xff\xff\xff\xff"


def encode(format, **options):
    file = io.BytesIO()
    Image.fromarray(STORED).save(file, format, **options)
    return file.getvalue()


def make_jpeg(segments, at=2):
    jpeg = encode("JPEG", quality=95, subsampling=0)
    return jpeg[:at] + segments + jpeg[at:]


def check(data, orientation):
    found = decode_upright(data, 16).astype(int)
    expected = turn(STORED, orientation).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 40  # what JPEG leaves of the edges
    seen = examine_image(data)
    assert (seen.height, seen.width) == expected.shape[:2]


JPEGS = {
    "fill bytes": (b"\xff\xff" + EXIF + b"\xff\xff\xff", 6),
    "after a comment": (segment(b"hello", 0xFE) + EXIF, 6),
    "markers that stand alone": (b"\xff\x01\xff\xd0" + EXIF, 6),
    "big-endian": (segment(b"Exif\0\0" + make_exif(6, ">")), 6),
    "LONG": (segment(b"Exif\0\0" + make_exif(8, kind="I")), 8),
    "big-endian LONG": (segment(b"Exif\0\0" + make_exif(8, ">", "I")), 8),
    "padded": (segment(b"Exif\0\0" + make_exif(6) + bytes(3000)), 6),
    "thumbnail": (segment(b"Exif\0\0" + with_thumbnail(make_exif(6))), 6),
    "thumbnail alone": (segment(b"Exif\0\0" + with_thumbnail(make_exif(72, tag=0x011A))), 1),
    "second counts not": (EXIF + segment(b"Exif\0\0" + make_exif(3)), 6),
    "empty, then another": (segment(b"Exif\0\0") + EXIF, 6),
    "another APP1": (segment(b"http://ns.adobe.com/xmp/extension/\0") + EXIF, 6),
    "no EXIF by its name": (segment(b"Exif\0\xff" + make_exif(6)), 1),
    "no orientation": (segment(b"Exif\0\0" + make_exif(9)), 1),
    "broken": (segment(BROKEN), 1),
    "XMP": (segment(XMP + make_xmp(6)), 6),
    "XMP, single quotes": (segment(XMP + make_xmp(6, "<a tiff:Orientation = '%d'/>")), 6),
    "XMP, an element": (segment(XMP + make_xmp(5, "<tiff:Orientation>%d</tiff:Orientation>")), 5),
    "XMP before EXIF": (segment(XMP + make_xmp(3)) + EXIF, 6),
    "XMP next to EXIF without": (
        segment(b"Exif\0\0" + make_exif(72, tag=0x011A)) + segment(XMP + make_xmp(3)),
        3,
    ),
    "XMP next to broken EXIF": (segment(BROKEN) + segment(XMP + make_xmp(6)), 6),
    "XMP next to upright": (segment(b"Exif\0\0" + make_exif(1)) + segment(XMP + make_xmp(6)), 1),
}
# Pillow knows no single quotes, and no marker 0x01.
NOT_BY_PILLOW = ("XMP, single quotes", "markers that stand alone")


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_jpegs(name):
    segments, orientation = JPEGS[name]
    data = make_jpeg(segments)
    check(data, orientation)
    check(make_jpeg(segments, data.index(b"\xff\xda") - len(segments)), orientation)
    if name not in NOT_BY_PILLOW:
        with ImageOps.exif_transpose(Image.open(io.BytesIO(data))) as by_pillow:
            assert by_pillow.size == turn(STORED, orientation).shape[1::-1]


def test_every_orientation():
    for orientation in range(1, 9):
        check(make_jpeg(segment(b"Exif\0\0" + make_exif(orientation))), orientation)
        check(make_jpeg(segment(XMP + make_xmp(orientation))), orientation)


def make_png(*chunks, at=33):
    png = encode("PNG")
    return png[:at] + b"".join(chunks) + png[at:]


def international(text, packed):
    body = zlib.compress(text) if packed else text
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed, 0, 0, 0]) + body)


def raw_profile(exif):
    body = b"Exif\0\0" + exif
    return b"\nexif\n%8d\n%s\n" % (len(body), body.hex().encode())


PNGS = {
    "eXIf": ([chunk(b"eXIf", make_exif(6, ">"))], 6),
    "text": ([chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(make_exif(6)))], 6),
    "packed text": (
        [chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(make_exif(6))))],
        6,
    ),
    "APP1": (
        [chunk(b"tEXt", b"Raw profile type APP1\0" + raw_profile(b"Exif\0\0" + make_exif(6)))],
        6,
    ),
    "XMP in APP1 next to exif": (
        [
            chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(make_exif(6))),
            chunk(b"tEXt", b"Raw profile type APP1\0" + raw_profile(b"http://ns.adobe.com/xap\0")),
        ],
        6,
    ),
    "XMP in APP1": (
        [
            chunk(b"tEXt", b"Raw profile type APP1\0" + raw_profile(b"http://ns.adobe.com/xap\0")),
            international(make_xmp(6), False),
        ],
        6,
    ),
    "no hexadecimal": ([chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\nnone")], 1),
    "not packed": ([chunk(b"zTXt", b"Raw profile type exif\0\0not packed")], 1),
    "XMP": ([international(make_xmp(6), False)], 6),
    "packed XMP": ([international(make_xmp(6), True)], 6),
    "XMP next to eXIf": ([international(make_xmp(3), False), chunk(b"eXIf", make_exif(6))], 6),
    "XMP next to upright": ([chunk(b"eXIf", make_exif(1)), international(make_xmp(6), False)], 1),
    "wrong checksum": ([chunk(b"eXIf", make_exif(6))[:-1] + b"x"], 1),
}


@pytest.mark.parametrize("name", PNGS)
def test_pngs(name):
    chunks, orientation = PNGS[name]
    check(make_png(*chunks), orientation)
    check(make_png(*chunks, at=-12), orientation)  # behind the pixels


@pytest.mark.parametrize(
    ("metadata", "orientation"),
    [
        ({"exif": make_exif(6)}, 6),
        ({"exif": b"Exif\0\0" + make_exif(6)}, 6),
        ({"xmp": make_xmp(6)}, 6),
        ({"exif": make_exif(3), "xmp": make_xmp(6)}, 3),
        ({"exif": make_exif(1), "xmp": make_xmp(6)}, 1),
    ],
)
def test_webps(metadata, orientation):
    check(encode("WEBP", lossless=True, **metadata), orientation)
