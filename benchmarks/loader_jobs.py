"""What loader.py measures, each in a process of its own."""

import importlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import simplejpeg
from PIL import Image

from kt_jax import data
from kt_jax.data.scan import scan
from kt_jax.data.sources import make_source

BATCH = 64
CORES = 2
WARM_SECONDS, SECONDS = 2.0, 5.0


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
    """One measurement."""
    system, size = job["system"], job.get("size", 0)
    if system == "scan":
        begun = time.perf_counter()
        table = scan(make_source("folder", path=job["folder"]), job["manifest"])
        return {"seconds": time.perf_counter() - begun, "rows": len(table)}
    if system == "open":
        before = harness.peak_rss()
        begun = time.perf_counter()
        images = data.open_images("manifest", path=job["manifest"], size=96, cache="none")
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "rows": len(images), "bytes": harness.peak_rss() - before}
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
    workers = 2 if "workers" in system else 0
    if system in ("prepared", "uncompressed"):
        return {"rate": run_kt_jax("array_record", job[system], size, workers)}
    return {"rate": run_kt_jax("folder", job["folder"], size, workers)}


if __name__ == "__main__":
    harness.answer(run_job)
