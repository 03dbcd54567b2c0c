"""Checks of k-means' rows: finite, distinct, with a direction, not too close for float32."""

import logging

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from kt_jax.kmeans import arrays, device, distinct, rows

LEAST_SPREAD = 1e-15  # of a number from its middle: its square does not underflow float32
_ROUNDED_SHARE = 1e-5  # of the rows' spread: warn if rounding to float32 exceeds it

_log = logging.getLogger(__name__)


def check_rows(
    matrix: rows.Rows,
) -> tuple[Float32[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Returns the rows' squared distances from the origin [n], and which rows count [n].

    Rows that do not count have the squared distance 0.

    Raises:
      ValueError: a row is not finite, or too large.
    """
    parts = matrix.for_each(lambda _, block: (block.square, block.counts))
    squares, counts = (matrix.join(part) for part in zip(*parts, strict=True))
    good = squares <= device.value_limit(1) ** 2  # False for NaN too
    if good.all():
        return np.where(counts, squares, 0), counts
    row = int(np.argmin(good))
    values = np.abs(matrix.take_raw(np.array([row]))[0].astype(np.float32))
    column = int(np.argmax(np.where(np.isnan(values), np.inf, values)))
    where, value = matrix.locate(row, column)
    raise ValueError(
        arrays.describe_wrong_value(where, value, column, device.value_limit(matrix.d))
    )


def check_unchanged(
    matrix: rows.Rows, before: Float32[np.ndarray, " n"], after: Float32[np.ndarray, " n"]
) -> None:
    """Raises ValueError if a row's squared distance from the origin has changed."""
    if not np.array_equal(before, after):
        where, _ = matrix.locate(int(np.argmax(before != after)), 0)
        raise ValueError(
            f"{where} has changed since it was first read, so the result would fit neither state: "
            "cluster again when nothing writes to the features"
        )


def check_directions(counts: Bool[np.ndarray, " n"], k: int) -> None:
    """Warns of rows without a direction. ValueError if fewer than k rows have one."""
    missing, n = int((~counts).sum()), len(counts)
    if not missing:
        return
    which = f"{missing:,} of {n:,} rows have no direction (they are zero, less the mean if centred)"
    if missing == n:
        raise ValueError(
            f"none of the {n:,} rows has a direction: all are zero, less the mean if centred"
        )
    if n - missing < k:
        raise ValueError(f"k = {k} clusters, but {which}: choose k <= {n - missing}")
    _log.warning(
        "k-means: %s: they get the nearest cluster, and are ignored by centroids and inertia",
        which,
    )


def _spread_limit(d: int) -> float:
    """Returns the least distance from the middle whose square does not underflow float32."""
    return LEAST_SPREAD * float(np.sqrt(d))


def check_spread(matrix: rows.Rows, squares: Float32[np.ndarray, " n"]) -> None:
    """Raises ValueError if rows differ by so little that their squared distances underflow."""
    limit = _spread_limit(matrix.d)
    if squares.max() < limit**2 and distinct.count(matrix, 2) > 1:
        raise ValueError(_too_close("the rows of features", limit))


def check_centroids_spread(
    centroids: Float32[np.ndarray, "k d"], middle: Float32[np.ndarray, " d"]
) -> None:
    """Raises ValueError if centroids differ by so little that their squared distances underflow."""
    squares = np.square(centroids - middle[None], dtype=np.float64).sum(1)
    limit = _spread_limit(len(middle))
    if 0 < squares.max() < limit**2:
        raise ValueError(_too_close("the centroids", limit))


def _too_close(what: str, limit: float) -> str:
    return (
        f"{what} differ, but lie within {limit:.1e} of their middle, where squared distances "
        "underflow float32: multiply features and centroids by the same large number"
    )


def warn_of_rounding(sample: Shaped[np.ndarray, "m d"], mean: Float32[np.ndarray, " d"]) -> None:
    """Warns of rows so far from zero, or from their mean, that float32 rounds their differences.

    Args:
      sample: finite rows, as they were read.
      mean: the row that is subtracted. One outlier can move it away from all rows.
    """
    near = sample.astype(np.float32)
    wide = near.astype(np.float64)
    # Medians, so that an outlier does not change the result.
    spread = np.median(np.square(wide - np.median(wide, axis=0)[None]).sum(1))
    size = np.maximum(np.abs(near), np.abs(mean)[None])
    rounding = np.median(np.square(np.spacing(size), dtype=np.float64).sum(1)) / 12  # uniform
    if 0 < spread and rounding > _ROUNDED_SHARE * spread:
        _log.warning(
            "k-means: the rows are so far from zero, or from their mean (%.3g), that rounding to "
            "float32 is %.1g of their differences: subtract their median in float64 first, instead "
            "of centre.",
            size.mean(dtype=np.float64),
            rounding / spread,
        )


def warn_of_empty(count: int, k: int) -> None:
    """Warns of clusters that stayed empty although there are k distinct rows."""
    _log.warning(
        "k-means: %s of %s clusters have no row that weighs: rows lie so close to each other that "
        "float32 cannot divide them: choose a smaller k, or drop rows that nearly repeat others",
        *(f"{count:,}", f"{k:,}"),
    )


def check_distinct(matrix: rows.Rows, k: int) -> None:
    """Raises ValueError if there are fewer than k distinct rows."""
    found = distinct.count(matrix, k)
    if found < k:
        raise ValueError(
            f"k = {k} is larger than the number of distinct rows: of the n = {matrix.n} rows "
            f"of features only {found} differ (in float32); choose k <= {found}"
        )
