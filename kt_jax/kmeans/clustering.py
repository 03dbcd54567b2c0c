"""k-means with a file of its state: log lines, and resuming.

The stage `clusters` and `python -m kt_jax.kmeans` share this module. `kmeans.fit` writes no files.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from safetensors import SafetensorError

from kt_jax import kmeans
from kt_jax.machine import partition
from kt_jax.runs import files, progress

_log = logging.getLogger(__name__)

# A state holds several arrays [k, d]. On a fast device, writing one takes longer than an iteration.
_SECONDS_BETWEEN_STATES = 10.0


def fit(
    name: str,
    features: Any,
    k: int,
    *,
    state: Path,
    max_iterations: int,
    restarts: int,
    check_stop: Callable[[], None] = lambda: None,
    progress_file: Path | None = None,
    **options: Any,
) -> kmeans.KMeans:
    """Runs `kmeans.fit`, logs a line for each iteration, and saves the state in a file.

    Args:
      name: prefix of the log lines.
      features: as in `kmeans.fit`.
      k: as in `kmeans.fit`.
      state: file of the state. If it exists, the same call wrote it, and this call resumes with
        the same result. The caller deletes it when the results are on disk.
      max_iterations: as in `kmeans.fit`.
      restarts: as in `kmeans.fit`.
      check_stop: called after every iteration and every step of the seeding. The state is written
        after the seeding, and every few seconds.
      progress_file: file for `runs.progress.write`.
      **options: other options of `kmeans.fit`.

    Raises:
      ValueError: as `kmeans.fit`, or the state is broken or from another call.
      FileNotFoundError: as `kmeans.fit`.
      OSError: the state cannot be written.
    """
    resume, begun = None, time.monotonic()
    if state.exists():
        try:
            resume = files.read_tensors(state)
        except SafetensorError as error:
            raise ValueError(
                f"{state}, the state of an interrupted run, is broken ({error}): delete it, and "
                "the same command starts again"
            ) from None
        if "chosen" in resume:
            done = f"{len(resume['chosen']):,} of {k:,} seeds"
        else:
            done = f"iteration {len(resume['curve']) - 1} of {max_iterations}"
        if restarts > 1:
            done += f" of restart {int(resume['restart']) + 1} of {restarts}"
        _log.info("%s: resuming after %s", name, done)
    times: list[float] = []  # seconds of this process's iterations, without seeding
    saved = begun

    def save(at: kmeans.Progress | kmeans.SeedingProgress) -> None:
        nonlocal saved
        files.write_tensors(state, at.state())
        saved = time.monotonic()

    def is_due() -> bool:
        return time.monotonic() - saved > _SECONDS_BETWEEN_STATES

    def tell(*work: Any) -> None:
        if progress_file is not None:
            progress.write(progress_file, *work)

    def report(at: kmeans.Progress) -> None:
        nonlocal begun
        # All processes must save together, and their clocks differ.
        if at.iteration == 0 or partition.decided_by_first(is_due):
            save(at)
        check_stop()
        now = time.monotonic()
        seconds, begun = now - begun, now
        restart = f"restart {at.restart + 1}/{restarts}, " if restarts > 1 else ""
        line = f"{name} {restart}{at.iteration}/{max_iterations} | "
        line += f"inertia {at.inertia:.6g} | "
        work = (f"{name} {restart}".rstrip(" ,"), at.iteration, max_iterations, "iterations")
        values = {"inertia": at.inertia}
        if at.iteration == 0:
            tell(*work, None, values)
            _log.info("%sseeded in %s", line, progress.format_seconds(seconds))
            return
        times.append(seconds)
        most = max_iterations * (restarts - at.restart) - at.iteration
        left = most * sum(times) / len(times)
        tell(*work, left, values)
        line += f"{at.moved:,} rows moved | "
        line += f"{at.repaired} repaired | " if at.repaired else ""
        eta = progress.format_seconds(left)
        _log.info("%s%.3g s/iteration | ETA at most %s", line, seconds, eta)

    def report_seeding(at: kmeans.SeedingProgress) -> None:
        if is_due():
            save(at)
            tell(name, at.drawn, at.k, "seeds", None)
        check_stop()

    tell(name, 0, k, "seeds", None)
    try:
        found = kmeans.fit(
            features,
            k,
            max_iterations=max_iterations,
            restarts=restarts,
            on_iteration=report,
            on_seeding=report_seeding,
            resume=resume,
            **options,
        )
    except ValueError as error:
        if str(error).startswith("resume "):
            raise ValueError(f"{error}: to do so, delete {state}") from None
        raise
    _log.info("%s: %d iterations, stopped because: %s", name, found.iterations, found.stopped)
    return found


def relabel(
    found: kmeans.KMeans,
    features: Any,
    *,
    sample_weight: Float32[np.ndarray, " n"] | None = None,
    chunk_rows: int | None,
    precision: str,
) -> kmeans.KMeans:
    """Returns the same clusters with the assignment, sizes and inertia of other rows.

    The inertia is that of nearest centroids, also if clusters are balanced; `sample_weight` weighs
    it. The other arguments are those of `KMeans.assign`.

    Raises:
      ValueError: as `KMeans.assign`.
    """
    how = {"chunk_rows": chunk_rows, "precision": precision}
    near = dataclasses.replace(found, weights=None).assign(features, **how)
    squared = np.where(near.directed, np.square(near.distance, dtype=np.float64), 0)
    if sample_weight is not None:
        squared *= sample_weight
    cluster = near.cluster if found.weights is None else found.assign(features, **how).cluster
    return dataclasses.replace(
        found,
        assignment=cluster,
        sizes=np.bincount(cluster, minlength=found.k).astype(np.int32),
        inertia=float(squared.sum()),
    )


def write_nearest(
    path: Path,
    found: kmeans.KMeans,
    features: Any,
    count: int,
    *,
    chunk_rows: int | None,
    precision: str,
) -> None:
    """Writes the `count` nearest centroids of rows, and their distances, as .safetensors.

    These are clusters [n, count] int32 and distances [n, count] float32, nearest first. The first
    cluster of a row is its cluster in `found.assignment`.

    Raises:
      ValueError: as `KMeans.assign`.
    """
    near = found.assign(features, nearest=count, chunk_rows=chunk_rows, precision=precision)
    # Of two centroids that are equally near but for rounding, `fit` may have chosen the other one.
    own = found.assignment[:, None]
    clusters = np.where(near.clusters == own, near.clusters[:, :1], near.clusters)
    clusters[:, 0] = found.assignment
    files.write_tensors(path, {"clusters": clusters, "distances": near.distances})


def largest_share(name: str, sizes: Int32[np.ndarray, " k"], warn_share: float) -> float:
    """Returns the share of the rows in the largest cluster, in 0..1.

    Logs a warning if it is above `warn_share` and above twice the share of equal clusters.
    """
    share = float(sizes.max() / sizes.sum())
    limit = max(warn_share, 2 / len(sizes))
    if share > limit:
        _log.warning(
            "%s: the largest cluster holds %.0f %% of the rows (warning above %.0f %%); consider "
            "l2 = True, another layer or another k.",
            name,
            100 * share,
            100 * limit,
        )
    return share
