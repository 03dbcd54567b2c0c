"""How fast images come in, beside other loaders: `make bench-loader`, or this file's --help.

Every system runs in a process of its own, all in turns in one run, several times; loader.json holds
every measurement, loader.md the medians and ratios. The photographs are made here, as crops and
mosaics of those that scikit-image ships, so that nothing has to be downloaded. Linux only.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import io
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from kt_jax import data
from kt_jax.data.scan import scan
from kt_jax.data.sources import make_source, photographs

HERE = Path(__file__).resolve().parent
BATCH = 64
CORES = 2
WARM_SECONDS, SECONDS = 2.0, 5.0
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
    "bare prepared", "prepared",
)  # fmt: skip


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


def rate(images: Iterator[int]) -> float:
    """Images a second, of an iterator over numbers of images, once it runs steadily."""
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < WARM_SECONDS:
        next(images)
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < SECONDS:
        count += next(images)
    return count / (now - begun)


def run_bare(files: list[bytes], size: int) -> float:
    """Simplejpeg in a loop, in as many threads as there are cores: nothing else is done."""
    done, ended = [0] * CORES, threading.Event()

    def decode(thread: int) -> None:
        for file in itertools.cycle(files[thread::CORES]):
            simplejpeg.decode_jpeg(file, min_height=size, min_width=size)
            done[thread] += 1
            if ended.is_set():
                return

    threads = [threading.Thread(target=decode, args=(thread,)) for thread in range(CORES)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_SECONDS)
    before, begun = sum(done), time.perf_counter()
    time.sleep(SECONDS)
    found = (sum(done) - before) / (time.perf_counter() - begun)
    ended.set()
    for thread in threads:
        thread.join()
    return found


def run_kt_jax(source: str, path: str, size: int, workers: int) -> float:
    """train_batches over the set, nothing kept decoded."""
    images = data.open_images(source, path=path, size=size, cache="none")
    order = data.Shuffled(len(images), seed=0)
    reading = data.Reading(workers=workers, threads=1 if workers else CORES)
    batches = data.train_batches(images, order, BATCH, last_step=10**7, reading=reading)
    return rate(len(batch["image"]) for batch in batches)


class Photographs:
    """A map-style data set for torch, decoded by Pillow as torchvision's ImageFolder is.

    With `draft`, at a fraction of the size, as ours are: which takes knowing of it.
    """

    def __init__(self, path: str, size: int, *, draft: bool) -> None:
        self.files, self.size = sorted(str(file) for file in Path(path).iterdir()), size
        self.draft = draft

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        with Image.open(self.files[index]) as picture:
            if self.draft:
                picture.draft("RGB", (self.size, self.size))
            picture = picture.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        return np.array(picture.resize((self.size,) * 2, Image.Resampling.BILINEAR, box=box))


def run_torch(path: str, size: int, *, draft: bool) -> float:
    """Torch's DataLoader with a worker a core."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    photos = Photographs(path, size, draft=draft)
    sampler = torch.utils.data.RandomSampler(photos, replacement=True, num_samples=10**7)
    loader = torch.utils.data.DataLoader(
        photos, BATCH, sampler=sampler, num_workers=CORES, prefetch_factor=4
    )
    return rate(len(batch) for batch in iter(loader))


