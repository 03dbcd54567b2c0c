"""The host's part of k-means: checks, seeding, iterations, stopping, labels."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from kt_jax.kmeans import checks, distinct, frames, reduction, row_checks, rows, seeding, weighting
from kt_jax.kmeans.descent import ASKED_TO_STOP, OUT_OF_ITERATIONS, descend, finish
from kt_jax.kmeans.device import Frame
from kt_jax.kmeans.iteration import Descent, Found, Progress, Task
from kt_jax.kmeans.result import KMeans
from kt_jax.kmeans.seeding import Seeding, SeedingProgress
from kt_jax.runs import progress

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0  # while seeds are drawn


def fit(
    features: Any,
    k: SupportsIndex,
    *,
    seed: int = 0,
    init: Any = "k-means||",
    max_iterations: int = 100,
    tolerance: int | float = 1e-4,
    centre: bool = False,
    l2: bool = False,
    spherical: bool = False,
    dims: int = 0,
    whiten: bool = False,
    sample_weight: Any = None,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    precision: str = "auto",
    restarts: int = 1,
    on_iteration: Callable[[Progress], bool | None] | None = None,
    on_seeding: Callable[[SeedingProgress], None] | None = None,
    resume: Mapping[str, np.ndarray] | None = None,
) -> KMeans:
    """Clusters the rows of `features` [n, d] around k centroids.

    The inertia never rises. For a fixed assignment the means minimise it. An empty cluster has no
    rows, so moving it (repair) costs nothing. Then each row can only choose a nearer centroid. If
    rounding makes an update raise the inertia, the update is undone.

    Distances have a resolution of about 1e-7 of the rows' squared distance from the middle of all
    rows. This limits how well a group of rows can be divided if the groups lie a thousand times
    farther from each other than the rows of one group.

    An empty cluster moves to the row that is farthest from its own centroid (the first such row).
    Several empty clusters move one after another, and each takes account of those before it, so no
    two move to equal rows.

    With `l2` or `spherical`, a row of length 0 has no direction. It gets the nearest cluster, but
    seeds, centroids and inertia ignore it.

    Sums of rows are pairs of float32. The error of a sum of m rows x is at most
    min(m, lane) 2^-24 sum |x|, with x relative to the middle of all rows and lanes of 64 k rows
    (256 to 4,096).

    Args:
      features: floats or integers [n, d]: a NumPy array, a memory map, a jax.Array (sharded or
        not), anything that NumPy or DLPack reads as an array (lists, pandas, pyarrow, torch on the
        CPU), or paths of .npy shards or of directories of shards. With several processes, each
        passes the same matrix and reads only its own rows. Memory maps and shards are streamed on a
        CPU if they have at least 128 MiB of float32 per device, and on an accelerator if they do
        not fit in its memory. The log says so. Other inputs are copied to float32 in memory.
        float64 and wide integers are rounded to float32 when they are read, before the mean is
        subtracted. A warning is logged if this may change the result.
      k: number of clusters, at most the number of distinct rows.
      seed: seed of the draws. It gives the same seeds on any number of devices.
      init: "k-means||", "k-means++", "random" (rows), or the initial centroids [k, d], in any
        form that features may have. With `centre`, `l2`, `spherical` or `dims`, give centroids
        of the transformed rows, such as `KMeans.centroids`.
      max_iterations: largest number of centroid updates; 0 keeps the seeds.
      tolerance: stops after an update that lowers the inertia by no more than this fraction, if it
        moved no empty cluster and left none.
      centre: subtracts the mean row.
      l2: divides every row by its length, after the mean is subtracted. Zero rows stay zero.
      spherical: as `l2`, and also keeps the centroids at length 1: k-means by cosine.
      dims: reduces rows to this number of principal components (`KMeans.components` [d, dims]),
        after the mean is subtracted (whatever `centre` is) and before `l2`. 0 keeps all dimensions.
        This reads the rows once more, for their covariance [d, d]: two float32 matrices on each
        device. The reduced rows stay in memory if they fit (2 GiB per process on a CPU).
      whiten: scales all components to variance 1, so that small ones count as much as large ones.
        Components that hardly vary become zero, with a warning. With `l2` and dims = 256 it is the
        recipe of DeepCluster (Caron et al. 2018, section 3.4).
      sample_weight: [n] weights from 0 to 1e9, in any form that NumPy reads. A row of weight w is w
        equal rows to the means, the seeding and the inertia. A row of weight 0 gets the nearest
        cluster, and moves nothing. Weights below 1e-30 count as 0. `sizes` stay numbers of rows.
        None: all have weight 1. Not with `dims`.
      mesh: a mesh with the single axis "data"; None uses all devices.
      chunk_rows: number of rows whose distances to all centroids are in a device's memory at the
        same time; None chooses for the device.
      precision: precision of the products that rank the centroids. "float32". "exact": bfloat16
        products, with the labels of float32: rows that rounding leaves undecided (error within
        2 |x - x'| |c| + 2 |x'| |c - c'| for rounded x', c', at most 2^-6 |x| |c|) are compared
        again in float32. "auto": "exact" if bfloat16 products are faster (accelerators, CPUs with
        instructions for them), else "float32". "bfloat16" and "tensorfloat32" (GPUs, error within
        2^-9 |x| |c|) skip the second comparison. Sums, sizes and the final inertia are always
        float32.
      restarts: number of runs from different seeds. The run with the lowest inertia is kept.
      on_iteration: called after each iteration. If it returns True, `fit` stops with the centroids
        of this iteration, and makes no more restarts. `KMeans.stopped` says so. A state that was
        saved in this call resumes after this iteration. All processes must return the same.
      on_seeding: called after each step of the seeding.
      resume: the result of `Progress.state()` or `SeedingProgress.state()` from a call with the
        same features and arguments; only `mesh` and `chunk_rows` may differ. The shape and 256 rows
        of the features are compared. With "auto", the precision is that of the state.

    Raises:
      ValueError: features are not [n, d], empty, not numbers, masked, not finite, too large or too
        close to each other for their squares in float32, or changed during the call; k is not in
        1..n or above the number of distinct rows with a direction; an option is unknown, negative
        or of a wrong type; the mesh has other axes; `resume` is from another call; dims is not
        below n or is above d, or `whiten` is set and the rows do not vary;
        sample_weight is not [n], negative, above 1e9, zero for all but fewer than k rows, or given
        with dims.
      FileNotFoundError: a shard is absent.

    >>> fit(np.array([[0, 0], [0, 2], [9, 9], [9, 7]]), k=2).inertia
    4.0
    """
    k = checks.whole_number("k", k)
    checks.check_options(
        seed=seed,
        precision=precision,
        init=init,
        max_iterations=max_iterations,
        tolerance=tolerance,
        restarts=restarts,
        mesh=mesh,
        chunk_rows=chunk_rows,
        centre=centre,
        l2=l2,
        spherical=spherical,
        dims=dims,
        whiten=whiten,
    )
    checks.check_functions(on_iteration=on_iteration, on_seeding=on_seeding)
    # NumPy's small integers overflow, Python's do not.
    seed, max_iterations, restarts = int(seed), int(max_iterations), int(restarts)
    dims = int(dims)
    tolerance = float(tolerance)
    if not isinstance(init, str):
        init = checks.checked_seeds(init, k, spherical=spherical)
    matrix = rows.Rows(
        features,
        k,
        mesh=mesh,
        chunk_rows=chunk_rows,
        precision=checks.saved_precision(precision, resume),
        l2=bool(l2 or spherical),
        spherical=bool(spherical),
    )
    if not 1 <= k <= matrix.n:
        raise ValueError(f"k = {k} clusters for n = {matrix.n} rows: choose k between 1 and n")
    if not isinstance(init, str):
        checks.check_dims(init, "init", dims or matrix.d)
    weights = None
    if sample_weight is not None:
        if dims:
            raise ValueError(
                f"sample_weight with dims = {dims}: principal components take no weights; reduce "
                "the rows first, such as by kt_jax.kmeans.whitening"
            )
        weights = weighting.checked(sample_weight, matrix.n)
        matrix.weigh(weights)
    _log.info("k-means: k = %d, %s", k, matrix.describe())
    sample = matrix.take_raw(frames.space(matrix.n))
    call = checks.describe_call(
        n=matrix.n,
        d=matrix.d,
        k=k,
        rows=sample,
        seed=seed,
        init=init,
        max_iterations=max_iterations,
        tolerance=tolerance,
        centre=bool(centre),
        l2=bool(l2),
        spherical=bool(spherical),
        precision=matrix.setting.precision,
        restarts=restarts,
        dims=dims,
        whiten=bool(whiten),
        sample_weight=weights,
    )
    if resume is not None:
        checks.check_resume(resume, call)
    kept = {"call": call}
    mean = frames.find_mean(matrix) if centre or dims else np.zeros(matrix.d, np.float32)
    components = None
    if dims:
        # Resume the saved components: on another mesh their last digits would differ.
        components = kept["components"] = (
            reduction.find_components(matrix, mean, dims, whiten=bool(whiten))
            if resume is None
            else resume["components"]
        )
    if weights is not None:  # rows without weight may lie anywhere
        some = np.flatnonzero(weights)
        sample = matrix.take_raw(some[frames.space(len(some))])
    matrix.look_from(Frame(mean, frames.find_middle(matrix, sample, mean, components), components))
    squares, counts = row_checks.check_rows(matrix)
    row_checks.check_directions(counts, k)
    if weights is not None:
        weighting.check_count(weights, counts, k)
    row_checks.check_spread(matrix, squares)
    row_checks.warn_of_rounding(sample, mean)
    task = Task(matrix, squares, counts, max_iterations, tolerance, kept, weights)

    best, first, draw, going = None, 0, None, None
    if resume is not None:
        best = Found.unpack(resume, "best_") if "best_curve" in resume else None
        first = int(resume["restart"])
        if "chosen" in resume:
            draw = Seeding.unpack(resume)
        else:
            going = Descent.unpack(matrix, resume)
    for restart in range(first, restarts):
        if going is None:
            draw = draw or Seeding(restart, np.random.default_rng([seed, restart, k]))
            seeds = _seeds(task, k, init, draw, best, on_seeding)
            going, draw = Descent.begin(matrix, restart, seeds), None
        if restart == first:
            _log.info("k-means: compiling an iteration")
        found = descend(task, going, best, on_iteration)
        best = found if best is None or found.curve[-1] < best.curve[-1] else best
        going = None
        if found.stopped == ASKED_TO_STOP:
            break
    assert best is not None  # restarts >= 1, and a resumed run counts as one
    assignment, inertia = finish(task, best)
    if empty := int((np.bincount(assignment[task.masses > 0], minlength=k) == 0).sum()):
        row_checks.check_distinct(matrix, k)
        if best.stopped not in (ASKED_TO_STOP, OUT_OF_ITERATIONS):
            row_checks.warn_of_empty(empty, k)
    return KMeans(
        centroids=best.centroids,
        mean=matrix.frame.mean,
        assignment=assignment,
        inertia=inertia,
        inertia_curve=tuple(best.curve),
        iterations=len(best.repaired),
        repaired=tuple(best.repaired),
        sizes=np.bincount(assignment, minlength=k).astype(np.int32),
        stopped=best.stopped,
        components=components,
        l2=matrix.setting.l2,
        spherical=matrix.setting.spherical,
    )


def _seeds(
    task: Task,
    k: int,
    init: Any,
    at: Seeding,
    best: Found | None,
    on_seeding: Callable[[SeedingProgress], None] | None,
) -> Float32[np.ndarray, "k d"]:
    """Draws the seeds of a restart, or converts the given centroids."""
    matrix = task.matrix
    if not isinstance(init, str):
        if matrix.setting.spherical:
            # In float64: squares of small numbers would vanish.
            wide = init.astype(np.float64)
            return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
        return init
    _log.info("k-means: drawing seeds (%s)", init)
    begun = said = time.monotonic()
    before = len(at.chosen)

    def state() -> dict[str, np.ndarray]:
        return {**at.pack(), **(best.pack("best_") if best else {}), **task.kept}

    def report() -> None:
        nonlocal said
        now, drawn = time.monotonic(), len(at.chosen)
        if now - said > _SECONDS_BETWEEN_LINES:
            said = now
            if drawn > before:
                left = progress.eta(now - begun, drawn - before, k - before)
                _log.info("k-means: %s of %s seeds drawn | %s", f"{drawn:,}", f"{k:,}", left)
            else:
                _log.info("k-means: %s candidates of seeds drawn", f"{len(at.candidates):,}")
        if on_seeding is not None:
            on_seeding(SeedingProgress(at.restart, drawn, k, state))

    seeds = seeding.draw(matrix, task.masses, k, init, at, report)
    if len(distinct.find(seeds)) < k:
        row_checks.check_distinct(matrix, k)
    return seeds
