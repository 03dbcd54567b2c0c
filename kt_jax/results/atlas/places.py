"""Where images and centroids lie on a map of two dimensions: principal components, or UMAP."""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

_ROWS = 8192  # at a time


@dataclass(frozen=True, eq=False)
class Axes:
    """The directions in which the centroids differ most.

    A feature x is seen as k-means sees it: x - mean, times the components if there are any, divided
    by its length if `l2`.
    """

    mean: Float32[np.ndarray, " d"]
    l2: bool
    middle: Float[np.ndarray, " c"]  # of the centroids, by size
    directions: Float[np.ndarray, "c m"]  # of length 1; zeros where there are no more
    shares: tuple[float, ...]
    """Of the centroids' variance."""
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
    """The first principal components of the centroids, each as often as it has members.

    They depend on the clusters alone: other images of the same clusters have the same map.
    """
    weights = np.maximum(sizes, 0) / max(sizes.sum(), 1)
    middle = weights @ centroids.astype(np.float64)
    scaled = (centroids - middle) * np.sqrt(weights)[:, None]
    # Of the two products the smaller one: they have the same eigenvalues.
    is_wide = scaled.shape[0] <= scaled.shape[1]
    product = scaled @ scaled.T if is_wide else scaled.T @ scaled
    values, vectors = np.linalg.eigh(product)
    values = np.maximum(values[::-1][:count], 0)
    vectors = vectors[:, ::-1][:, :count]
    directions = scaled.T @ vectors if is_wide else vectors
    directions = np.pad(directions, [(0, 0), (0, count - directions.shape[1])])
    values = np.pad(values, (0, count - len(values)))
    lengths = np.linalg.norm(directions, axis=0)
    is_real = values > 1e-12 * max(np.trace(product), 1e-300)
    directions = np.where(is_real, directions / np.where(is_real, lengths, 1), 0)
    # An eigenvector has no sign: the largest entry is positive.
    largest = directions[np.abs(directions).argmax(0), np.arange(count)]
    directions = directions * np.where(largest < 0, -1, 1)
    shares = values / max(np.trace(product), 1e-300)
    return Axes(mean, l2, middle, directions, tuple(shares.tolist()), components)


def place_centroids(axes: Axes, centroids: Float[np.ndarray, "k d"]) -> Float32[np.ndarray, "k m"]:
    """The centroids on the map."""
    return ((centroids - axes.middle) @ axes.directions).astype(np.float32)


def place_rows(axes: Axes, rows: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n m"]:
    """Features on the map."""
    centred = rows.astype(np.float32) - axes.mean
    if axes.components is not None:
        centred = centred @ axes.components
    if axes.l2:
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        centred /= np.where(lengths > 0, lengths, 1)
    return ((centred - axes.middle) @ axes.directions).astype(np.float32)


def place_shards(axes: Axes, paths: Iterable[Path]) -> Float32[np.ndarray, "n m"]:
    """The rows of .npy files on the map, without loading all of them."""
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
    """Images of which the distances alone are known: on the line from their centroid to the second.

    With distances a and b from two centroids that are c apart, the foot of the perpendicular is
    (a^2 - b^2 + c^2) / 2c away from the first: no more than that is known of the image.
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
    """Refuses a map that needs what is not installed.

    Raises:
      ValueError: saying what to install.
    """
    if importlib.util.find_spec("umap") is None:
        raise ValueError("--map=umap needs umap-learn: pip install 'kt_jax[umap]'")


def embed(spots: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n 2"]:
    """UMAP of images: neighbours stay neighbours, distances between groups mean little.

    McInnes, Healy & Melville, "UMAP", 2018; with its defaults, and a seed.
    """
    umap: Any = importlib.import_module("umap")  # an extra, which takes 20 s to import
    neighbours = min(15, len(spots) - 1)
    made = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(spots)
    return np.asarray(made, np.float32)


def find_middles(
    spots: Float32[np.ndarray, "n 2"], cluster: Int[np.ndarray, " n"], k: int
) -> Float32[np.ndarray, "k 2"]:
    """The middle of the members of each cluster on the map; NaN where there are none."""
    middles = np.full((k, 2), np.nan, np.float32)
    for number in np.unique(cluster):
        middles[number] = np.median(spots[cluster == number], axis=0)
    return middles