def run_tf_data(path: str, size: int) -> float:
    """A plain tf.data pipeline, tuned by itself."""
    tf = importlib.import_module("tensorflow")

    def load(file: Any) -> Any:
        raw = tf.io.read_file(file)
        shape = tf.io.extract_jpeg_shape(raw)
        side = tf.minimum(shape[0], shape[1])
        box = [(shape[0] - side) // 2, (shape[1] - side) // 2, side, side]
        picture = tf.io.decode_and_crop_jpeg(raw, box, channels=3)
        picture = tf.image.resize(picture, (size, size), method="area")
        return tf.cast(picture, tf.uint8)

    files = sorted(str(file) for file in Path(path).iterdir())
    batches = (
        tf.data.Dataset.from_tensor_slices(files)
        .shuffle(len(files))
        .repeat()
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
    return rate(len(batch) for batch in batches.as_numpy_iterator())


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """What one measuring process does; that a peer is not installed is an answer like any other."""
    system, size = job["system"], job.get("size", 0)
    if system == "scan":
        begun = time.perf_counter()
        table = scan(make_source("folder", path=job["folder"]), job["manifest"])
        return {"seconds": time.perf_counter() - begun, "rows": len(table)}
    if system == "open":
        before = peak_rss()
        begun = time.perf_counter()
        images = data.open_images("manifest", path=job["manifest"], size=96, cache="none")
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "rows": len(images), "bytes": peak_rss() - before}
    try:
        if system == "bare":
            files = [file.read_bytes() for file in sorted(Path(job["folder"]).iterdir())]
            return {"rate": run_bare(files, size)}
        if system == "bare prepared":
            source = make_source("array_record", path=job["prepared"])
            return {"rate": run_bare([source.read(row) for row in range(job["count"])], size)}
        if system.startswith("torch"):
            return {"rate": run_torch(job["folder"], size, draft="draft" in system)}
        if system == "tf.data":
            return {"rate": run_tf_data(job["folder"], size)}
    except ImportError as error:
        return {"absent": str(error)}
    workers = 2 if "workers" in system else 0
    source, path = ("array_record", "prepared") if system == "prepared" else ("folder", "folder")
    return {"rate": run_kt_jax(source, job[path], size, workers)}


def peak_rss() -> int:
    """The largest memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, str(HERE / "loader.py"), f"--job={json.dumps(job)}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def measure(at: Path, repeats: int) -> dict[str, Any]:
    """Every measurement."""
    results: dict[str, Any] = {"rates": {}, "scan": [], "rescan": [], "open": []}
    for name, (width, height, count, size, short) in SETS.items():
        folder, prepared = at / f"{width}x{height}", at / f"{width}x{height}-{short}"
        if not folder.exists():
            make_photographs(folder, width, height, count)
        subprocess.run(
            [
                *(sys.executable, "-m", "kt_jax.data", "prepare", str(folder)),
                *(f"--out={prepared}", f"--size={short}", "--shards=4"),
            ],
            check=True,
        )
        rates: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        for _ in range(repeats):
            for system in SYSTEMS:
                job = {"system": system, "size": size, "count": count}
                found = ask(job | {"folder": str(folder), "prepared": str(prepared)})
                say(f"{name}: {system}: {found}")
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
        say(f"scan: {results['scan'][-1]}, again: {results['rescan'][-1]}")
    million = make_manifest(at / "million.parquet", small, MANIFEST_ROWS)
    for _ in range(repeats):
        results["open"].append(ask({"system": "open", "manifest": str(million)}))
        say(f"open: {results['open'][-1]}")
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
    import hashlib

    import pyarrow as pa

    from kt_jax.data.scan import MANIFEST, write_manifest
    from kt_jax.data.sources.listing import make_scanned

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


def write_page(found: dict[str, Any], path: Path) -> None:
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
        "full size.\n",
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
        "prepared / folder | prepared / bare prepared |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in medians.items():
        ours = row["kt_jax"]
        over = [(ours, row[s]) for s in ("bare", "torch", "torch, draft", "tf.data")]
        over += [(row["prepared"], ours), (row["prepared"], row["bare prepared"])]
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
    path.write_text("\n".join(lines))


def say(line: str) -> None:
    """Progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measures, and writes loader.json and loader.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns of every system")
    parser.add_argument("--out", type=Path, default=HERE, help="where loader.json and .md go")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(json.loads(arguments.job))))
        return
    at = Path(tempfile.mkdtemp(prefix="bench-loader-"))
    try:
        found = measure(at, arguments.repeats)
    finally:
        shutil.rmtree(at)
    packages = ("kt_jax", "grain", "simplejpeg", "opencv-python-headless", "torch", "tensorflow")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {
        "date": str(datetime.date.today()),
        "machine": next(
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "python": platform.python_version(),
        "versions": versions,
        "repeats": arguments.repeats,
    }
    (arguments.out / "loader.json").write_text(json.dumps(found, indent=1) + "\n")
    write_page(found, arguments.out / "loader.md")
    print((arguments.out / "loader.md").read_text())


if __name__ == "__main__":
    main()
