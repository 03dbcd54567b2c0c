"""The places of images and centroids on a map: principal components, or UMAP."""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from kt_jax.machine import blas
from kt_jax.runs import versions

_ROWS = 8192  # read at a time


@dataclass(frozen=True, eq=False)
class Axes:
    """The principal components of the centroids.

    Features x are transformed as in k-means: x - mean, times `components` if given, divided by
    their L2 norms if `l2`.
    """

    mean: Float32[np.ndarray, " d"]
    l2: bool
    middle: Float[np.ndarray, " c"]  # the mean of the centroids, weighted by size
    directions: Float[np.ndarray, "c m"]  # unit vectors; zeros if there are fewer components
    shares: tuple[float, ...]
    """The share of the centroids' variance along each direction."""
    components: Float32[np.ndarray, "d c"] | None = None


def find_axes(
    centroids: Float[np.ndarray, "k c"],
    sizes: Int[np.ndarray, " k"],
    *,
    mean: Float[np.ndarray, " d"],
    components: Float32[np.ndarray, "d c"] | None = None,
    l2: bool,
    count: int = 2,
) -> Axes:
    """Computes the first principal components of the centroids, weighted by their sizes.

    They depend only on the clusters: other images with the same clusters have the same map.
    """
    weights = np.maximum(sizes, 0) / max(sizes.sum(), 1)
    middle = weights @ centroids.astype(np.float64)
    scaled = (centroids - middle) * np.sqrt(weights)[:, None]
    # Both products have the same nonzero eigenvalues: use the smaller one.
    is_wide = scaled.shape[0] <= scaled.shape[1]
    product = scaled @ scaled.T if is_wide else scaled.T @ scaled
    with blas.decomposing(len(product)):
        values, vectors = np.linalg.eigh(product)
    values = np.maximum(values[::-1][:count], 0)
    vectors = vectors[:, ::-1][:, :count]
    directions = scaled.T @ vectors if is_wide else vectors
    directions = np.pad(directions, [(0, 0), (0, count - directions.shape[1])])
    values = np.pad(values, (0, count - len(values)))
    lengths = np.linalg.norm(directions, axis=0)
    is_real = values > 1e-12 * max(np.trace(product), 1e-300)
    directions = np.where(is_real, directions / np.where(is_real, lengths, 1), 0)
    # The sign of an eigenvector is arbitrary: make the largest entry positive.
    largest = directions[np.abs(directions).argmax(0), np.arange(count)]
    directions = directions * np.where(largest < 0, -1, 1)
    shares = values / max(np.trace(product), 1e-300)
    return Axes(mean, l2, middle, directions, tuple(shares.tolist()), components)


def place_centroids(axes: Axes, centroids: Float[np.ndarray, "k d"]) -> Float32[np.ndarray, "k m"]:
    """Projects centroids onto the axes."""
    return ((centroids - axes.middle) @ axes.directions).astype(np.float32)


def place_rows(axes: Axes, rows: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n m"]:
    """Projects features onto the axes."""
    centred = rows.astype(np.float32) - axes.mean
    if axes.components is not None:
        centred = centred @ axes.components
    if axes.l2:
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        centred /= np.where(lengths > 0, lengths, 1)
    return ((centred - axes.middle) @ axes.directions).astype(np.float32)


def place_shards(axes: Axes, paths: Iterable[Path]) -> Float32[np.ndarray, "n m"]:
    """Projects the rows of .npy files onto the axes, without loading them all at once."""
    return np.concatenate([place_rows(axes, block) for block in _blocks(paths)])


def _blocks(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        for begin in range(0, len(rows), _ROWS):
            yield np.asarray(rows[begin : begin + _ROWS])


def place_between(
    axes: Axes,
    centroids: Float[np.ndarray, "k d"],
    cluster: Int[np.ndarray, " n"],
    second: Int[np.ndarray, " n"],
    distance: Float[np.ndarray, " n"],
    margin: Float[np.ndarray, " n"],
) -> Float32[np.ndarray, "n m"]:
    """Places images without features on the line from their centroid to the second centroid.

    Only the distances a and b to these two centroids are known. If the centroids are c apart, the
    foot of the image's perpendicular is at (a^2 - b^2 + c^2) / 2c from the first centroid.
    """
    spots = place_centroids(axes, centroids)
    if len(centroids) < 2:
        return spots[cluster]
    squares = (centroids.astype(np.float64) ** 2).sum(1)
    products = centroids.astype(np.float64) @ centroids.T.astype(np.float64)
    between = np.maximum(squares[:, None] + squares[None] - 2 * products, 0) ** 0.5
    apart = between[cluster, second]
    along = distance**2 - (distance + margin) ** 2 + apart**2
    share = along / np.where(apart > 0, 2 * apart**2, 1)
    return (spots[cluster] + share[:, None] * (spots[second] - spots[cluster])).astype(np.float32)


def check_umap() -> None:
    """Checks that umap-learn is installed.

    Raises:
      ValueError: it is not.
    """
    if importlib.util.find_spec("umap") is None:
        raise ValueError(f"--map=umap needs umap-learn: {versions.install_extra('umap')}")


def embed(spots: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n 2"]:
    """UMAP of images. It keeps neighbours together; distances between groups mean little.

    McInnes, Healy & Melville, "UMAP", 2018. Default settings and a fixed seed.
    """
    umap: Any = importlib.import_module("umap")  # an extra, which takes 20 s to import
    neighbours = min(15, len(spots) - 1)
    made = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(spots)
    return np.asarray(made, np.float32)


def find_middles(
    spots: Float32[np.ndarray, "n 2"], cluster: Int[np.ndarray, " n"], k: int
) -> Float32[np.ndarray, "k 2"]:
    """The median place of the members of each cluster; NaN for empty clusters."""
    middles = np.full((k, 2), np.nan, np.float32)
    for number in np.unique(cluster):
        middles[number] = np.median(spots[cluster == number], axis=0)
    return middles
