"""k-means with a directory: lines of progress, a state to resume from, results on disk.

What the stage `clusters` and `python -m kt_jax.kmeans` share; k-means itself knows no files.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from safetensors import SafetensorError

from kt_jax import kmeans
from kt_jax.runs import files
from kt_jax.runs.progress import format_seconds

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_SEEDING_STATES = 5.0


def fit(
    name: str,
    features: Any,
    k: int,
    *,
    state: Path,
    max_iterations: int,
    restarts: int,
    check_stop: Callable[[], None] = lambda: None,
    **options: Any,
) -> kmeans.KMeans:
    """`kmeans.fit`, one line in the log for each iteration and its state in a file.

    If the file exists, it was written by the same call, which resumes from there with the same
    result. The caller deletes it when the results are on disk. `check_stop` is called after every
    iteration, once its state is written, and after every step of the seeding, whose state is
    written every few seconds.

    Raises:
      ValueError, FileNotFoundError: as `kmeans.fit`; a state that is broken.
      OSError: if the state cannot be written.
    """
    resume, begun = None, time.monotonic()
    if state.exists():
        try:
            resume = files.read_tensors(state)
        except SafetensorError as error:
            raise ValueError(
                f"{state}, the state of an interrupted run, is broken ({error}): delete it, and "
                "the same command begins anew"
            ) from None
        if "chosen" in resume:
            done = f"{len(resume['chosen']):,} of {k:,} seeds"
        else:
            done = f"iteration {len(resume['curve']) - 1} of {max_iterations}"
        if restarts > 1:
            done += f" of restart {int(resume['restart']) + 1} of {restarts}"
        _log.info("%s: resuming after %s", name, done)
    times: list[float] = []  # of this process's iterations, without seeding
    saved = begun

    def report(progress: kmeans.Progress) -> None:
        nonlocal begun
        files.write_tensors(state, progress.state())
        check_stop()
        now = time.monotonic()
        seconds, begun = now - begun, now
        restart = f"restart {progress.restart + 1}/{restarts}, " if restarts > 1 else ""
        line = f"{name} {restart}{progress.iteration}/{max_iterations} | "
        line += f"inertia {progress.inertia:.6g} | "
        if progress.iteration == 0:
            _log.info("%sseeded in %s", line, format_seconds(seconds))
            return
        times.append(seconds)
        left = max_iterations * (restarts - progress.restart) - progress.iteration
        line += f"{progress.moved:,} rows moved | "
        line += f"{progress.repaired} repaired | " if progress.repaired else ""
        eta = format_seconds(left * sum(times) / len(times))
        _log.info("%s%.3g s/iteration | ETA at most %s", line, seconds, eta)

    def report_seeding(progress: kmeans.SeedingProgress) -> None:
        nonlocal saved
        if time.monotonic() - saved > _SECONDS_BETWEEN_SEEDING_STATES:
            files.write_tensors(state, progress.state())
            saved = time.monotonic()
        check_stop()

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


def write(
    directory: Path,
    found: kmeans.KMeans,
    assignment: Int32[np.ndarray, " n"],
    description: dict[str, Any],
) -> None:
    """Writes centroids.safetensors (centroids, mean), assignment.npy and clusters.json.

    clusters.json holds the description and how the fit went.
    """
    tensors: dict[str, Float32[np.ndarray, ...]] = {
        "centroids": found.centroids,
        "mean": found.mean,
    }
    fitted = {
        "k": len(found.centroids),
        "inertia": found.inertia,
        "inertia_curve": list(found.inertia_curve),
        "iterations": found.iterations,
        "repaired": list(found.repaired),
        "stopped": found.stopped,
        "sizes": found.sizes.tolist(),
    }
    files.write_tensors(directory / "centroids.safetensors", tensors)
    files.write_array(directory / "assignment.npy", assignment)
    files.write_json(directory / "clusters.json", fitted | description)


def largest_share(name: str, sizes: Int32[np.ndarray, " k"], warn_share: float) -> float:
    """The share of the rows in the largest cluster.

    Logs a warning if it is above `warn_share`, and twice what it would be of equal clusters.
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
