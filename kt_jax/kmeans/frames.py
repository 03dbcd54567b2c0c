"""Finds the mean of the rows, and an origin in their middle."""

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from kt_jax.kmeans import device, rows, weighting
from kt_jax.kmeans.device import Frame

_ORIGIN_ROWS = 256  # number of rows whose mean is the origin, without outliers
_WILD = 10  # outliers: this many times farther from the median than half of these rows are


def find_mean(matrix: rows.Rows) -> Float32[np.ndarray, " d"]:
    """Returns the mean row, or zeros if it is not finite: `check_rows` then reports the row."""
    if matrix.weights is None:
        parts = matrix.for_each_raw(lambda _, block: device.lane_sums(matrix.setting, block))
        mean = sum(matrix.fetch(part).sum(0, dtype=np.float64) for part in parts) / matrix.n
    else:
        mean = weighting.find_mean(matrix)
    return np.where(np.isfinite(mean).all(), mean, 0).astype(np.float32)


def space(n: int) -> Int64[np.ndarray, " m"]:
    """Returns the numbers of evenly spaced rows."""
    return np.unique(np.linspace(0, n - 1, min(n, _ORIGIN_ROWS)).astype(np.int64))


def find_middle(
    matrix: rows.Rows,
    sample: Shaped[np.ndarray, "m d"],
    mean: Float32[np.ndarray, " d"],
    components: Float32[np.ndarray, "d c"] | None,
) -> Float32[np.ndarray, " c"]:
    """Returns the mean of sample rows, without outliers, which are far from their median."""
    none = mean if components is None else np.zeros(components.shape[1], np.float32)
    frame = Frame(mean, np.zeros_like(none), components)
    sample = device.prepare_few(matrix.setting, sample, frame)
    sample = sample[np.abs(sample).max(1) <= device.value_limit(sample.shape[1])]  # drops NaN
    if not len(sample):
        return none
    distance = np.linalg.norm(sample - np.median(sample, axis=0)[None], axis=1)
    sample = sample[distance <= _WILD * np.median(distance)]
    return sample.mean(0, dtype=np.float64).astype(np.float32)
