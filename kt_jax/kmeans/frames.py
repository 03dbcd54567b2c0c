"""Finds the mean of the rows, and an origin in their middle."""

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from kt_jax.kmeans import device, distinct, row_checks, rows, weighting
from kt_jax.kmeans.device import Frame

_ORIGIN_ROWS = 256  # number of rows whose mean is the origin, without outliers
_WILD = 10  # outliers: this many times farther from the median than half of these rows are


def find_mean(matrix: rows.Rows) -> Float32[np.ndarray, " d"]:
    """Returns the mean row.

    Raises:
      ValueError: a row is not finite, or rows are too large for their mean in float32.
    """
    if matrix.weights is None:
        parts = matrix.for_each_raw(lambda _, block: device.lane_sums(matrix.setting, block))
        mean = sum(matrix.fetch(part).sum(0, dtype=np.float64) for part in parts) / matrix.n
    else:
        mean = weighting.find_mean(matrix)
    if not np.isfinite(mean).all():
        none = np.zeros(matrix.d, np.float32)
        matrix.look_from(Frame(none, none))
        row_checks.check_rows(matrix)  # names the row
        raise ValueError("the rows of features are too large for their mean in float32")
    return np.asarray(mean, np.float32)


def space(n: int) -> Int64[np.ndarray, " m"]:
    """Returns the numbers of evenly spaced rows."""
    return np.unique(np.linspace(0, n - 1, min(n, _ORIGIN_ROWS)).astype(np.int64))


def find_middle(
    matrix: rows.Rows,
    sample: Shaped[np.ndarray, "m d"],
    mean: Float32[np.ndarray, " d"],
    components: Float32[np.ndarray, "d c"] | None,
) -> Float32[np.ndarray, " c"]:
    """Returns the mean of distinct sample rows, without outliers, which are far from their median.

    Of rows of whole numbers it has whole numbers, too. Then products of rows and centroids of small
    whole numbers are exact, and a row between two such centroids gets the lower cluster.
    """
    none = mean if components is None else np.zeros(components.shape[1], np.float32)
    frame = Frame(mean, np.zeros_like(none), components)
    sample = device.prepare_few(matrix.setting, sample, frame)
    sample = sample[np.abs(sample).max(1) <= device.value_limit(sample.shape[1])]  # drops NaN
    if not len(sample):
        return none
    sample = sample[distinct.find(sample)]  # most rows may be a mark of missing values
    distance = np.linalg.norm(sample - np.median(sample, axis=0)[None], axis=1)
    sample = sample[distance <= _WILD * np.median(distance)]
    middle = sample.mean(0, dtype=np.float64).astype(np.float32)
    return np.rint(middle) if np.array_equal(sample, np.rint(sample)) else middle
