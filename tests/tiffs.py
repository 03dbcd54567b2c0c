"""Writes TIFF files tag by tag, of kinds that no library here writes."""

import struct
import zlib

import numpy as np

DEFLATE = 8
# Type of a tag: how struct packs a value.
TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def pack(samples, bits, order):
    """Rows of samples `[h, n]` as bytes: most significant bit first, rows begin a byte."""
    if bits in (16, 32):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    each = samples[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.astype(np.uint8).reshape(len(samples), -1), axis=-1).tobytes()


def make_tiff(
    pixels,
    bits,
    photometric,
    *,
    order="<",
    planes=False,
    compression=1,
    fill_order=1,
    rows=5,
    tags=None,
):
    """A TIFF of pixels `[h, w, samples]`, uncompressed or deflated, in strips of some rows.

    `tags` are more tags, or others: code -> (type, values), or None for none at all.
    """
    height, width, samples = pixels.shape
    parts = np.split(pixels, samples, axis=2) if planes else [pixels]
    strips = []
    for part in parts:
        for top in range(0, height, rows):
            strip = pack(part[top : top + rows].reshape(-1, width * part.shape[2]), bits, order)
            strip = zlib.compress(strip) if compression == DEFLATE else strip
            strips.append(strip.translate(REVERSED) if fill_order == 2 else strip)
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [compression]),
        262: (3, [photometric]),
        266: (3, [fill_order]),
        273: (4, offsets),
        277: (3, [samples]),
        278: (4, [rows]),
        279: (4, list(map(len, strips))),
        284: (3, [1 + planes]),
    }
    entries = {code: entry for code, entry in (entries | (tags or {})).items() if entry}
    start = 8 + sum(map(len, strips))
    behind = start + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for code, (kind, numbers) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(numbers)}{TYPES[kind]}", *numbers)
        if len(value) > 4:
            value, values = struct.pack(f"{order}I", behind + len(values)), values + value
        directory += struct.pack(f"{order}HHI", code, kind, len(numbers)) + value.ljust(4, b"\0")
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    return magic + b"".join(strips) + directory + bytes(4) + values
