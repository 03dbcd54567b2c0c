"""Checks whether a run can start here: versions, devices, memory, disk, images and config.

Each finding is one line. It says what to do if something is wrong.
"""

import concurrent.futures
import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from kt_jax.data.decode import decode_image
from kt_jax.data.sources import make_source
from kt_jax.machine import memory, partition
from kt_jax.runs import files, graph, marks, planning, provenance, status, versions
from kt_jax.runs.images import Sources

OK, WARNING, ERROR = "ok", "warning", "error"
# Plugins of JAX for accelerators. Their version must be that of jaxlib.
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm60-plugin", "jax-rocm7-plugin")
_SAMPLE = 100_000  # at most this many images are tried
_LITTLE_MEMORY = 2e9
_NEARLY_ALL = 0.8


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: str
    """OK, WARNING (a run can start) or ERROR (it cannot)."""
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def examine_machine(place: Path) -> Iterator[Finding]:
    """Checks versions, devices, memory, and the disk of the path `place` (which may not exist yet).

    Starts JAX's backend, without reserving the memory of a GPU.
    """
    yield from _examine_versions()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    partition.configure_xla()
    yield from _examine_devices()
    host = psutil.virtual_memory()
    text = f"memory: {_gigabytes(host.available)} of {_gigabytes(host.total)} free"
    if host.available < _LITTLE_MEMORY:
        yield Finding(WARNING, f"{text}: end other programs, or give smaller batches")
    else:
        yield Finding(OK, text)
    there = _find_existing(place)
    text = f"disk: {_gigabytes(shutil.disk_usage(there).free)} free at {there}"
    if os.access(there, os.W_OK):
        yield Finding(OK, text)
    else:
        yield Finding(ERROR, f"{text}, which cannot be written: choose another --workdir")


def _examine_versions() -> Iterator[Finding]:
    found = versions.find_versions()
    commit = versions.find_commit()
    text = ", ".join(map(" ".join, found.items()))
    yield Finding(OK, f"versions: {text}{f'; commit {commit}' if commit else ''}")
    for name in _PLUGINS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if version != found["jaxlib"]:
                yield Finding(
                    ERROR,
                    f"{name} {version} does not fit jaxlib {found['jaxlib']}: pip install "
                    f"{name}=={found['jaxlib']}",
                )
    if "xla_cpu_experimental_ynn_fusion_type=" in os.environ.get("XLA_FLAGS", ""):
        fusion = os.environ["XLA_FLAGS"].partition("ynn_fusion_type=")[2].split(" ")[0]
        if fusion:
            yield Finding(
                WARNING,
                f"XLA_FLAGS turns on YNN fusion ({fusion}): training on CPUs takes twice as long; "
                "remove it",
            )


def _examine_devices() -> Iterator[Finding]:
    try:
        devices = jax.devices()
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        yield Finding(ERROR, f"devices: JAX finds none ({first}): another process may have them")
        return
    kind, platform = devices[0].device_kind, devices[0].platform
    limit = memory.read(devices[0]).get("bytes_limit", 0)
    each = f", {_gigabytes(limit)} of memory each" if limit else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(OK, f"devices: {len(devices)} x {kind} ({platform}){each}; {cores} CPU cores")
    if platform == "cpu" and Path("/proc/driver/nvidia/version").exists():
        yield Finding(
            WARNING,
            "devices: there is an NVIDIA GPU, but JAX computes on the CPU: pip install "
            f"'jax[cuda12]=={metadata.version('jax')}'",
        )


def examine_folder(path: Path, *, size: int, seconds: float) -> Iterator[Finding]:
    """Measures how fast images are read and decoded to `size` px, and how many are unreadable.

    Takes about `seconds`, plus the time to list the images.

    Raises:
      ValueError: there are no images at `path`.
      FileNotFoundError: `path` does not exist.
    """
    source = make_source("auto", path=str(path))
    count = len(source.entries)

    def load(row: int) -> np.ndarray:
        return decode_image(source.read(row), size)

    yield from examine_images(str(path), load, count, size=size, seconds=seconds)
    refused = len(source.refused)
    if refused:
        first = source.refused[0]
        text = f"{refused:,} files are no images, such as {first.key}: {first.reason}"
        yield Finding(WARNING, f"{path}: {text}; they are skipped")


