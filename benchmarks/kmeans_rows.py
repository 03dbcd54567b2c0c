"""The rows that the k-means benchmark clusters, as float32 .npy files in a scratch directory."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STREAM_D = 512
STREAM_SHARDS = 12


def shards(features: Path) -> Iterator[Path]:
    yield from (
        sorted(features.glob("features-*.npy"))
        if features.is_dir()
        else ([features] if features.suffix == ".npy" and features.exists() else [])
    )


def make_gaussian(scratch: Path, n: int, d: int) -> Path:
    path = scratch / "gaussian.npy"
    np.save(path, np.random.default_rng(0).standard_normal((n, d), dtype=np.float32))
    return path


def make_real(scratch: Path, features: Path, most: int) -> Path:
    """A run's features as one float32 file, since that is what all systems take."""
    parts = [np.load(path, mmap_mode="r") for path in shards(features)]
    path = scratch / "real.npy"
    np.save(path, np.concatenate(parts)[:most].astype(np.float32))
    return path


def make_blobs(scratch: Path, n: int, d: int, centres: int) -> Path:
    """Round clusters of standard deviation 1, centres anywhere within -10..10, as make_blobs."""
    rng = np.random.default_rng(1)
    centre = rng.uniform(-10, 10, (centres, d)).astype(np.float32)
    rows = centre[rng.integers(0, centres, n)] + rng.standard_normal((n, d), dtype=np.float32)
    path = scratch / "blobs.npy"
    np.save(path, rows)
    return path


def make_start(scratch: Path, rows: Path, k: int) -> Path:
    """Centroids that all systems start from: rows, drawn at random."""
    x = np.load(rows, mmap_mode="r")
    chosen = np.sort(np.random.default_rng(k).choice(len(x), k, replace=False))
    path = scratch / "start.npy"
    np.save(path, x[chosen])
    return path


def make_large(scratch: Path, gigabytes: float) -> tuple[Path, list[Path]]:
    """Blobs that overlap a little, in one file and the same in shards, never whole in memory."""
    n, chunk = int(gigabytes * 1e9) // (4 * STREAM_D), 65_536
    centres = 0.25 * np.random.default_rng(2).standard_normal((1000, STREAM_D), dtype=np.float32)
    path = scratch / "large.npy"
    whole = np.lib.format.open_memmap(path, "w+", np.float32, (n, STREAM_D))
    for start in range(0, n, chunk):
        rng = np.random.default_rng([2, start])
        stop = min(start + chunk, n)
        rows = rng.standard_normal((stop - start, STREAM_D), dtype=np.float32)
        whole[start:stop] = rows + centres[rng.integers(0, len(centres), stop - start)]
    whole.flush()
    parts = []
    bounds = np.linspace(0, n, STREAM_SHARDS + 1).astype(int)
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        parts.append(scratch / f"large-{number:05}-of-{STREAM_SHARDS:05}.npy")
        np.save(parts[-1], whole[first:last])
    return path, parts


def forget(path: Path) -> None:
    """Drops a file's pages from memory, so that its rows are read from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
