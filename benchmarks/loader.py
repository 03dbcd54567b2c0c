"""How fast images come in, beside other loaders: `make bench-loader`, or this file's --help.

Every system runs in a process of its own, all in turns in one run, several times; loader.json holds
every measurement, loader.md the medians and ratios. The photographs are made here, as crops and
mosaics of those that scikit-image ships, so that nothing has to be downloaded. Linux only.
"""

import hashlib
import io
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pyarrow as pa
from loader_jobs import CORES, SECONDS
from PIL import Image

from kt_jax.data.scan import MANIFEST, write_manifest
from kt_jax.data.sources import make_source, photographs
from kt_jax.data.sources.listing import make_scanned

# name: (width, height, files, side of the decoded images, short side of the prepared ones)
SETS = {
    "500 x 375 to 96 px": (500, 375, 600, 96, 128),
    "500 x 375 to 224 px": (500, 375, 600, 224, 256),
    "2000 x 1500 to 224 px": (2000, 1500, 120, 224, 256),
}
SMALL_FILES = 20_000
MANIFEST_ROWS = 1_000_000
SYSTEMS = (
    "bare", "kt_jax", "kt_jax, 2 workers", "torch", "torch, draft", "tf.data",
    "bare prepared", "prepared", "uncompressed",
)  # fmt: skip
PACKAGES = ("kt_jax", "grain", "simplejpeg", "opencv-python-headless", "torch", "tensorflow")


