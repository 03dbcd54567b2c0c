"""What k-means does on the host: checks, seeds, decides when to stop, labels."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from kt_jax.kmeans import checks, frames, reduction, rows, seeding
from kt_jax.kmeans.descent import Descent, Found, Progress, Task, descend, finish
from kt_jax.kmeans.device import Frame
from kt_jax.kmeans.seeding import Seeding, SeedingProgress
from kt_jax.runs import progress

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0  # while seeds are drawn


@dataclasses.dataclass(frozen=True, eq=False)
class KMeans:
    """What `fit` found; `assignment`, `sizes` and `inertia` belong to exactly these centroids."""

    centroids: Float32[np.ndarray, "k c"]
    mean: Float32[np.ndarray, " d"]  # subtracted from every row; zeros without `centre` and `dims`
    assignment: Int32[np.ndarray, " n"]
    inertia: float
    inertia_curve: tuple[float, ...]  # [0] belongs to the seeds, [i] to the i-th update
    iterations: int  # updates of the centroids
    repaired: tuple[int, ...]  # empty clusters that each update moved
    sizes: Int32[np.ndarray, " k"]
    stopped: str  # why: no row moved, too small a gain, no gain in float32, or max_iterations
    # What rows less the mean are multiplied by, before `l2`; None without `dims`.
    components: Float32[np.ndarray, "d c"] | None = None


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
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    precision: str = "auto",
    restarts: int = 1,
    on_iteration: Callable[[Progress], None] | None = None,
    on_seeding: Callable[[SeedingProgress], None] | None = None,
    resume: Mapping[str, np.ndarray] | None = None,
) -> KMeans:
    """Clusters the rows of `features` [n, d] around k centroids.

    The inertia never rises: for a fixed assignment the means minimise it, an empty cluster has no
    rows and can be moved for free (repair), and then each row may only choose a nearer centroid.
    What rounding adds to that is refused: an update that raises the inertia is undone.

    Distances are told apart to about 1e-7 of the rows' squared distance from the middle of all:
    where places lie a thousand times farther from one another than the rows of one, that limits
    how well these can be divided further.

    An empty cluster moves to the row that is farthest from its own centroid (the lowest such row).
    Several move one after another, each counting those before it, so no two land on equal rows.

    A row of length 0 has no direction, where rows are divided by their lengths (`l2`, `spherical`).
    It gets the nearest cluster, and counts for neither seeds, centroids nor inertia.

    The sums of the clusters' rows are kept as pairs of float32: a sum of m rows x is off by at most
    min(m, lane) 2^-24 sum |x|, with x less the middle of all and lanes of 64 k rows (256 to 4,096).

    Args:
      features: floats or integers: a NumPy array, a memory map, a jax.Array (sharded or not), what
        NumPy or DLPack reads as an array (lists, pandas, pyarrow, torch on the CPU), or the paths
        of .npy shards or of directories of them; among several processes each passes the same
        matrix and reads only its own rows. Memory maps and shards are streamed on a CPU
        from 128 MiB of float32 for each device on, and on an accelerator if they do not fit its
        memory; the log says so. What is not streamed is kept as float32 beside what was passed.
        float64 and wide integers are rounded to float32 as they are read, before anything is
        subtracted: a warning is logged where that may tell.
      k: number of clusters, at most the number of distinct rows.
      seed: of the draws; the same seed gives the same seeds on any number of devices.
      init: "k-means||", "k-means++", "random" (rows), or the centroids [k, d] to start from, of any
        kind that features are: with `centre`, `l2`, `spherical` or `dims`, near the rows as those
        leave them (`KMeans.centroids` are).
      max_iterations: limit on the updates of the centroids; 0 keeps the seeds.
      tolerance: stops when an update lowers the inertia by no more than this fraction of it,
        moved no empty cluster and left none.
      centre: subtracts the mean row.
      l2: divides every row by its length (after the mean was subtracted); zeros stay zeros.
      spherical: as `l2`, and the centroids are kept at length 1: k-means by cosine.
      dims: reduces rows to so many principal components, after the mean was subtracted (whatever
        `centre` says) and before `l2`: `KMeans.components` [d, dims]. 0 keeps all dimensions. The
        rows are read once more, for their covariance [d, d], of which each device has two matrices
        of float32; the reduced rows are kept where they fit (2 GiB a process on a CPU).
      whiten: gives all components the variance 1, so that a small one counts as much as a large
        one. With `l2` and dims = 256 it is the recipe of DeepCluster (Caron et al. 2018, section
        3.4).
      mesh: has the single axis "data"; all devices when None.
      chunk_rows: rows whose distances to all centroids exist at one time on a device; chosen for
        the device when None.
      precision: of the products that rank the centroids. "float32"; "exact": products of bfloat16,
        and rows that their rounding (within 2 |x - x'| |c| + 2 |x'| |c - c'| for rounded x', c',
        at most 2^-6 |x| |c|) leaves open are compared again in float32: the labels of float32;
        "auto": "exact" where bfloat16 products are faster (accelerators, CPUs with instructions for
        them), else "float32"; "bfloat16" and "tensorfloat32" (GPUs; within 2^-9 |x| |c|) without
        that second look. Sums, sizes and the inertia of the result are float32's in all of them.
      restarts: runs from that many seeds, of which the one of the lowest inertia is kept.
      on_iteration: called after each iteration.
      on_seeding: called after each step of the seeding.
      resume: what `Progress.state()` or `SeedingProgress.state()` returned in a call with the same
        features and arguments, but for `mesh` and `chunk_rows`. Of the features the shape and 256
        rows are compared.

    Raises:
      ValueError: features not [n, d], empty, not numbers, masked, not finite, or too large or too
        close to one another for their squares in float32, or changed while they were read; k not
        in 1..n or above the number of distinct rows that have a direction; an unknown or negative
        option, or one of a wrong type; a mesh with other axes; a state to resume from another call;
        dims not below n or above d, or more to whiten than the directions in which rows vary.
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
    # NumPy's small integers overflow where Python's do not.
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
        precision=precision,
        l2=bool(l2 or spherical),
        spherical=bool(spherical),
    )
    if not 1 <= k <= matrix.n:
        raise ValueError(f"k = {k} clusters for n = {matrix.n} rows: choose k between 1 and n")
    if not isinstance(init, str):
        checks.check_dims(init, "init", dims or matrix.d)
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
        # States from before there were these stay those of the same call.
        **({"dims": dims, "whiten": bool(whiten)} if dims else {}),
    )
    if resume is not None:
        checks.check_resume(resume, call)
    kept = {"call": call}
    mean = frames.find_mean(matrix) if centre or dims else np.zeros(matrix.d, np.float32)
    components = None
    if dims:
        # On another mesh the last digits would differ, and so would the rows.
        components = kept["components"] = (
            reduction.find_components(matrix, mean, dims, whiten=bool(whiten))
            if resume is None
            else resume["components"]
        )
    matrix.look_from(Frame(mean, frames.find_middle(matrix, sample, mean, components), components))
    squares, counts = checks.check_rows(matrix)
    checks.check_directions(counts, k)
    checks.check_spread(matrix, squares)
    checks.warn_of_rounding(sample, mean)
    task = Task(matrix, squares, counts, max_iterations, tolerance, kept)

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
    assert best is not None  # restarts >= 1, and a resumed one is among them
    assignment, inertia = finish(task, best)
    if not np.bincount(assignment[counts], minlength=k).all():
        checks.check_distinct(matrix, k)
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
    )


def _seeds(
    task: Task,
    k: int,
    init: Any,
    at: Seeding,
    best: Found | None,
    on_seeding: Callable[[SeedingProgress], None] | None,
) -> Float32[np.ndarray, "k d"]:
    """Draws the seeds of a restart, or makes them of the centroids that were given."""
    matrix = task.matrix
    if not isinstance(init, str):
        if matrix.setting.spherical:
            return init / np.linalg.norm(init, axis=1, keepdims=True)
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

    seeds = seeding.draw(matrix, task.counts, k, init, at, report)
    if len(np.unique(seeds, axis=0)) < k:
        checks.check_distinct(matrix, k)
    return seeds
