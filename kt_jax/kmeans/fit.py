"""What k-means does on the host: checks, places the rows, decides when to stop."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32, Shaped

from kt_jax.kmeans import device

# NumPy or JAX; loosely typed, so that anything else meets our ValueError and not a type error.
AnyArray = Any
_HOST_ROWS = 16384  # rows checked at a time: bounds the float32 copy of a memory map


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The nearest and second nearest centroid of every row; distances are Euclidean."""

    cluster: Int32[np.ndarray, " n"]
    distance: Float32[np.ndarray, " n"]
    second_cluster: Int32[np.ndarray, " n"]  # -1 when k == 1
    margin: Float32[np.ndarray, " n"]  # second distance - distance; inf when k == 1


@dataclasses.dataclass(frozen=True)
class KMeans:
    """What `fit` found; `assignment`, `sizes` and `inertia` belong to exactly these centroids."""

    centroids: Float32[np.ndarray, "k d"]
    assignment: Int32[np.ndarray, " n"]
    inertia: float
    inertia_curve: tuple[float, ...]  # [0] belongs to the seeds, [i] to the i-th update
    iterations: int  # updates of the centroids
    repaired: tuple[int, ...]  # empty clusters that each update moved
    sizes: Int32[np.ndarray, " k"]
    stopped: str  # why: no row moved, too small a gain, no gain in float32, or max_iterations


def fit(
    features: AnyArray,
    k: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    mesh: Mesh | None = None,
    chunk_rows: int = 4096,
    on_iteration: Callable[[int, float, int, int], None] | None = None,
) -> KMeans:
    """Clusters the rows of `features` [n, d] around k centroids, in float32.

    The inertia never rises: for a fixed assignment the means minimise it, an empty cluster has no
    rows and can be moved for free (repair), and then each row may only choose a nearer centroid.
    What float32 rounding adds to that is refused: an update that raises the inertia is undone.

    An empty cluster moves to the row that is farthest from its own centroid (the lowest such row).
    Several move one after another, each counting those before it, so no two land on equal rows.

    Args:
      features: floats or integers, NumPy (a memory map too) or a jax.Array; among several
        processes each passes the same matrix and places only its own rows.
      k: number of clusters, at most the number of distinct rows.
      seed: of the k-means++ draws; the same seed gives the same seeds on any number of devices.
      max_iterations: limit on the updates of the centroids; 0 keeps the seeds.
      tolerance: stops when an update lowers the inertia by no more than this fraction of it,
        moved no empty cluster and left none.
      mesh: has the single axis "data"; all devices when None.
      chunk_rows: rows whose distances to all centroids exist at one time on a device.
      on_iteration: called with (iteration, inertia, rows moved, clusters repaired); iteration 0
        is the seeding, whose every row counts as moved.

    Raises:
      ValueError: features not [n, d], empty, not numbers or not finite; k not in 1..n or above
        the number of distinct rows; a negative limit; a mesh with other axes.

    >>> fit(np.array([[0, 0], [0, 2], [9, 9], [9, 7]]), k=2).inertia
    4.0
    """
    features, mesh = _checked(features, "features"), _checked_mesh(mesh, chunk_rows)
    n = features.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} clusters for n = {n} rows: choose k between 1 and n")
    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance} is negative: give 0 or a fraction such as 1e-4")
    if max_iterations < 0:
        raise ValueError(f"max_iterations = {max_iterations} is negative: give 0 or more")
    _check_finite(features, "features")

    rows, chunk = _place(features, mesh, chunk_rows)
    key = jax.random.key(seed, impl="threefry2x32")  # its draws do not depend on the sharding
    unset = np.zeros((k, features.shape[1]), np.float32)
    centroids, distinct = device.seed(rows, unset, key, n, chunk=chunk, mesh=mesh)
    if int(distinct) < k:
        raise ValueError(
            f"k = {k} is larger than the number of distinct rows: of the n = {n} rows of features "
            f"only {int(distinct)} differ (in float32); choose k <= {int(distinct)}"
        )

    curve, repaired, repairs, candidate = [], [], 0, centroids
    assignment = jnp.full(len(rows), -1, jnp.int32, device=NamedSharding(mesh, P("data")))
    for iteration in range(max_iterations + 1):
        assignment, chunk_inertia, updated, counts, moved = device.step(
            rows, assignment, candidate, n, chunk=chunk, mesh=mesh
        )
        inertia = float(_fetch(chunk_inertia, mesh).sum(dtype=np.float64))
        if curve and inertia > curve[-1]:  # rounding: keep the centroids before this update
            stopped = "inertia fell no further in float32"
            break
        centroids = candidate
        curve.append(inertia)
        repaired += [repairs] if iteration else []
        if on_iteration is not None:
            on_iteration(iteration, inertia, int(moved), repairs)

        empty = np.flatnonzero(np.asarray(counts) == 0)
        if int(moved) == 0:
            stopped = "no row moved"
            break
        settled = not empty.size and not repairs  # a moved cluster has yet to gather its rows
        if iteration and settled and curve[-2] - inertia <= tolerance * curve[-2]:
            stopped = "inertia fell by less than tolerance"
            break
        candidate, repairs = updated, 0
        if empty.size and iteration < max_iterations:
            order = np.resize(empty, k).astype(np.int32)  # of fixed shape: compiled once
            candidate, repairs = device.repair(
                rows, assignment, updated, order, len(empty), n, chunk=chunk, mesh=mesh
            )
            repairs = int(repairs)
    else:
        stopped = "max_iterations"

    centroids = np.asarray(centroids)
    final = _labelled(rows, centroids, n, chunk, mesh)
    return KMeans(
        centroids=centroids,
        assignment=final.cluster,
        inertia=float(np.square(final.distance, dtype=np.float64).sum()),
        inertia_curve=tuple(curve),
        iterations=len(repaired),
        repaired=tuple(repaired),
        sizes=np.bincount(final.cluster, minlength=k).astype(np.int32),
        stopped=stopped,
    )