def make_photographs(folder: Path, width: int, height: int, count: int) -> None:
    """Writes JPEGs of quality 90: crops of 500 x 375 px or, for larger ones, mosaics of them."""
    folder.mkdir(parents=True)
    sources = [
        Image.open(photographs.photograph_path(name)).convert("RGB") for name in photographs.FILES
    ]
    rng = np.random.default_rng(0)

    def crop(width: int, height: int) -> Image.Image:
        source = sources[rng.integers(len(sources))]
        scale = rng.uniform(0.4, 0.95) * min(source.width / width, source.height / height)
        w, h = width * scale, height * scale
        left, top = rng.uniform(0, source.width - w), rng.uniform(0, source.height - h)
        return source.resize((width, height), box=(left, top, left + w, top + h))

    for number in range(count):
        columns, rows = max(1, width // 500), max(1, height // 375)
        picture = Image.new("RGB", (width, height))
        for x in range(columns):
            for y in range(rows):
                tile = crop(width // columns, height // rows)
                picture.paste(tile, (x * tile.width, y * tile.height))
        picture.save(folder / f"{number:06d}.jpg", quality=90)


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job in a process of its own."""
    return harness.ask("loader_jobs.py", job, TF_CPP_MIN_LOG_LEVEL="3", JAX_PLATFORMS="cpu")


def measure(at: Path, repeats: int) -> dict[str, Any]:
    """Every measurement."""
    results: dict[str, Any] = {"rates": {}, "scan": [], "rescan": [], "open": []}
    for name, (width, height, count, size, short) in SETS.items():
        folder, prepared = at / f"{width}x{height}", at / f"{width}x{height}-{short}"
        if not folder.exists():
            make_photographs(folder, width, height, count)
        # Without compression at the side that is used, so that nothing is resized either.
        plain = at / f"{width}x{height}-{size}-uncompressed"
        for out, options in (
            (prepared, [f"--size={short}"]),
            (plain, [f"--size={size}", "--uncompressed"]),
        ):
            command = [sys.executable, "-m", "kt_jax.data", "prepare", str(folder)]
            command += [f"--out={out}", "--shards=4", *options]
            subprocess.run(command, check=True)
        places = {"folder": str(folder), "prepared": str(prepared), "uncompressed": str(plain)}
        rates: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        for _ in range(repeats):
            for system in SYSTEMS:
                job = {"system": system, "size": size, "count": count}
                found = ask(job | places)
                rates[system] += [found["rate"]] if "rate" in found else []
        results["rates"][name] = rates
    small = at / "small"
    make_small_files(small, SMALL_FILES)
    for _ in range(repeats):
        manifest = at / "small.parquet"
        manifest.unlink(missing_ok=True)
        job = {"system": "scan", "folder": str(small), "manifest": str(manifest)}
        results["scan"].append(ask(job))
        results["rescan"].append(ask(job))
    million = make_manifest(at / "million.parquet", small, MANIFEST_ROWS)
    for _ in range(repeats):
        results["open"].append(ask({"system": "open", "manifest": str(million)}))
    return results


def make_small_files(folder: Path, count: int) -> None:
    """Writes 128-px JPEGs of a few kilobytes, no two the same."""
    crops = folder.parent / "crops"
    make_photographs(crops, 128, 128, 500)
    pictures = [np.asarray(Image.open(file)) for file in sorted(crops.iterdir())]
    for number in range(count):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(pictures[number % len(pictures)], number // len(pictures), axis=1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        (place / f"{number:06d}.jpg").write_bytes(buffer.getvalue())


def make_manifest(path: Path, folder: Path, rows: int) -> Path:
    """Writes what a scan of a folder with as many files would."""
    keys = [f"class{row % 1000:04d}/photograph-{row:07d}.jpg" for row in range(rows)]
    columns = {
        "key": sorted(keys),
        "bytes": np.arange(rows),
        "stamp": np.arange(rows),
        "sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
        "height": np.full(rows, 375, np.int32),
        "width": np.full(rows, 500, np.int32),
        "mode": ["RGB"] * rows,
        "phash": np.random.default_rng(0).integers(2**64, size=rows, dtype=np.uint64),
        "reason": [""] * rows,
    }
    columns["label"] = [key.split("/")[0] for key in columns["key"]]
    table = pa.table(columns, schema=MANIFEST)
    opened = make_source("folder", path=folder)
    write_manifest(make_scanned(table, opened, "folder", {"path": str(folder)}), path)
    return path


def make_page(found: dict[str, Any]) -> list[str]:
    """The medians and their ratios."""
    lines = [
        "# Images in\n",
        f"`make bench-loader`, {found['date']}: {found['machine']}, {CORES} cores; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f". Medians of {found['repeats']} turns of {SECONDS:.0f} s, every system in a process of "
        "its own; images/s to decoded, resized batches of 64, files in the page cache. *Bare* is "
        "simplejpeg alone in a loop, in a thread a core, at the scale that leaves the size: the "
        "limit. torch: DataLoader with a worker a core, Pillow as in torchvision's ImageFolder; "
        "*draft*: the same at the scale that ours takes. tf.data decodes the central square at "
        "full size. *Prepared*: JPEGs whose shorter side is 128 px, or 256 px; *uncompressed*: "
        "pixels, at the side that they are used at.\n",
        "| images | " + " | ".join(SYSTEMS) + " |",
        "|---" * (len(SYSTEMS) + 1) + "|",
    ]
    medians: dict[str, dict[str, Any]] = {
        name: {system: statistics.median(rates) if rates else None for system, rates in row.items()}
        for name, row in found["rates"].items()
    }
    for name, row in medians.items():
        cells = ["absent" if row[s] is None else f"{row[s]:,.0f}" for s in SYSTEMS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| images | kt_jax / bare | kt_jax / torch | kt_jax / torch, draft | kt_jax / tf.data | "
        "prepared / folder | prepared / bare prepared | uncompressed / folder |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in medians.items():
        ours = row["kt_jax"]
        over = [(ours, row[s]) for s in ("bare", "torch", "torch, draft", "tf.data")]
        over += [(row["prepared"], ours), (row["prepared"], row["bare prepared"])]
        over += [(row["uncompressed"], ours)]
        cells = ["absent" if b is None else f"{a / b:.2f}" for a, b in over]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    median = {
        name: statistics.median(each["seconds"] for each in found[name])
        for name in ("scan", "rescan", "open")
    }
    memory = statistics.median(each["bytes"] for each in found["open"])
    lines += [
        "",
        f"Scan (read, SHA-256, decode, pHash) of {SMALL_FILES:,} files of 128 px: "
        f"{SMALL_FILES / median['scan']:,.0f} files/s; again, with nothing changed: "
        f"{SMALL_FILES / median['rescan']:,.0f}. A scanned manifest of {MANIFEST_ROWS:,} rows "
        f"opens in {median['open']:.2f} s, with {memory / 1e6:,.0f} MB more of memory at its "
        "peak.\n",
    ]
    return lines


def main() -> None:
    """Measures, and writes loader.json and loader.md."""
    options = harness.parse(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as place:
        found = measure(Path(place), options.repeats)
    harness.write("loader", found, options, PACKAGES, make_page)


if __name__ == "__main__":
    main()
