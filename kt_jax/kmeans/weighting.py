"""Weights of rows: a row of weight w counts as w equal rows in means, seeds and inertia."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float32, Float64

from kt_jax.kmeans import arrays, device, rows

_LARGEST = 1e9  # so that float32 sums of weighted squares stay finite
_LEAST = 1e-30  # smaller weights count as zero: their products would vanish in float32


def checked(sample_weight: Any, n: int) -> Float32[np.ndarray, " n"]:
    """Returns the weights of n rows as float32.

    Raises:
      ValueError: there are not n numbers, one is not in 0..1e9, or all are zero.
    """
    given = arrays.as_array(sample_weight, "sample_weight")
    arrays.refuse_masked(given, "sample_weight")
    given = np.asarray(given)
    if given.shape != (n,):
        raise ValueError(
            f"sample_weight has shape {given.shape}: give one for each of n = {n} rows"
        )
    if given.dtype.kind not in "fiub" and given.dtype != jnp.bfloat16:
        raise ValueError(f"sample_weight has the dtype {given.dtype}: give numbers")
    wide = given.astype(np.float64)
    good = (wide >= 0) & (wide <= _LARGEST)  # False for NaN
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"sample_weight of row {row} is {given[row]}: weights must be 0 or more, and at most "
            f"{_LARGEST:.0e}"
        )
    weights = np.where(wide < _LEAST, 0, wide).astype(np.float32)
    if not weights.any():
        raise ValueError(
            f"sample_weight is zero for all rows, or below {_LEAST:.0e}: give some a larger weight"
        )
    return weights


def check_count(weights: Float32[np.ndarray, " n"], counts: Bool[np.ndarray, " n"], k: int) -> None:
    """Raises ValueError if fewer than k rows that count have a weight above zero."""
    some = int((counts & (weights > 0)).sum())
    if some < k:
        raise ValueError(
            f"k = {k} clusters, but only {some} rows have a weight above zero (and a direction, "
            f"with l2): choose k <= {some}"
        )


def find_mean(matrix: rows.Rows) -> Float64[np.ndarray, " d"]:
    """Returns the weighted mean row; it may not be finite. `matrix` must have weights."""
    assert matrix.weights is not None
    weights, setting = matrix.weights, matrix.setting
    parts = matrix.for_each_raw(lambda number, block: _lane_sums(setting, block, weights[number]))
    total = np.sum([matrix.fetch(part).sum(0, dtype=np.float64) for part in parts], axis=0)
    return total / sum(matrix.fetch(weight).sum(dtype=np.float64) for weight in weights)


@device.program((P("data"), P("data")), P("data"))
def _lane_sums(setting, block, weight):
    """As `device.lane_sums`, of weighted rows."""

    def add(carry, rows, weight):
        weighted = rows.astype(jnp.float32) * weight[:, None]
        return carry, jnp.sum(device.in_lanes(weighted, device.LANE_ROWS), axis=1)

    return device.over_chunks(setting, add, None, block, weight)[1]
