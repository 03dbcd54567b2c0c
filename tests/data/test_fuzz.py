"""Broken files by the thousand: each is read, or excluded with a reason."""

import contextlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from kt_jax.data.sources import make_source

SEED = 0
COUNT = 2000
SECONDS = 120

# All of it by threads, as users have it.
READ_ALL = """
import json, sys
from kt_jax.data import eval_batches, open_images
images = open_images("folder", size=24, path=sys.argv[1])
shapes = {batch["image"].shape for batch in eval_batches(images, 32)}
excluded = [[each.key, each.reason] for each in images.excluded]
print(json.dumps({"keys": images.keys, "excluded": excluded, "shapes": sorted(shapes)}))
"""
# One after the other, named before it is read, so that what kills the process is known.
READ_EACH = """
import pathlib, sys
from kt_jax.data.decode import decode_image, examine_image
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    data = path.read_bytes()
    try:
        examine_image(data)
    except ValueError:
        continue
    decode_image(data, 24)
"""


def make_originals():
    """Names (of the kind) and bytes of sound files."""
    rng = np.random.default_rng(SEED)
    noise = rng.normal(0, 12, (40, 56, 3))
    slope = np.add.outer(np.arange(40) * 3, np.arange(56) * 2)[..., None] * [1, 0.6, -0.8]
    noise += [0, 40, 220]
    image = Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8))
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L"))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    jpegs = {
        "baseline": encode(image, "JPEG", quality=90, subsampling=0),
        "progressive": encode(image, "JPEG", progressive=True),
        "grey": encode(image.convert("L"), "JPEG"),
        "420": encode(image, "JPEG", subsampling=2, restart_marker_blocks=3),
        "exif": encode(image, "JPEG", exif=exif),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
    }
    pngs = {
        "greyscale": encode(image.convert("L"), "PNG"),
        "rgb": encode(image, "PNG", exif=exif),
        "rgba": encode(alpha, "PNG"),
        "palette": encode(image.quantize(32), "PNG", transparency=3),
        "deep": encode(deep, "PNG"),
        "interlaced": make_interlaced(),
    }
    return {f"{name}.jpg": data for name, data in jpegs.items()} | {
        f"{name}.png": data for name, data in pngs.items()
    }


def make_interlaced():
    """A PNG of 16 x 16 grey pixels in Adam7's seven passes, which Pillow does not write."""
    passes = [(2, 2), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8)]  # columns, rows
    rows = b"".join((b"\0" + bytes(range(columns))) * height for columns, height in passes)
    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return join_chunks(chunks)


def split_chunks(data):
    at, chunks = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def join_chunks(chunks):
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flip_bits(rng, data):
    data = bytearray(data)
    first = rng.choice([100, 700, len(data)])  # headers are short, and matter most
    for at in rng.integers(min(first, len(data)), size=rng.integers(1, 12)):
        data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def overwrite(rng, data):
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = rng.integers(len(data)), rng.integers(1, 60)
        kind = rng.integers(3)
        run = bytes([0, 255][kind] for _ in range(length)) if kind < 2 else rng.bytes(length)
        data[at : at + length] = run
    return bytes(data)


def truncate(rng, data):
    end = data[-12:] if rng.integers(2) else b""  # with its end marker, or without
    return data[: rng.integers(len(data))] + end


def splice(rng, data, other):
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def change_fields(rng, data):
    if data[:2] == b"\xff\xd8":
        return change_segments(rng, data)
    chunks = split_chunks(data)
    number = rng.integers(len(chunks)) if rng.integers(2) else 0
    kind, body = chunks[number]
    if kind == b"IDAT" and rng.integers(2):
        # Below the compression, so that it still decompresses.
        body = zlib.compress(overwrite(rng, zlib.decompress(body)))
    elif body:
        body = bytearray(body)
        for at in rng.integers(len(body), size=rng.integers(1, 3)):
            body[at] = rng.choice([0, 1, 2, 3, 4, 8, 16, 127, 128, 255, rng.integers(256)])
    chunks[number] = kind, bytes(body)
    if not rng.integers(4):
        chunks.insert(rng.integers(len(chunks)), chunks[rng.integers(len(chunks))])
    return join_chunks(chunks)