def examine_images(
    name: str, load: Callable[[int], np.ndarray], count: int, *, size: int, seconds: float
) -> Iterator[Finding]:
    """Like `examine_folder`, for images 0 to `count` - 1, which `load` decodes to `size` px."""
    threads = min(os.cpu_count() or 1, 8)  # as data.Reading
    rows = itertools.cycle(np.random.default_rng(0).permutation(count)[:_SAMPLE].tolist())
    tried: set[int] = set()
    reasons: dict[int, str] = {}
    done, begun, lock = 0, time.monotonic(), threading.Lock()

    def work() -> None:
        nonlocal done
        while time.monotonic() - begun < seconds:
            with lock:
                row = next(rows)
            try:
                load(row)
            except ValueError as error:
                reasons[row] = str(error)
            with lock:
                done += 1
                tried.add(row)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    rate = done / max(time.monotonic() - begun, 1e-9)
    speed = f"{rate:,.0f} a second decoded to {size} px by {threads} threads"
    yield Finding(OK, f"{name}: {count:,} images, {speed}")
    if not reasons:
        yield Finding(OK, f"{name}: all {len(tried):,} images that were tried can be read")
        return
    row, reason = next(iter(reasons.items()))
    yield Finding(
        ERROR if len(reasons) == len(tried) else WARNING,
        f"{name}: {len(reasons):,} of {len(tried):,} images that were tried cannot be read, such "
        f"as number {row}: {reason}; `kt-jax images scan` lists all",
    )


def examine_config(config: Any, workdir: Path, *, seconds: float) -> Iterator[Finding]:
    """Checks whether a config can run in a workdir: its plans, images and disk space.

    Nothing is written in the workdir. Each set of images gets an equal share of `seconds`.
    """
    if workdir.is_dir() and (workdir / status.CONFIG).exists():
        found = status.read_status(workdir)
        problems = [f"{each.name}: {each.problem}" for each in found.stages if each.problem]
        yield from (Finding(ERROR, problem) for problem in problems)
        if found.holder.is_alive:
            yield Finding(ERROR, f"{found.holder.name} works in {workdir}: wait for it, or stop it")
    filled = files.to_plain(graph.fill(files.to_plain(config)))
    nodes = graph.make_graph(filled)
    wanted = [name for name in nodes if name in filled["stages"]]
    work = planning.Work(filled, nodes, workdir, wanted, (), False)
    with _scans_of(workdir) as cache:
        sources = Sources({**filled, "loader": {**filled["loader"], "cache": "none"}}, cache)
        names = sorted({each for name in wanted for each in nodes[name].images.values()})
        try:
            provenance.check_inputs(nodes, workdir, wanted, ())
            plans = planning.make_plans(work, (), sources)
        except (ValueError, OSError) as error:
            yield Finding(ERROR, str(error))
            return
        for name in names:
            images, share = sources[name], seconds / len(names)
            title = f"config.images.{name}"
            yield from examine_images(
                title, images.load, len(images), size=images.size, seconds=share
            )
            if images.excluded:
                yield Finding(
                    WARNING,
                    f"{title}: {len(images.excluded):,} files are excluded, such as "
                    f"{images.excluded[0].key}: {images.excluded[0].reason}",
                )
        cached = sum(len(sources[name]) * sources[name].size ** 2 * 3 for name in names)
    for name, plan in plans.items():
        yield from (Finding(WARNING, f"{name}: {words}") for words in plan.warnings)
    needs = {
        name: plan.disk() for name, plan in plans.items() if not marks.is_finished(workdir / name)
    }
    if filled["loader"]["cache"] == "disk" and not any((workdir / "images").glob("decoded-*.bin")):
        needs["decoded images"] = cached
    yield _compare_disk(needs, _find_existing(workdir))


def _compare_disk(needs: Mapping[str, int], place: Path) -> Finding:
    total, free = sum(needs.values()), shutil.disk_usage(place).free
    most = max(needs, key=needs.__getitem__, default="")
    parts = f", most of it for {most} ({_gigabytes(needs[most])})" if total else ""
    text = f"disk: the stages to do need {_gigabytes(total)}{parts}; {_gigabytes(free)} are free"
    if total > free:
        return Finding(ERROR, f"{text} at {place}: make room, or choose another --workdir")
    if total > _NEARLY_ALL * free:
        return Finding(WARNING, f"{text} at {place}: that is nearly all")
    return Finding(OK, text)


@contextlib.contextmanager
def _scans_of(workdir: Path) -> Iterator[Path]:
    """A temporary directory with links to the run's scans of its images."""
    with tempfile.TemporaryDirectory(prefix="kt_jax-doctor-") as place:
        for path in (workdir / "images").glob("*.parquet"):
            # A new scan replaces the link by a rename, and does not change the file of the run.
            (Path(place) / path.name).symlink_to(path.absolute())
        yield Path(place)


def _find_existing(place: Path) -> Path:
    place = place.absolute()
    return next(each for each in (place, *place.parents) if each.exists())


def _gigabytes(count: int | float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
