"""Average precision of images ranked by a score, for each class, and its mean.

Labels are those of PASCAL VOC: 1 present, -1 absent, 0 "difficult". Difficult images are skipped
of the ranking of their class.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Shaped

_RESAMPLES = 1000
_AT_ONCE = 100  # resamples: they take 800 bytes an image


def average_precision(
    scores: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    *,
    points: int = 0,
    weights: Int[np.ndarray, "*r n"] | None = None,
) -> Float[np.ndarray, "*r"]:
    """The average precision of one class.

    Equal scores are one threshold, so negatives among them count against the positives. The result
    equals scikit-learn's `average_precision_score`, and that of Krahenbuhl et al. 2016, who
    subtract a little from the scores of positives so that a constant score gains nothing.

    Args:
      scores: higher for images that are more likely to show the class.
      labels: 1, 0 (skipped) or -1 for each image.
      points: 0 is the area below the curve, sum of (R_i - R_i-1) P_i over the thresholds i. 11 is
        VOC 2007's mean, over the recalls 0, 0.1, ..., 1, of the largest precision at that recall or
        a higher one.
      weights: how often each image counts; by default once. Several rows give several results.

    Returns:
      A share from 0 to 1; NaN if no image shows the class.

    >>> scores, labels = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, -1, 1, -1])
    >>> round(float(average_precision(scores, labels)), 4)  # (1/1 + 2/3) / 2
    0.8333
    >>> round(float(average_precision(scores, labels, points=11)), 4)  # (6 * 1 + 5 * 2/3) / 11
    0.8485
    """
    counted = np.flatnonzero(labels != 0)
    order = counted[np.argsort(-scores[counted], kind="stable")]
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    weights = np.ones(len(scores), np.int64) if weights is None else weights
    seen = np.cumsum(weights[..., order], axis=-1)[..., ends]
    found = np.cumsum(weights[..., order] * (labels[order] > 0), axis=-1)[..., ends]
    total = found[..., -1:]
    precision = found / np.maximum(seen, 1)
    if points:
        # In whole numbers: as floats, a recall of 3/10 is below the point 0.3.
        steps = points - 1
        reached = (found * steps >= point * total for point in range(points))
        result = sum(np.where(each, precision, 0.0).max(-1) for each in reached) / points
    else:
        gained = np.diff(found, axis=-1, prepend=0)
        result = (gained * precision).sum(-1) / np.maximum(total[..., 0], 1)
    return np.where(total[..., 0] > 0, result, np.nan)


def mean_average_precision(
    scores: Float[np.ndarray, "n classes"],
    labels: Shaped[np.ndarray, "n classes"],
    *,
    points: int = 0,
    weights: Int[np.ndarray, "*r n"] | None = None,
) -> Float[np.ndarray, "*r"]:
    """The mean over the classes with at least one positive image; see `average_precision`.

    Raises:
      ValueError: no image shows any class.
    """
    shown = [number for number in range(labels.shape[1]) if (labels[:, number] > 0).any()]
    if not shown:
        raise ValueError("no image shows any class: there is no average precision")
    each = [
        average_precision(scores[:, number], labels[:, number], points=points, weights=weights)
        for number in shown
    ]
    return np.asarray(np.nanmean(np.stack(each), axis=0))


def resample(
    scores: Float[np.ndarray, "n classes"],
    labels: Shaped[np.ndarray, "n classes"],
    *,
    points: int = 0,
) -> Float[np.ndarray, " r"]:
    """The mean average precision of 1,000 resamples of the images.

    The resamples depend only on the number of images. So two networks can be compared resample by
    resample. A 95 % interval is `np.percentile(found, [2.5, 97.5])`.
    """
    values = [
        mean_average_precision(scores, labels, points=points, weights=weights)
        for weights in _resample(len(scores))
    ]
    return np.concatenate(values)


def _resample(n: int) -> Iterator[Int[np.ndarray, "r n"]]:
    """How often each of n images is drawn, in resamples of n images with replacement."""
    generator = np.random.default_rng(0)
    for _ in range(_RESAMPLES // _AT_ONCE):
        drawn = generator.integers(0, n, (_AT_ONCE, n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn])
