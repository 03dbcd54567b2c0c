"""The worst folders and archives: every file is an image, or excluded with a reason."""

import base64
import collections
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from pictures import encode
from PIL import Image, ImageOps, PngImagePlugin

from kt_jax.data import decode_image, open_images
from kt_jax.data.sources import make_source

SIZE = 16
SECONDS = 120  # a process that takes longer hangs

# A slope in every colour, whose orientation shows: 64 x 48 px.
X, Y = np.meshgrid(np.arange(64), np.arange(48))
PIXELS = np.stack([4 * X, 5 * Y, 255 - (4 * X + 5 * Y) // 2], -1).astype(np.uint8)
SLOPE = Image.fromarray(PIXELS)

# By `cjpeg -arithmetic -quality 60` from SLOPE: no library here writes such files.
ARITHMETIC = base64.b64decode("""
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxO
UlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P
T09PT09PT0//yQARCAAwAEADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AKWIujVdR44Z82iy40r07Lsqio50
a8yL3m8n0HD1Gy2ZWCZNIMQBT4XiqTJXYeW5ZQx5ESgCpGNAI6od51is9ua/urnu96lzhyhqvAv63pEsWNURn4WoBiupNBt2pxZB
KsFn0/63KUsGif8ASkK+tt+5RyKu/9k=""")
# By `zip -P secret`: ZipCrypto.
ENCRYPTED = base64.b64decode("""
UEsDBBQACQAIANtJd13tur4VZQAAAFsAAAAFABwAcy5wbmdVVAkAAw0EBGsNBARrdXgLAAEEAAAAAAQAAAAANZSSWLfBmjyz6VdK
QSC77jEwGRNfUgIwIjx9JD3cx4skXsGGIpN9a0GhUdpBUOT2NB/MVNwzeMs1e6Zzezh4E0A/dDoeV19q20L6zTErXEx5p+xR2h22
4H38HPhE7MwDHsbFkvBQSwcI7bq+FWUAAABbAAAAUEsBAh4DFAAJAAgA20l3Xe26vhVlAAAAWwAAAAUAGAAAAAAAAAAAAKSBAAAA
AHMucG5nVVQFAAMNBARrdXgLAAEEAAAAAAQAAAAAUEsFBgAAAAABAAEASwAAALQAAAAAAA==""")

# In a process of its own, started by a small one that says how much memory it took at most: a
# process begins with the peak of the one that it is forked from.
READ = """
import json, sys
import numpy as np
from kt_jax.data import open_images
source, path, size, out = sys.argv[1:]
images = open_images(source, size=int(size), path=path)
np.save(out, np.stack([images[i] for i in range(len(images))]))
found = {"keys": images.keys, "excluded": [[e.key, e.reason] for e in images.excluded]}
print(json.dumps(found))
"""
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
sys.exit(done.returncode)
"""

Found = collections.namedtuple("Found", "pixels reasons peak")


def read(source, path, tmp_path, size=SIZE):
    """The pixels of the images by key, the reasons of what was excluded, and the peak in bytes."""
    out = tmp_path / "pixels.npy"
    command = [sys.executable, "-c", READ, source, path, size, out]
    command = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    line, peak = done.stdout.splitlines()
    found = json.loads(line)
    reasons = dict(found["excluded"])
    assert len(reasons) == len(found["excluded"]), "a file is excluded twice"
    assert reasons.keys().isdisjoint(found["keys"])
    return Found(dict(zip(found["keys"], np.load(out), strict=True)), reasons, int(peak))


def make_png(width, height, bits):
    """A black PNG of any size, whose rows are never in memory together."""
    row = bytes(1 + -(-width * bits // 8))
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    # Grey; with 24 bits a pixel, colour.
    header = struct.pack(">IIBBBBB", width, height, min(bits, 8), 2 if bits > 8 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    )


def make_gif(screen, frame):
    """A GIF whose only frame holds one pixel's data."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\2\2\x44\1\0;"


def make_12_bit_jpeg():
    """A JPEG of 16 x 16 grey pixels of 12 bits: all differences are zero."""

    def segment(marker, body):
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    tables = [segment(0xC4, bytes([number, 1, *[0] * 15, 0])) for number in (0x00, 0x10)]
    quantisation = segment(0xDB, bytes([0, *[1] * 64]))
    frame = segment(0xC1, bytes([12, 0, 16, 0, 16, 1, 1, 0x11, 0]))
    scan = segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + b"\0"
    return b"\xff\xd8" + quantisation + frame + b"".join(tables) + scan + b"\xff\xd9"


def make_sound():
    """The files that are images: name -> bytes."""
    plain = encode(SLOPE, "PNG")
    jpeg = encode(SLOPE, "JPEG", quality=95, subsampling=0)
    alpha = SLOPE.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.where(X < 40, 255, 40).astype(np.uint8)))
    others = [SLOPE.rotate(90 * turn).resize((64, 48)) for turn in (1, 2)]
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its left side
    stored = SLOPE.transpose(Image.Transpose.ROTATE_90)
    grey = np.asarray(SLOPE.convert("L")).astype(np.uint16)
    _, deep = cv2.imencode(".png", PIXELS[..., ::-1].astype(np.uint16) * 257)
    long_text = PngImagePlugin.PngInfo()
    long_text.add_text("note", "x" * 2_000_000)
    return {
        "plain.png": plain,
        "copy of plain.png": plain,
        "png.jpg": plain,
        "jpeg.png": jpeg,
        "UPPER.JPG": jpeg,
        "with 'quotes', \"spaces\"\nand a new line.jpeg": jpeg,
        "cmyk.jpg": encode(SLOPE.convert("CMYK"), "JPEG", quality=95),
        "grey.jpg": encode(SLOPE.convert("L"), "JPEG", quality=95),
        "progressive.jpg": encode(SLOPE, "JPEG", quality=95, progressive=True),
        "arithmetic.jpg": ARITHMETIC,
        "more after its end.jpg": jpeg + b"\xff\xda" * 500 + bytes(10_000),
        "rotated.jpg": encode(stored, "JPEG", quality=95, subsampling=0, exif=turned),
        "rotated.png": encode(stored, "PNG", exif=turned),
        "rotated.tif": encode(stored, "TIFF", exif=turned),
        "rotated.webp": encode(stored, "WEBP", lossless=True, exif=turned),
        "16-bit grey.png": encode(Image.fromarray(grey * 257), "PNG"),
        "16-bit colour.png": deep.tobytes(),
        "palette.png": encode(SLOPE.quantize(64), "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "alpha.webp": encode(alpha, "WEBP", lossless=True),
        "long text.png": encode(SLOPE, "PNG", pnginfo=long_text),
        "animated.gif": encode(SLOPE, "GIF", save_all=True, append_images=others),
        "animated.webp": encode(SLOPE, "WEBP", lossless=True, save_all=True, append_images=others),
        "lossless.webp": encode(SLOPE, "WEBP", lossless=True),
        "lossy.webp": encode(SLOPE, "WEBP", quality=90),
        "plain.bmp": encode(SLOPE, "BMP"),
        "pages.tiff": encode(SLOPE, "TIFF", save_all=True, append_images=others),
        "flat.png": encode(Image.new("RGB", (20, 20), (7, 8, 9)), "PNG"),
    }


def make_broken():
    """The files that are none: name -> (bytes, what the reason says)."""
    png, jpeg = encode(SLOPE, "PNG"), encode(SLOPE, "JPEG", quality=95)
    progressive = encode(SLOPE, "JPEG", progressive=True)
    cmyk = encode(SLOPE.convert("CMYK"), "JPEG", quality=95)
    restarts = encode(SLOPE, "JPEG", quality=95, subsampling=0, restart_marker_blocks=4)
    last = progressive.rindex(b"\xff\xda")
    scans = progressive[:last] + 3000 * progressive[last:-2] + b"\xff\xd9"
    second = progressive.index(b"\xff\xda") + 2
    padded = scans[second:].replace(b"\xff\xda", b"\xff\xff\xff\xda")
    data = jpeg.index(b"\xff\xda") + 14
    webp = encode(SLOPE, "WEBP", lossless=True)
    return {
        "empty.jpg": (b"", r"the file is empty \(0 bytes\)"),
        "text.jpg": (b"not an image at all", "not an image in any format"),
        "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not an image in any format"),
        "apple.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".heic is not read here"),
        "cut.jpg": (jpeg[: len(jpeg) * 2 // 3], "truncated"),
        "cut, then ended.jpg": (jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9", "truncated"),
        "cut between restarts.jpg": (
            restarts[: restarts.index(b"\xff\xd5")] + b"\xff\xd9",
            "truncated",
        ),
        "cut cmyk, then ended.jpg": (cmyk[: len(cmyk) * 2 // 3] + b"\xff\xd9", "truncated"),
        "no pixels.jpg": (jpeg[:data] + b"\xff\xd9", "truncated"),
        "cut progressive.jpg": (progressive[: len(progressive) // 2] + b"\xff\xd9", "truncated"),
        "scans.jpg": (scans, r"30\d\d scans are more than 100"),
        "hidden scans.jpg": (scans[:second] + padded, r"30\d\d scans are more than 100"),
        "12-bit.jpg": (make_12_bit_jpeg(), "a JPEG that cannot be read: .* precision 12"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "no pixels.png": (png[: png.index(b"IDAT") - 4] + png[-12:], "OSError"),
        "cut.webp": (webp[: len(webp) // 2], "OSError: could not create decoder"),
        "cut.gif": (encode(SLOPE, "GIF")[:1500], "truncated"),
        "screen.gif": (make_gif((65535, 65535), (1, 1)), "exceeds limit of 400000000"),
        "frame.gif": (make_gif((16, 16), (65535, 65535)), "exceeds limit of 400000000"),
        "no pixels.gif": (make_gif((16, 16), (16, 16)), "truncated"),
        "float.tiff": (encode(Image.new("F", (9, 9)), "TIFF"), "32-bit floating-point samples"),
        "1x1.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "both sides must be at least 8"),
        "wide.png": (encode(Image.new("RGB", (20000, 10)), "PNG"), "more than 50 times the other"),
        "wide.jpg": (encode(Image.new("RGB", (20000, 10)), "JPEG"), "more than 50 times the other"),
        "bomb.png": (make_png(14143, 14143, 1), "are more than 200,000,000"),
        "large bomb.png": (make_png(40000, 40000, 1), "exceeds limit of 400000000"),
    }


def reference(data):
    """An image as Pillow alone decodes it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        top = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.paste(top, mask=top)
    return np.asarray(ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.BOX))


def check_pixels(found, sound):
    for name, data in sound.items():
        pixels, expected = found[name].astype(int), reference(data).astype(int)
        assert pixels.shape == (SIZE, SIZE, 3)
        assert np.abs(pixels - expected).max() <= 6, name
        # And as drawn here, whatever Pillow thinks of it: the first frame, upright.
        drawn = SLOPE.convert("L") if "grey" in name else SLOPE
        drawn = np.asarray(ImageOps.fit(drawn.convert("RGB"), (SIZE, SIZE), Image.Resampling.BOX))
        if "alpha" in name:
            drawn = np.where((np.arange(SIZE) < 10)[:, None], drawn, 255 - (255 - drawn) * 0.157)
        if name != "flat.png":
            assert np.abs(pixels - drawn).mean() < 6, name
            assert pixels.std(axis=(0, 1)).max() > 9, name


def check_reasons(found, expected):
    assert found.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.search(pattern, found[name]), (name, found[name])


def test_every_file_of_a_folder_is_an_image_or_excluded_with_a_reason(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    sound, broken = make_sound(), make_broken()
    for name, data in (sound | {name: data for name, (data, _) in broken.items()}).items():
        (root / name).write_bytes(data)
    reasons = {name: pattern for name, (_, pattern) in broken.items()}

    locked = root / "locked.png"
    locked.write_bytes(sound["plain.png"])
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # by root, who reads it all the same
        sound["locked.png"] = sound["plain.png"]
    else:
        reasons["locked.png"] = "PermissionError: Permission denied"

    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    os.mkfifo(root / "pipe.jpg")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(sound["plain.png"])
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(2**30 + 1)  # takes no space
    reasons |= {
        "dangling.png": "a link to a file that does not exist",
        "itself.jpg": "OSError: Too many levels of symbolic links",
        "pipe.jpg": "not a regular file",
        "caf\ufffd.png": "the name is not UTF-8",
        "huge.jpg": "1,073,741,825 bytes are more than 1,073,741,824",
    }

    # Folders: one with the name of an image, and two that link to each other.
    for folder, file in (("y.jpg", "inside.png"), ("one", "a.png"), ("two", "b.png")):
        (root / folder).mkdir()
        (root / folder / file).write_bytes(sound["plain.png"])
        sound[f"{folder}/{file}"] = sound["plain.png"]
    (root / "one/to two").symlink_to(root / "two")
    (root / "two/to one").symlink_to(root / "one")
    sound |= dict.fromkeys(["one/to two/b.png", "two/to one/a.png"], sound["plain.png"])
    reasons |= dict.fromkeys(["one/to two/to one", "two/to one/to two"], "a link back to a folder")

    # Nothing that lies there is lost.
    on_disk = {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
    }
    assert {os.fsencode(name).decode(errors="replace") for name in on_disk} <= {*sound, *reasons}

    found = read("folder", root, tmp_path)
    assert found.pixels.keys() == sound.keys()
    check_reasons(found.reasons, reasons)
    check_pixels(found.pixels, sound)


def declare(path, name, size):
    """Writes another size of the content into an entry of a zip's table of contents."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.rindex(name) - 22, size)
    path.write_bytes(raw)


def test_every_entry_of_a_zip_is_an_image_or_excluded_with_a_reason(tmp_path):
    sound, broken = make_sound(), make_broken()
    path, plain = tmp_path / "z.zip", sound["plain.png"]
    reasons = {name: pattern for name, (_, pattern) in broken.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (sound | {name: data for name, (data, _) in broken.items()}).items():
            archive.writestr(f"in/{name}", data)
        for name in ("../up.png", "in/../../up.png", "/etc/abs.png", "C:\\drive.png"):
            archive.writestr(name, plain)
            reasons[name] = "an unsafe name"
        for name, method in (("bzip2.png", zipfile.ZIP_BZIP2), ("lzma.png", zipfile.ZIP_LZMA)):
            archive.writestr(f"in/{name}", plain, method)
            reasons[name] = f"compressed by method {method}, not deflated"
        for name in ("short.png", "long.png", "GiB.png"):
            archive.writestr(f"in/{name}", plain)
        archive.mkdir("in/folder.png")
    declare(path, b"in/short.png", len(plain) - 50)
    declare(path, b"in/long.png", len(plain) + 50)
    declare(path, b"in/GiB.png", 2**30 + 1)
    reasons |= {
        "short.png": "Bad CRC-32",
        "long.png": f"declares {len(plain) + 50} bytes, but holds {len(plain)}",
        "GiB.png": "1,073,741,825 bytes are more than 1,073,741,824",
    }
    found = read("zip", path, tmp_path)
    assert found.pixels.keys() == sound.keys()
    check_reasons(found.reasons, reasons)
    check_pixels(found.pixels, sound)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_of_a_zip_whose_headers_lie(tmp_path, method):
    path, plain = tmp_path / "z.zip", encode(SLOPE, "PNG")
    names = ["cut.png", "empty.png", "far.png", "magic.png", "packed.png", "sound.png"]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in [*names, "strong.png"]:
            archive.writestr(name, plain)
        # The headers before the data hold what the table of contents does not.
        with archive.open(zipfile.ZipInfo("zip64.png"), "w", force_zip64=True) as file:
            file.write(plain)
    raw = bytearray(path.read_bytes())
    # In the table of contents, 46 bytes lie before each name; before the data, 30.
    struct.pack_into("<I", raw, raw.rindex(b"packed.png") - 26, 2**31)
    struct.pack_into("<I", raw, raw.rindex(b"cut.png") - 26, 90)
    struct.pack_into("<I", raw, raw.rindex(b"far.png") - 4, len(raw) - 10)
    struct.pack_into("<I", raw, raw.rindex(b"empty.png") - 22, 0)
    raw[raw.index(b"magic.png") - 30] ^= 1
    raw[raw.rindex(b"strong.png") - 38] |= 0x40
    path.write_bytes(b"#!/bin/sh\n" * 100 + raw)  # a zip may follow a program that unpacks it
    source = make_source("zip", path=path)
    keys = source.entries["key"].to_pylist()
    assert keys == [*names, "zip64.png"]
    assert [(each.key, each.reason) for each in source.refused] == [("strong.png", "encrypted")]
    found = {}
    for row, key in enumerate(keys):
        try:
            found[key] = source.read(row)
        except ValueError as error:
            found[key] = str(error)
    sound = dict.fromkeys(["packed.png", "sound.png", "zip64.png"], plain)
    assert found == sound | {
        "cut.png": "BadZipFile: Bad CRC-32",
        "empty.png": "BadZipFile: Bad CRC-32",
        "far.png": "BadZipFile: Truncated file header",
        "magic.png": "BadZipFile: Bad magic number for file header",
    }
    os.truncate(path, 1010)
    with pytest.raises(ValueError, match="BadZipFile: Truncated file header"):
        source.read(keys.index("sound.png"))


def test_no_more_of_a_zip_is_read_than_an_image_can_take(tmp_path):
    """The room for a size that is only declared would be taken at once."""
    path, plain = tmp_path / "z.zip", encode(SLOPE, "PNG")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", plain)
        for name in ("bomb.png", "empty.png"):
            archive.writestr(name, bytes(1_000_000))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.rindex(b"a.png") - 26, 2**32 - 2)
    for name, size in ((b"bomb.png", 2000), (b"empty.png", 0)):
        struct.pack_into("<I", raw, raw.rindex(name) - 22, size)
        struct.pack_into("<I", raw, raw.rindex(name) - 30, zlib.crc32(bytes(size)))
    path.write_bytes(raw)
    source = make_source("zip", path=path)
    tracemalloc.start()
    assert [source.read(row) for row in range(3)] == [plain, bytes(2000), b""]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_an_encrypted_zip(tmp_path):
    path = tmp_path / "z.zip"
    path.write_bytes(ENCRYPTED)
    with zipfile.ZipFile(path) as archive:
        assert Image.open(io.BytesIO(archive.read("s.png", pwd=b"secret"))).size == (16, 12)
    with pytest.raises(ValueError, match=r"no images in z.zip: .* refused: s.png: encrypted"):
        open_images("zip", size=SIZE, path=path)


def test_of_two_entries_of_one_name_the_first_counts(tmp_path):
    red, blue = (encode(Image.new("RGB", (9, 9), colour), "PNG") for colour in ("red", "blue"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (red, blue * 9):
            archive.writestr("a.png", data)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for data in (red, blue * 9):
            add_to_tar(archive, "a.png", data)
    for source in ("zip", "tar"):
        images = open_images(source, size=SIZE, path=tmp_path / f"a.{source}")
        assert (images[0] == [255, 0, 0]).all()
        assert [(e.key, e.reason) for e in images.excluded] == [
            ("a.png", "a second entry of the same name")
        ]


def test_zips_whose_table_of_contents_is_broken(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("caf\u00e9.png", encode(SLOPE, "PNG"))
    good = (tmp_path / "good.zip").read_bytes()
    for broken in (good.replace(b"\xc3\xa9", b"\xff\xff"), good.replace(b"PK\1\2", b"PK\1\3")):
        (tmp_path / "z.zip").write_bytes(broken)
        with pytest.raises(ValueError, match=r"table of contents of .*z.zip cannot be read: \w+: "):
            open_images("zip", size=SIZE, path=tmp_path / "z.zip")


def test_an_entry_of_a_zip_may_have_no_name(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encode(SLOPE, "PNG"))
        archive.writestr("?", b"")
    raw = bytearray(path.read_bytes())
    # The length of its name, and of what follows the name.
    struct.pack_into("<HH", raw, raw.rindex(b"?") - 18, 0, 1)
    path.write_bytes(raw)
    assert open_images("zip", size=SIZE, path=path).keys == ("a.png",)


def add_to_tar(archive, name, data=b"", **fields):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for field, value in fields.items():
        setattr(entry, field, value)
    archive.addfile(entry, io.BytesIO(data))


def test_every_entry_of_a_tar_is_an_image_or_excluded_with_a_reason(tmp_path):
    sound, broken = make_sound(), make_broken()
    path, plain = tmp_path / "t.tar", sound["plain.png"]
    reasons = {name: pattern for name, (_, pattern) in broken.items()}
    with tarfile.open(path, "w") as archive:
        for name, data in (sound | {name: data for name, (data, _) in broken.items()}).items():
            add_to_tar(archive, f"./in/{name}", data)
        for name in ("../up.png", "in/../../up.png", "/etc/abs.png"):
            add_to_tar(archive, name, plain)
            reasons[name] = "an unsafe name"
        kinds = {
            "symlink.png": tarfile.SYMTYPE,
            "hard link.png": tarfile.LNKTYPE,
            "device.jpg": tarfile.CHRTYPE,
            "disk.jpg": tarfile.BLKTYPE,
            "pipe.jpg": tarfile.FIFOTYPE,
        }
        for name, kind in kinds.items():
            add_to_tar(archive, f"in/{name}", type=kind, linkname="in/plain.png")
            reasons[name] = "a link or another entry that holds no file of its own"
        add_to_tar(archive, "in/folder.png", type=tarfile.DIRTYPE)
        add_to_tar(archive, "in/caf\udce9.png", plain)
        reasons["caf\ufffd.png"] = "the name is not UTF-8"
        add_to_tar(archive, "in/undated.png", plain, pax_headers={"mtime": "nan"})
        sound["undated.png"] = plain
        end = archive.offset
    giant = tarfile.TarInfo("in/giant.png")
    giant.size = 2**30 + 512
    with path.open("r+b") as file:
        file.seek(end)
        file.write(giant.tobuf())
        file.truncate(end + 512 + giant.size + 1024)  # takes no space
    reasons["giant.png"] = "1,073,742,336 bytes are more than 1,073,741,824"
    found = read("tar", path, tmp_path)
    assert found.pixels.keys() == sound.keys()
    check_reasons(found.reasons, reasons)
    check_pixels(found.pixels, sound)


def test_tars_that_cannot_be_read_in_place(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            add_to_tar(archive, name, bytes(100))
    good = path.read_bytes()
    negative = tarfile.TarInfo("b.png")
    negative.size = -1024
    header = negative.tobuf(tarfile.GNU_FORMAT)
    cases = {
        "no header at byte 1,024": good[:1024] + b"?" * 512 + good[1536:],
        "the entry at byte 1,024 has a negative size|no header at byte 1,024": (
            good[:1024] + header + good[1536:]
        ),
        "unexpected end of data": good[:1600],
        "no header at byte 2,048": good[:2300],
    }
    for message, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"t.tar cannot be read in place: .*({message})"):
            open_images("tar", size=SIZE, path=path)
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        add_to_tar(archive, "a.png", encode(SLOPE, "PNG"))
    for source in ("tar", "auto"):
        with pytest.raises(ValueError, match=r"t.tar.gz is a tar compressed by gzip, .* gunzip -c"):
            open_images(source, size=SIZE, path=tmp_path / "t.tar.gz")


@pytest.mark.slow
def test_the_largest_pictures_take_bounded_memory(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (root / "colour.png").write_bytes(make_png(14142, 14142, 24))
    (root / "screen.gif").write_bytes(make_gif((14142, 14142), (1, 1)))
    found = read("folder", root, tmp_path, size=224)
    assert sorted(found.pixels) == ["colour.png", "screen.gif"]
    assert not found.pixels["colour.png"].any()
    # 200 megapixels in Pillow's four bytes, half as much again, and what the libraries take.
    assert found.peak < 1.5 * 2**30


def test_a_zip_bomb_takes_no_memory(tmp_path):
    packer, zeros = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(2**20)
    data = b"".join(packer.compress(zeros) for _ in range(1000)) + packer.flush()
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encode(SLOPE, "PNG"))
        archive.writestr("bomb.png", data)
    # Deflated data that was stored: another method, and size and checksum of its first 2000 bytes.
    raw = bytearray(path.read_bytes())
    for at in (raw.index(b"bomb.png") - 22, raw.rindex(b"bomb.png") - 36):
        struct.pack_into("<H", raw, at, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", raw, raw.rindex(b"bomb.png") - 30, zlib.crc32(bytes(2000)))
    path.write_bytes(raw)
    declare(path, b"bomb.png", 2000)
    found = read("zip", path, tmp_path)
    assert list(found.pixels) == ["a.png"]
    check_reasons(found.reasons, {"bomb.png": "not an image"})
    assert found.peak < 900 * 2**20  # the bomb is of 1000


@pytest.mark.parametrize("name", ["plain.png", "alpha.png", "palette.png", "16-bit grey.png"])
def test_large_pictures_are_decoded_as_small_ones_are(name, monkeypatch):
    """In strips and twice smaller: seams or a shift would show."""
    data = make_sound()[name]
    whole = decode_image(data, 12).astype(int)
    monkeypatch.setattr("kt_jax.data.decode._LARGE_PIXELS", 100)
    monkeypatch.setattr("kt_jax.data.decode._STRIP_PIXELS", 500)
    assert np.abs(decode_image(data, 12) - whole).max() <= 2