def assign(
    features: AnyArray, centroids: AnyArray, *, mesh: Mesh | None = None, chunk_rows: int = 4096
) -> Assignment:
    """Gives every row of `features` [n, d] its nearest centroid [k, d]; ties go to the lowest.

    Raises:
      ValueError: as in `fit`; features and centroids of different d.

    >>> assign(np.array([[1.0], [8.0]]), np.array([[0.0], [10.0]])).margin.tolist()
    [8.0, 6.0]
    """
    features, mesh = _checked(features, "features"), _checked_mesh(mesh, chunk_rows)
    centroids = _checked(centroids, "centroids")
    if centroids.shape[1] != features.shape[1]:
        raise ValueError(
            f"centroids have d = {centroids.shape[1]}, features have d = {features.shape[1]}: "
            "use the centroids of the same layer and preprocessing"
        )
    _check_finite(features, "features")
    _check_finite(centroids, "centroids")
    rows, chunk = _place(features, mesh, chunk_rows)
    return _labelled(rows, centroids.astype(np.float32), features.shape[0], chunk, mesh)


def normalise(
    features: AnyArray, *, mean: AnyArray | None = None, l2: bool = False
) -> Float32[np.ndarray, "n d"]:
    """Returns float32 `features` [n, d] less `mean` [d], each row then divided by its L2 norm.

    A row of zeros stays zero. Use the same call on what `fit` and what `assign` see.

    Raises:
      ValueError: features not [n, d]; mean not [d].

    >>> normalise(np.array([[4, 5], [1, 1]]), mean=np.array([1, 1]), l2=True)[0].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    result = _checked(features, "features").astype(np.float32)
    if mean is not None:
        if mean.shape != result.shape[1:]:
            raise ValueError(
                f"mean has shape {mean.shape}, features have shape {result.shape}: "
                f"mean must be [d] = ({result.shape[1]},)"
            )
        result -= np.asarray(mean).astype(np.float32)[None]
    if l2:  # float64, so that small rows do not underflow to a zero norm
        norm = np.sqrt(np.einsum("nd,nd->n", result, result, dtype=np.float64))
        result /= np.where(norm > 0, norm, 1).astype(np.float32)[:, None]
    return result


# Checks and placement, on the host.


def _checked(array: AnyArray, name: str) -> Shaped[np.ndarray, "rows d"]:
    if not isinstance(array, np.ndarray | jax.Array):
        raise ValueError(f"{name} must be a NumPy or JAX array; got a {type(array).__name__}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be [rows, d] with rows, d >= 1; got shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must hold floats or integers; got {array.dtype}")
    return np.asarray(array)


def _check_finite(array: Shaped[np.ndarray, "rows d"], name: str) -> None:
    # A square sum of a chunk must stay finite in float32. NaN fails the comparison too.
    limit = 1e15 / math.sqrt(array.shape[1])
    for start in range(0, len(array), _HOST_ROWS):
        with np.errstate(over="ignore"):
            block = array[start : start + _HOST_ROWS].astype(np.float32)
        bad = ~(np.abs(block) <= limit)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name} row {start + row} holds {array[start + row, column]} at column {column}: "
                f"values must be finite and within {limit:.1e}; drop the row or repair its source"
            )


def _checked_mesh(mesh: Mesh | None, chunk_rows: int) -> Mesh:
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows = {chunk_rows}: give 1 or more, such as 4096")
    if mesh is None:
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)
    if mesh.axis_names != ("data",):
        raise ValueError(f'mesh has the axes {mesh.axis_names}: k-means needs the one axis "data"')
    return mesh


def _place(
    features: Shaped[np.ndarray, "n d"], mesh: Mesh, chunk_rows: int
) -> tuple[Float32[Array, "rows d"], int]:
    """Returns the float32 rows over the mesh, padded to whole chunks a device, and the chunk."""
    n, d = features.shape
    chunk = min(chunk_rows, n)  # not of the device count: the same chunks on any mesh
    rows = -(-n // (chunk * mesh.size)) * chunk * mesh.size

    def shard(index):
        start, stop, _ = index[0].indices(rows)
        block = np.zeros((stop - start, d), np.float32)
        real = features[start : min(stop, n)]
        block[: len(real)] = real
        return block

    sharding = NamedSharding(mesh, P("data"))
    return jax.make_array_from_callback((rows, d), sharding, shard), chunk


def _fetch(array: Shaped[Array, "..."], mesh: Mesh) -> Shaped[np.ndarray, "..."]:
    if not array.is_fully_addressable:  # other processes hold a part of it
        array = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(array)
    return np.asarray(array)


def _labelled(rows, centroids, n: int, chunk: int, mesh: Mesh) -> Assignment:
    return Assignment(
        *(_fetch(x, mesh)[:n] for x in device.label(rows, centroids, chunk=chunk, mesh=mesh))
    )