def change_segments(rng, data):
    starts, at = [], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        starts.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    starts.append(at)
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        # The marker, its length, and the fields that follow.
        field = rng.choice(starts) + rng.integers(1, 22)
        value = rng.choice([0, 1, 2, 4, 0x11, 0x22, 0xC2, 0xD9, 0xDA, 255, rng.integers(256)])
        data[min(field, len(data) - 1)] = value
    return bytes(data)


def mutate(number, originals):
    """The name and the bytes of one broken file: a function of its number."""
    rng = np.random.default_rng([SEED, number])
    names = sorted(originals)
    name, other = rng.choice(names), rng.choice(names)
    kind = rng.integers(5)
    data = originals[name]
    if kind == 0:
        data = flip_bits(rng, data)
    elif kind == 1:
        data = overwrite(rng, data)
    elif kind == 2:
        data = truncate(rng, data)
    elif kind == 3:
        data = splice(rng, data, originals[other])
    else:
        data = change_fields(rng, data)
    return f"{number:05d}-{name}", data


def run(script, folder):
    command = [sys.executable, "-X", "faulthandler", "-c", script, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        return "hangs", (expired.stdout or b"").decode(), (expired.stderr or b"").decode()
    return done.returncode, done.stdout, done.stderr


def test_the_originals_are_sound(tmp_path):
    originals = make_originals()
    for name, data in originals.items():
        (tmp_path / name).write_bytes(data)
    code, output, errors = run(READ_ALL, tmp_path)
    assert code == 0, errors
    assert sorted(json.loads(output)["keys"]) == sorted(originals)


def test_every_broken_file_is_read_or_excluded(tmp_path):
    originals = make_originals()
    names = []
    for number in range(COUNT):
        name, data = mutate(number, originals)
        names.append(name)
        (tmp_path / name).write_bytes(data)
    code, output, errors = run(READ_ALL, tmp_path)
    if code != 0:
        each, begun, each_errors = run(READ_EACH, tmp_path)
        last = begun.split()[-1] if each != 0 and begun else "none of them alone"
        pytest.fail(
            f"exit status {code} on mutations of seed {SEED}; one after the other, {last} ends "
            f"with {each}: {each_errors[-2000:]}\n{errors[-2000:]}"
        )
    found = json.loads(output)
    excluded = dict(found["excluded"])
    assert sorted([*found["keys"], *excluded]) == names
    assert len(excluded) == len(found["excluded"])
    assert all(excluded.values())
    assert found["shapes"] == [[32, 24, 24, 3]]
    # Neither way is rare, for either format.
    for suffix in (".jpg", ".png"):
        assert sum(key.endswith(suffix) for key in found["keys"]) > COUNT / 20
        assert sum(key.endswith(suffix) for key in excluded) > COUNT / 10


def test_broken_archives_are_read_or_refused(tmp_path):
    files = make_originals()
    archives = {kind: io.BytesIO() for kind in ("zip", "pax", "gnu")}
    with zipfile.ZipFile(archives["zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files)[:5]:
            archive.writestr(f"caf\u00e9/{name}", files[name])
    for kind, format in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        with tarfile.open(fileobj=archives[kind], mode="w", format=format) as archive:
            for number, name in enumerate(sorted(files)[:5]):
                entry = tarfile.TarInfo(f"caf\u00e9/{'x' * 50 * number}{name}")
                entry.size, entry.mtime = len(files[name]), number / 2
                archive.addfile(entry, io.BytesIO(files[name]))
    opened = dict.fromkeys(archives, 0)
    for number in range(400):
        rng = np.random.default_rng([SEED, number])
        kind = rng.choice(sorted(archives))
        change = [flip_bits, overwrite, truncate][rng.integers(3)]
        path = tmp_path / "broken"
        path.write_bytes(change(rng, archives[kind].getvalue()))
        with contextlib.suppress(ValueError):
            source = make_source("zip" if kind == "zip" else "tar", path=path)
            opened[kind] += 1
            for row in range(len(source.entries)):
                with contextlib.suppress(ValueError):
                    assert len(source.read(row)) == source.entries["bytes"][row].as_py()
    assert min(opened.values()) > 20
