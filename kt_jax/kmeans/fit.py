"""What k-means does on the host: checks, seeds, decides when to stop, labels."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32, Int64, Shaped

from kt_jax.kmeans import checks, device, rows, seeding, sources
from kt_jax.kmeans.descent import Descent, Found, Progress, Task, descend, finish
from kt_jax.kmeans.device import Frame

_log = logging.getLogger(__name__)

_ORIGIN_ROWS = 256  # whose mean the origin is


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """The nearest and second nearest centroid of every row; distances are Euclidean."""

    cluster: Int32[np.ndarray, " n"]
    distance: Float32[np.ndarray, " n"]
    second_cluster: Int32[np.ndarray, " n"]  # -1 when k == 1
    margin: Float32[np.ndarray, " n"]  # second distance - distance; inf when k == 1


@dataclasses.dataclass(frozen=True, eq=False)
class KMeans:
    """What `fit` found; `assignment`, `sizes` and `inertia` belong to exactly these centroids."""

    centroids: Float32[np.ndarray, "k d"]
    mean: Float32[np.ndarray, " d"]  # subtracted from every row; zeros without `centre`
    assignment: Int32[np.ndarray, " n"]
    inertia: float
    inertia_curve: tuple[float, ...]  # [0] belongs to the seeds, [i] to the i-th update
    iterations: int  # updates of the centroids
    repaired: tuple[int, ...]  # empty clusters that each update moved
    sizes: Int32[np.ndarray, " k"]
    stopped: str  # why: no row moved, too small a gain, no gain in float32, or max_iterations


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
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    precision: str = "auto",
    restarts: int = 1,
    on_iteration: Callable[[Progress], None] | None = None,
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

    Args:
      features: floats or integers: a NumPy array, a memory map, a jax.Array (sharded or not), or
        the paths of .npy shards or of directories of them; among several processes each passes
        the same matrix and reads only its own rows. Memory maps and shards are streamed on a CPU
        from 128 MiB of float32 for each device on, and on an accelerator if they do not fit its
        memory; the log says so. What is not streamed is kept as float32 beside what was passed.
        float64 and wide integers are rounded to float32 as they are read, before anything is
        subtracted: a warning is logged where that may tell.
      k: number of clusters, at most the number of distinct rows.
      seed: of the draws; the same seed gives the same seeds on any number of devices.
      init: "k-means||", "k-means++", "random" (rows), or the centroids [k, d] to start from: with
        `centre`, `l2` or `spherical`, near the rows as those leave them (`KMeans.centroids` are).
      max_iterations: limit on the updates of the centroids; 0 keeps the seeds.
      tolerance: stops when an update lowers the inertia by no more than this fraction of it,
        moved no empty cluster and left none.
      centre: subtracts the mean row.
      l2: divides every row by its length (after the mean was subtracted); zeros stay zeros.
      spherical: as `l2`, and the centroids are kept at length 1: k-means by cosine.
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
      resume: what `Progress.state()` returned in a call with the same features and arguments, but
        for `mesh` and `chunk_rows`. Of the features the shape and 256 rows are compared.

    Raises:
      ValueError: features not [n, d], empty, not numbers, masked, not finite, or too large or too
        close to one another for their squares in float32; k not in 1..n or above the number of
        distinct rows; an unknown or negative option; a mesh with other axes; a state to resume
        from another call.
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
    )
    # NumPy's small integers overflow where Python's do not.
    seed, max_iterations, restarts = int(seed), int(max_iterations), int(restarts)
    matrix = rows.Rows(
        features,
        k,
        mesh=_make_mesh() if mesh is None else mesh,
        chunk_rows=chunk_rows,
        l2=l2 or spherical,
        precision=_chosen(precision, mesh),
        spherical=spherical,
    )
    if not 1 <= k <= matrix.n:
        raise ValueError(f"k = {k} clusters for n = {matrix.n} rows: choose k between 1 and n")
    if not isinstance(init, str):
        init = checks.checked_seeds(init, k, matrix.d)
    _log.info("k-means: k = %d, %s", k, matrix.describe())
    mean = _mean(matrix) if centre else np.zeros(matrix.d, np.float32)
    sample = matrix.take_raw(_spaced(matrix.n))
    matrix.look_from(Frame(mean, _middle(matrix, sample, mean)))
    squares = checks.check_rows(matrix)
    checks.check_spread(matrix, squares)
    checks.warn_of_rounding(sample)
    call = checks.describe_call(
        n=matrix.n,
        d=matrix.d,
        k=k,
        rows=sample,
        seed=seed,
        init=init,
        max_iterations=max_iterations,
        tolerance=tolerance,
        centre=centre,
        l2=l2,
        spherical=spherical,
        precision=matrix.setting.precision,
        restarts=restarts,
    )
    task = Task(matrix, float(squares.sum(dtype=np.float64)), max_iterations, tolerance, call)

    if resume is not None:
        checks.check_resume(resume, call)
    going = None if resume is None else Descent.unpack(matrix, resume)
    best = None if resume is None or "best_curve" not in resume else Found.unpack(resume, "best_")
    for restart in range(going.restart if going else 0, restarts):
        if going is None:
            going = Descent.begin(matrix, restart, _seeds(task, k, init, seed, restart))
        found = descend(task, going, best, on_iteration)
        best = found if best is None or found.curve[-1] < best.curve[-1] else best
        going = None
    assert best is not None  # restarts >= 1, and a resumed one is among them
    assignment, inertia = finish(task, best)
    sizes = np.bincount(assignment, minlength=k).astype(np.int32)
    if not sizes.all():
        checks.check_distinct(matrix, k)
    return KMeans(
        centroids=best.centroids,
        mean=matrix.frame.mean,
        assignment=assignment,
        inertia=inertia,
        inertia_curve=tuple(best.curve),
        iterations=len(best.repaired),
        repaired=tuple(best.repaired),
        sizes=sizes,
        stopped=best.stopped,
    )


def assign(
    features: Any,
    centroids: Any,
    *,
    mean: Any = None,
    l2: bool = False,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    precision: str = "auto",
) -> Assignment:
    """Gives every row of `features` [n, d] its nearest centroid [k, d]; ties go to the lowest.

    `mean` [d] is subtracted from the rows and `l2` divides them by their lengths: pass what the
    centroids were fitted with (`KMeans.mean`). The distances are float32 in any precision.

    Raises:
      ValueError: as in `fit`; features, centroids and mean of different d.

    >>> assign(np.array([[1.0], [8.0]]), np.array([[0.0], [10.0]])).margin.tolist()
    [8.0, 6.0]
    """
    checks.check_options(precision=precision, mesh=mesh, chunk_rows=chunk_rows)
    sources.check_matrix(centroids, "centroids")
    matrix = rows.Rows(
        features,
        len(centroids),
        mesh=_make_mesh() if mesh is None else mesh,
        chunk_rows=chunk_rows,
        l2=l2,
        precision=_chosen(precision, mesh),
    )
    centroids = checks.checked_centroids(centroids, matrix.d, "centroids")
    mean = np.zeros(matrix.d, np.float32) if mean is None else np.asarray(mean, np.float32)
    if mean.shape != (matrix.d,):
        raise ValueError(
            f"mean has shape {mean.shape}, features have d = {matrix.d}: mean must be "
            f"[d] = ({matrix.d},)"
        )
    middle = centroids.mean(0, dtype=np.float64).astype(np.float32)
    checks.check_centroids_spread(centroids, middle)
    matrix.look_from(Frame(mean, middle))
    checks.check_rows(matrix)
    return _label(matrix, centroids)


def _seeds(task: Task, k: int, init: Any, seed: int, restart: int) -> Float32[np.ndarray, "k d"]:
    matrix = task.matrix
    if isinstance(init, str):
        _log.info("k-means: drawing seeds (%s)", init)
        seeds = seeding.draw(matrix, k, init, seed, restart)
        if len(np.unique(seeds, axis=0)) < k:
            checks.check_distinct(matrix, k)
        return seeds
    if matrix.setting.spherical:
        length = np.linalg.norm(init, axis=1, keepdims=True)
        return init / np.where(length > 0, length, 1)
    return init


def _label(matrix: rows.Rows, centroids: Float32[np.ndarray, "k d"]) -> Assignment:
    k, setting = len(centroids), matrix.setting
    if setting.precision == "exact":  # the same labels, and a second nearest to measure
        setting = dataclasses.replace(setting, precision="float32")
    values = centroids - matrix.frame.origin[None]
    to = device.points(values, np.arange(k, dtype=np.int32), size=k)
    parts = matrix.for_each(lambda _, block: device.label(setting, block, to))
    cluster, distance, second, margin = (matrix.join(part) for part in zip(*parts, strict=True))
    if k == 1:
        second, margin = np.full_like(second, -1), np.full_like(margin, np.inf)
    return Assignment(cluster, distance, second, margin)


def _chosen(precision: str, mesh: Mesh | None) -> str:
    if precision != "auto":
        return precision
    platform = checks.platform_of(mesh)
    # Several hosts must choose alike, and their CPUs may differ.
    fast = platform != "cpu" or (jax.process_count() == 1 and device.has_fast_bfloat16())
    return "exact" if fast else "float32"


def _make_mesh() -> Mesh:
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)


def _mean(matrix: rows.Rows) -> Float32[np.ndarray, " d"]:
    """Returns the mean row; zeros where it is not finite, for `check_rows` to find out why."""
    parts = matrix.for_each_raw(lambda _, block: device.chunk_sums(matrix.setting, block))
    mean = sum(matrix.fetch(part).sum(0, dtype=np.float64) for part in parts) / matrix.n
    return np.where(np.isfinite(mean).all(), mean, 0).astype(np.float32)


def _spaced(n: int) -> Int64[np.ndarray, " m"]:
    """Returns the numbers of evenly spaced rows."""
    return np.unique(np.linspace(0, n - 1, min(n, _ORIGIN_ROWS)).astype(np.int64))


def _middle(
    matrix: rows.Rows, sample: Shaped[np.ndarray, "m d"], mean: Float32[np.ndarray, " d"]
) -> Float32[np.ndarray, " d"]:
    """Returns the mean of some rows, less those that `check_rows` will refuse."""
    sample = device.prepare_few(matrix.setting, sample, Frame(mean, np.zeros_like(mean)))
    sample = sample[np.abs(sample).max(1) <= device.value_limit(matrix.d)]
    return sample.mean(0, dtype=np.float64).astype(np.float32) if len(sample) else mean
