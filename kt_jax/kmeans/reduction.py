"""Reduces rows to principal components, with equal variance if whitened.

A row x becomes (x - mean) V, with the eigenvectors V [d, dims] of the rows' covariance matrix that
have the largest eigenvalues (Jolliffe, "Principal component analysis", 2002). Whitened, each column
of V is divided by the square root of its eigenvalue.
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float32, Float64, Shaped

from kt_jax.kmeans import cluster_sums, device, frames, row_checks, rows
from kt_jax.machine import blas

_log = logging.getLogger(__name__)

# Float32 sums of products cannot resolve variances below this share of the largest.
_LEAST_VARIANCE = 1e-6
_SLOW = 4096  # from this d on, the eigenvectors take a minute or more


def find_components(
    matrix: rows.Rows, mean: Float32[np.ndarray, " d"], dims: int, *, whiten: bool
) -> Float32[np.ndarray, "d c"]:
    """Returns the matrix [d, dims] that the centred rows are multiplied with.

    Raises:
      ValueError: as `find_directions`; dims is above the number of directions that rows may have,
        or none varies and is to be whitened.
    """
    most = min(matrix.n - 1, matrix.d)
    if dims > most:
        raise ValueError(
            f"dims = {dims}, but n = {matrix.n} rows of d = {matrix.d} vary in at most {most} "
            f"directions: choose dims <= {most}"
        )
    more = " (minutes)" if matrix.d >= _SLOW else ""
    _log.info("k-means: the first %d of %s components%s", dims, f"{matrix.d:,}", more)
    variances, vectors = find_directions(matrix, mean, dims)
    if whiten:
        real = _which_vary(variances)
        vectors = np.where(real, vectors / np.sqrt(np.where(real, variances, 1))[None], 0)
    return vectors.astype(np.float32)


def find_directions(
    matrix: rows.Rows, mean: Float32[np.ndarray, " d"], dims: int
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, "d c"]]:
    """Returns the variances [dims] along the first principal components, and these [d, dims].

    This reads the rows once, and adds up their products as pairs of float32 on the devices of the
    rows. Then the host computes O(d^3) operations. Components have length 1, and their entry with
    the largest absolute value is positive. Variances are divided by n - 1.

    Raises:
      ValueError: a row is not finite, or too large, or rows differ by too little.
    """
    covariance = _covariance(matrix, mean)
    if not np.isfinite(covariance).all():
        matrix.look_from(device.Frame(mean, np.zeros_like(mean)))
        row_checks.check_rows(matrix)  # names the row
        raise ValueError("the rows of features are too large for their products in float32")
    last = (matrix.d - dims, matrix.d - 1)
    with blas.decomposing(matrix.d):
        found: Any = scipy.linalg.eigh(covariance, subset_by_index=last, overwrite_a=True)
    variances, vectors = found[0][::-1], found[1][:, ::-1]
    sample = matrix.take_raw(frames.space(matrix.n))
    if variances[0] < row_checks.LEAST_SPREAD**2 and (sample != sample[:1]).any():
        raise ValueError(
            f"the rows of features vary by less than {row_checks.LEAST_SPREAD:.1e}, where products "
            "underflow float32: multiply them by a large number"
        )
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0)
    return variances, vectors * np.where(largest < 0, -1, 1)


def vary(variances: Float64[np.ndarray, " c"]) -> Bool[np.ndarray, " c"]:
    """Returns which directions vary by more than rounding. `variances` must be descending."""
    return variances > _LEAST_VARIANCE * max(variances[0], 0)


def _which_vary(variances: Float64[np.ndarray, " c"]) -> Bool[np.ndarray, " c"]:
    real = vary(variances)
    if not real.any():
        raise ValueError("whiten = True, but the rows do not vary: all are equal, or nearly")
    if not real.all():
        _log.warning(
            "k-means: rows vary in %d directions by more than %g of the largest variance: the "
            "other %d of dims = %d components are zero",
            *(real.sum(), _LEAST_VARIANCE, (~real).sum(), len(real)),
        )
    return real


def _covariance(matrix: rows.Rows, mean: Float32[np.ndarray, " d"]) -> Float64[np.ndarray, "d d"]:
    setting = matrix.setting
    totals = _no_products(setting, mean)

    def add(number: int, block: Shaped[jax.Array, "rows d"]) -> None:
        nonlocal totals
        totals = _add_products(setting, totals, block, mean, matrix.valid(number))
        jax.block_until_ready(totals)  # before the next block is read

    matrix.for_each_raw(add)
    high, low = matrix.fetch(_sum_products(setting, totals)).astype(np.float64)
    return (high + low) / max(matrix.n - 1, 1)


_TOTALS = P(None, "data")


@device.program((P(),), _TOTALS)
def _no_products(setting, mean):
    """Returns zero sums for each device, [2, d, d], in two parts (see `cluster_sums.plus`)."""
    return device.varying(jnp.zeros((2, len(mean), len(mean)), jnp.float32))


@device.program((_TOTALS, P("data"), P(), P()), _TOTALS, donate=(0,))
def _add_products(setting, totals, block, mean, valid):
    """Adds the products of this block's centred rows to the totals."""
    values = block.astype(jnp.float32) - mean[None]
    values = jnp.where((device.numbers(block) < valid)[:, None], values, 0)
    products = lax.dot_general(
        values,
        values,
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return jnp.stack(cluster_sums.plus((totals[0], totals[1]), products))


@device.program((_TOTALS,), P())
def _sum_products(setting, totals):
    """Returns the totals of all devices."""
    return lax.psum(totals, "data")
