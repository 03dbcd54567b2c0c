"""Finds duplicates within a set of images, and between training and evaluation images.

Equal content is certain. pHash finds near duplicates, such as copies that were saved again, resized
or brightened. Its bits say which of the lowest 8 x 8 frequencies of the grey image are above their
median. It misses mirror images, and most copies that lost 5 % of a side.

By the median, exactly 32 of the 64 bits are set. Fewer are set if many frequencies are zero, as in
plain, striped and symmetric pictures. Unrelated pictures share such hashes, so these are ignored:
such pictures have no near duplicates here. None of 24,000 photographs is such a picture.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, UInt64

from kt_jax.data.decode import THUMBNAIL
from kt_jax.data.image_set import Hashes, Images
from kt_jax.data.scan import perceptual_hash
from kt_jax.runs import progress

# Distance in bits, always even, as 32 are set. In 24,000 photographs, all 13 pairs at up to 4 bits
# show the same scene, but only 3 of 10 pairs at 6. Of 50,000 crops, 19 were within 4 bits of one of
# 1.28 million crops of other photographs, 177 within 6. All copies of quality 50 or half the size
# were within 4.
NEAR = 4
# Number of pairs that are compared at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Duplicates:
    """Groups of duplicates in a set. Each has at least two row numbers, ascending.

    Attributes:
      exact: groups of rows with equal content.
      near: groups of rows that small distances connect, and whose content is not all equal.
    """

    exact: list[tuple[int, ...]]
    near: list[tuple[int, ...]]


@dataclass(frozen=True)
class Leaks:
    """Evaluation images that are also in the training set: (evaluation row, training row) pairs.

    Pairs are ascending, with at most one for each evaluation row.

    Attributes:
      exact: pairs with equal content, with the first such training row.
      near: other pairs of near duplicates, with the (first) nearest training row.
    """

    exact: list[tuple[int, int]]
    near: list[tuple[int, int]]


def hash_images(images: Images) -> Hashes:
    """Returns the hashes of the files or, if images are not files, of the decoded pixels."""
    if images.hashes is not None:
        return images.hashes
    content, perceptual = [], np.empty(len(images), np.uint64)
    with progress.Count(images.origin, len(images), "images hashed") as count:
        for row in range(len(images)):
            pixels = images[row]
            content.append(hashlib.sha256(pixels.tobytes()).hexdigest())
            grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
            perceptual[row] = perceptual_hash(thumbnail[None])[0]
            count.add()
    return Hashes(tuple(content), perceptual)


def find_duplicates(hashes: Hashes) -> Duplicates:
    """Finds the duplicates in a set. A million images take seconds."""
    content = pa.array(hashes.content, pa.string()).dictionary_encode().indices.to_numpy()
    telling = np.flatnonzero(_tells(hashes.perceptual))
    unique, which = np.unique(hashes.perceptual[telling], return_inverse=True)
    connected = (telling[group] for group in _groups(_components(unique)[which]))
    near = [rows for rows in connected if (content[rows] != content[rows[0]]).any()]
    return Duplicates(_tuples(_groups(content)), _tuples(near))


def find_leaks(evaluation: Hashes, training: Hashes) -> Leaks:
    """Finds evaluation images that are also in a training set.

    50,000 images against a million take seconds.
    """
    first: dict[str, int] = {}
    for row, content in enumerate(training.content):
        first.setdefault(content, row)
    exact = [
        (row, first[content]) for row, content in enumerate(evaluation.content) if content in first
    ]
    candidates = _tells(evaluation.perceptual)
    candidates[[row for row, _ in exact]] = False
    rows = np.flatnonzero(candidates)
    wanted, which = np.unique(evaluation.perceptual[rows], return_inverse=True)
    telling = np.flatnonzero(_tells(training.perceptual))
    unique, at = np.unique(training.perceptual[telling], return_index=True)
    lowest_rows = telling[at]
    # One number that sorts by distance, then by row.
    count = len(training.perceptual)
    none = (NEAR + 1) * count
    best = np.full(len(wanted), none, np.int64)
    for left, right, distances in _close_pairs(wanted, unique):
        np.minimum.at(best, left, distances.astype(np.int64) * count + lowest_rows[right])
    found = best[which] < none
    near = zip(rows[found].tolist(), (best[which][found] % count).tolist(), strict=True)
    return Leaks(exact, list(near))


def _tells(perceptual: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Returns which hashes are meaningful: see the top of this file."""
    return np.bitwise_count(perceptual) == 32


def _components(hashes: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Returns the number of the connected component of each unique hash."""
    labels = np.arange(len(hashes))
    waiting: list[np.ndarray] = []
    for left, right, _ in _close_pairs(hashes, hashes):
        edges = np.stack([labels[left], labels[right]])
        waiting.append(edges[:, edges[0] != edges[1]])
        # Drop edges whose ends have the same label: a cluster may have billions of edges.
        if sum(edges.shape[1] for edges in waiting) > _BLOCK:
            labels, waiting = _join(labels, waiting), []
    return _join(labels, waiting) if waiting else labels


def _join(labels: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    # Imported here: importing scipy takes longer than many scans.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(ends.shape[1], bool), tuple(ends)), shape=(len(labels),) * 2)
    return connected_components(graph, directed=False)[1][labels]


def _close_pairs(
    left: UInt64[np.ndarray, " m"], right: UInt64[np.ndarray, " n"]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields rows of `left`, rows of `right` and their distances, a block of pairs at a time.

    A pair may come more than once. If both arguments are the same array, a pair comes in one order,
    and no hash is paired with itself. The bits are split into NEAR + 2 bands. Hashes within NEAR
    bits agree in at least two bands, so for every two bands, the hashes that agree are compared.
    """
    edges = [64 * band // (NEAR + 2) for band in range(NEAR + 3)]
    bands = [(1 << end) - (1 << begin) for begin, end in itertools.pairwise(edges)]
    for one, other in itertools.combinations(bands, 2):
        mask = np.uint64(one | other)
        left_order = np.argsort(left & mask)
        right_order = left_order if left is right else np.argsort(right & mask)
        left_sorted, right_sorted = left[left_order], right[right_order]
        left_keys, right_keys = left_sorted & mask, right_sorted & mask
        # Row i of left_sorted is compared with the rows [begin[i], end[i]) of right_sorted.
        if left is right:
            begin = np.arange(1, len(left) + 1)
        else:
            begin = np.searchsorted(right_keys, left_keys, "left")
        end = np.searchsorted(right_keys, left_keys, "right")
        totals = np.cumsum(end - begin)
        pairs = totals[-1] if len(totals) else 0
        cuts = np.searchsorted(totals, np.arange(_BLOCK, pairs, _BLOCK))
        for rows in np.split(np.arange(len(left)), cuts):
            counts = end[rows] - begin[rows]
            ends = np.cumsum(counts)
            i = np.repeat(rows, counts)
            j = np.arange(counts.sum()) + np.repeat(begin[rows] - ends + counts, counts)
            distances = np.bitwise_count(left_sorted[i] ^ right_sorted[j])
            close = distances <= NEAR
            if close.any():
                yield left_order[i[close]], right_order[j[close]], distances[close]


def _groups(labels: Int[np.ndarray, " n"]) -> list[np.ndarray]:
    """Returns the rows of each label that at least two rows have."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    counts = np.diff(starts, append=len(labels))
    several = counts > 1
    return [
        order[start : start + count]
        for start, count in zip(starts[several], counts[several], strict=True)
    ]


def _tuples(groups: list[np.ndarray]) -> list[tuple[int, ...]]:
    return sorted(tuple(rows.tolist()) for rows in groups)
