"""Finds the nearest centroid of each row, and the margin to the second nearest."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int32

from kt_jax.kmeans import checks, comparing, device, neighbours, row_checks, rows
from kt_jax.kmeans.device import Frame


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """The nearest and second nearest centroid of every row. Distances are Euclidean."""

    cluster: Int32[np.ndarray, " n"]
    distance: Float32[np.ndarray, " n"]
    second_cluster: Int32[np.ndarray, " n"]  # -1 when k == 1
    margin: Float32[np.ndarray, " n"]  # second distance - distance; inf when k == 1
    directed: Bool[np.ndarray, " n"]  # False for a row of length 0 with `l2`: no cluster is nearer
    clusters: Int32[np.ndarray, "n m"]  # the `nearest` clusters, nearest first
    distances: Float32[np.ndarray, "n m"]  # to `clusters`


def assign(
    features: Any,
    centroids: Any,
    *,
    mean: Any = None,
    components: Any = None,
    weights: Any = None,
    l2: bool = False,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    precision: str = "auto",
    nearest: int = 2,
) -> Assignment:
    """Finds the nearest centroid [k, d] of every row of `features` [n, d].

    Ties go to the lowest cluster number. Distances are float32 in any precision. Calls with
    different numbers of rows share a few compiled programs.

    Args:
      features: rows [n, d], in any form that `fit` takes.
      centroids: [k, d], or [k, dims] with `components`.
      mean: [d], subtracted from the rows: pass `KMeans.mean`.
      components: [d, dims], multiplied with the centred rows: pass `KMeans.components`.
      weights: [k], from `balance`. A row then belongs to the centroid with the smallest
        distance^2 - weight. The second nearest is chosen in the same way, so the margin is negative
        if the second centroid is nearer.
      l2: divides rows by their lengths: pass the value that `fit` had.
      mesh: as in `fit`.
      chunk_rows: as in `fit`.
      precision: as in `fit`.
      nearest: number of centroids in `clusters` and `distances`, at most k. More than two need a
        second pass.

    Raises:
      ValueError: as in `fit`; features, centroids, mean and components differ in d; weights have
        another k; nearest is below 1, or above 2 with weights.

    >>> assign([[1.0], [8.0]], [[0.0], [10.0]]).margin.tolist()
    [8.0, 6.0]
    """
    checks.check_options(precision=precision, mesh=mesh, chunk_rows=chunk_rows, l2=l2)
    nearest = checks.whole_number("nearest", nearest)
    if nearest < 1:
        raise ValueError(f"nearest = {nearest}: give 1 or more")
    if nearest > 2 and weights is not None:
        raise ValueError(f"nearest = {nearest} with weights: give 1 or 2")
    opened = open_rows(
        features,
        centroids,
        mean=mean,
        components=components,
        weights=weights,
        l2=l2,
        mesh=mesh,
        chunk_rows=chunk_rows,
        precision=precision,
    )
    matrix, centroids, to = opened.matrix, opened.centroids, opened.to
    squares, directed = opened.squares, opened.directed
    k, setting = len(centroids), matrix.setting
    if setting.precision == "exact":  # the same labels, and float32 gives the second nearest
        setting = dataclasses.replace(setting, precision="float32")

    def look(number: int, block: device.Prepared) -> tuple[Any, ...]:
        return *comparing.label(setting, block, to, matrix.valid(number)), block.square

    parts = (matrix.join(part) for part in zip(*matrix.for_each(look), strict=True))
    cluster, distance, second, margin, again = parts
    row_checks.check_unchanged(matrix, squares, np.where(directed, again, 0))
    nowhere = ~directed
    if nowhere.any():
        cluster[nowhere], distance[nowhere] = nearest_to_zero(centroids)
    if k == 1:
        second, margin = np.full_like(second, -1), np.full_like(margin, np.inf)
    elif nowhere.any():
        others = np.delete(np.arange(k), cluster[nowhere][0])
        place, length = nearest_to_zero(centroids[others])
        second[nowhere], margin[nowhere] = others[place], length - distance[nowhere]
    count = min(nearest, k)
    clusters = np.stack([cluster, second], axis=1)[:, :count]
    distances = np.stack([distance, distance + margin], axis=1)[:, :count]
    if count > 2:
        found = neighbours.rank(matrix, setting, to, cluster, second, count=count - 2)
        others, lengths, again = found
        row_checks.check_unchanged(matrix, squares, np.where(directed, again, 0))
        clusters = np.concatenate([clusters, others], axis=1)
        # Computed differently: keep rounding from reversing the order.
        distances = np.maximum.accumulate(np.concatenate([distances, lengths], axis=1), axis=1)
    return Assignment(cluster, distance, second, margin, directed, clusters, distances)


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """Rows and centroids, prepared for comparison."""

    matrix: rows.Rows
    centroids: Float32[np.ndarray, "k c"]
    to: comparing.Points  # centroids, padded to whole groups
    squares: Float32[np.ndarray, " n"]  # squared row lengths, 0 without a direction
    directed: Bool[np.ndarray, " n"]


def open_rows(
    features: Any,
    centroids: Any,
    *,
    mean: Any,
    components: Any,
    weights: Any = None,
    l2: bool,
    mesh: Mesh | None,
    chunk_rows: int | None,
    precision: str,
) -> Opened:
    """Opens rows to compare with centroids. Arguments and errors are those of `assign`."""
    centroids = checks.checked_centroids(centroids, "centroids")
    k = len(centroids)
    matrix = rows.Rows(
        features,
        k,
        mesh=mesh,
        chunk_rows=chunk_rows,
        precision=precision,
        any_size=True,
        l2=l2,
    )
    if components is not None:
        components = checks.checked_components(components, matrix.d)
    checks.check_dims(
        centroids, "centroids", matrix.d if components is None else components.shape[1]
    )
    mean = np.zeros(matrix.d, np.float32) if mean is None else checks.checked_mean(mean, matrix.d)
    middle = _middle(centroids)
    row_checks.check_centroids_spread(centroids, middle)
    matrix.look_from(Frame(mean, middle, components))
    squares, directed = row_checks.check_rows(matrix)
    values = centroids - matrix.frame.origin[None]
    to = comparing.points(values, np.arange(k, dtype=np.int32), size=k)
    if weights is not None:
        weights = checks.checked_weights(weights, k)
        padded = np.pad(weights, (0, len(to.square) - k))
        to = dataclasses.replace(to, square=to.square - padded, weight=padded)
    return Opened(matrix, centroids, to, squares, directed)


def _middle(centroids: Float32[np.ndarray, "k d"]) -> Float32[np.ndarray, " d"]:
    """Returns the median of the centroids, by column: a centroid of an outlier does not move it.

    If two values are in the middle, it takes the one nearer to zero, as either may be an outlier.
    """
    ordered, k = np.sort(centroids, axis=0), len(centroids)
    low, high = ordered[(k - 1) // 2], ordered[k // 2]
    return np.where(np.abs(low) <= np.abs(high), low, high)


def nearest_to_zero(centroids: Float32[np.ndarray, "k d"]) -> tuple[int, float]:
    """Returns the cluster of a row without a direction, and its distance.

    Centroids of length 1 are equally near, apart from rounding: then it is the first.
    """
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1)
    cluster = int(np.argmax(lengths <= lengths.min() * (1 + 1e-6)))
    return cluster, float(lengths[cluster])
