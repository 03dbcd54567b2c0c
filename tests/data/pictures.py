"""What the tests of this folder share: encoded pictures."""

import io
import struct
import zlib

from PIL import Image


def encode(image, format="PNG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(red):
    """A plain PNG, of another content for another red."""
    return encode(Image.new("RGB", (16, 16), (red, 0, 0)))


def chunk(kind, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
