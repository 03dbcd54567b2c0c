"""Clusters in numbers (size, tightness, purity), and the comparison of two clusterings."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64

from kt_jax.kmeans import metrics
from kt_jax.results.atlas.members import Members

SHOWN = 12  # images in each part (nearest, median, ...) of a cluster


@dataclass(frozen=True, eq=False)
class Summary:
    """The clusters of a set of images, in numbers."""

    order: Int64[np.ndarray, " n"]
    """The indices of the images, sorted by cluster, then by distance."""
    starts: Int64[np.ndarray, " k1"]
    """The members of cluster c are order[starts[c] : starts[c + 1]]."""
    tightness: Float32[np.ndarray, " k"]
    """The mean distance of the members from their centroid; NaN for empty clusters."""
    majority: Int32[np.ndarray, " k"]
    """The most frequent class; -1 if no class is known."""
    purity: Float32[np.ndarray, " k"]
    """The share of the majority among the members with a known class; NaN if there are none."""

    @property
    def sizes(self) -> Int64[np.ndarray, " k"]:
        """The number of members of each cluster."""
        return np.diff(self.starts)


def summarise(members: Members, k: int, labels: Int[np.ndarray, " n"] | None) -> Summary:
    """Computes the numbers of each cluster. `labels` are classes; those below 0 are unknown.

    Raises:
      ValueError: a member's cluster is not in 0..k-1.
    """
    cluster = members.cluster
    if len(cluster) and not 0 <= cluster.min() <= cluster.max() < k:
        raise ValueError(
            f"{members.origin} names clusters {cluster.min()} to {cluster.max()}, but there are "
            f"{k}: its files do not belong together"
        )
    # Break ties by the order of the images, so that the page is reproducible.
    order = np.lexsort((np.arange(len(cluster)), members.distance, cluster))
    sizes = np.bincount(cluster, minlength=k)
    sums = np.bincount(cluster, weights=members.distance, minlength=k)
    with np.errstate(invalid="ignore"):
        tightness = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    majority, purity = np.full(k, -1, np.int32), np.full(k, np.nan, np.float32)
    if labels is not None and (labels >= 0).any():
        for number in np.flatnonzero(sizes):
            some = labels[order[starts[number] : starts[number + 1]]]
            label, share, _ = metrics.find_majority(some, some)
            if label >= 0:
                majority[number], purity[number] = label, share
    return Summary(order, starts, tightness, majority, purity)


def choose(
    distance: Float32[np.ndarray, " m"], margin: Float32[np.ndarray, " m"], count: int
) -> Int64[np.ndarray, " chosen"]:
    """Chooses at most `count` members of a cluster for thumbnails; returns ascending indices.

    The members must be sorted by distance. First it takes turns between nearest, median, farthest
    and smallest margin, `SHOWN` of each, which the page shows for every cluster. Then it adds the
    nearest others.
    """
    if len(distance) <= count:
        return np.arange(len(distance))
    parts = find_parts(distance, margin)
    turns = [part[turn] for turn in range(SHOWN) for part in parts.values() if turn < len(part)]
    ranked = list(dict.fromkeys([*turns, *range(len(distance))]))
    return np.sort(np.array(ranked[:count], np.int64))


def find_parts(
    distance: Float32[np.ndarray, " m"], margin: Float32[np.ndarray, " m"]
) -> Mapping[str, list[int]]:
    """The indices of the nearest, median, farthest and borderline members, at most `SHOWN` each.

    The members must be sorted by distance. Borderline members have the smallest margins.
    """
    count = len(distance)
    places = list(range(count))
    first = max(0, (count - SHOWN) // 2)
    return {
        "nearest": places[:SHOWN],
        "median": places[first : first + SHOWN],
        "farthest": places[::-1][:SHOWN],
        "borderline": np.argsort(margin, kind="stable")[:SHOWN].tolist(),
    }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Another clustering of the same images."""

    name: str
    k: int
    cluster: Int32[np.ndarray, " n"]
    """The cluster of each image in the other clustering; -1 if it does not have the image."""
    common: int
    """The number of images that both clusterings have."""
    ami: float
    """The adjusted mutual information over the common images."""


def compare(members: Members, other: Members, *, name: str, k: int) -> Comparison:
    """Compares the clusters of the same images, which are matched by key.

    Args:
      members: the clustering of the page, in whose order the result is.
      other: the other clustering.
      name: its name on the page.
      k: its number of clusters.

    Raises:
      ValueError: the two clusterings have no image in common.
    """
    place = dict(zip(other.keys, other.cluster.tolist(), strict=True))
    cluster = np.array([place.get(key, -1) for key in members.keys], np.int32)
    both = cluster >= 0
    if not both.any():
        raise ValueError(
            f"--compare={name}: it clusters other images: none of its {len(other.keys):,}, such as "
            f"{other.keys[0]}, is among the {len(members.keys):,} here, such as {members.keys[0]}"
        )
    ami = metrics.adjusted_mutual_information(members.cluster[both], cluster[both])
    return Comparison(name, k, cluster, int(both.sum()), ami)
