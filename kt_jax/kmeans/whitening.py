"""Principal components of a feature matrix, scaled to the same variance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Float64

from kt_jax.kmeans import checks, device, frames, reduction, row_checks
from kt_jax.kmeans.rows import Rows


@dataclass(frozen=True, eq=False)
class Whitening:
    """Maps a row x to (x - mean) @ components, whose columns have variance 1."""

    mean: Float32[np.ndarray, " d"]
    components: Float32[np.ndarray, "d m"]
    """Orthogonal, by descending variance, each divided by its standard deviation. The largest
    element of each is positive. Zeros if there is no variance."""
    variances: Float64[np.ndarray, " m"]
    """Variances of the rows along the components, before scaling."""


def fit(features: Any, dims: int, *, mesh: Mesh | None = None) -> Whitening:
    """Finds the first `dims` principal components of rows [n, d].

    See `reduction.find_directions` for the cost.

    Raises:
      ValueError: the features are not a matrix of finite numbers, or dims is not in 1..d.

    >>> fit([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], 1).variances.tolist()
    [4.0]
    """
    checks.check_options(mesh=mesh)
    matrix = Rows(features, 1, mesh=mesh, chunk_rows=None, any_size=True)
    if not 1 <= dims <= matrix.d:
        raise ValueError(f"dims = {dims}, features have d = {matrix.d}: give 1 to {matrix.d}")
    mean = frames.find_mean(matrix)
    variances, vectors = reduction.find_directions(matrix, mean, dims)
    variances = np.maximum(variances, 0)
    real = reduction.vary(variances)
    scale = np.where(real, 1 / np.sqrt(np.where(real, variances, 1)), 0)
    return Whitening(mean, (vectors * scale[None]).astype(np.float32), variances)


def apply(
    whitening: Whitening, features: Any, *, l2: bool = False, mesh: Mesh | None = None
) -> Float32[np.ndarray, "n m"]:
    """Returns the whitened rows of `features` [n, d]. `l2` divides nonzero rows by their lengths.

    Raises:
      ValueError: the features have another d than in `fit`, or are not a matrix of finite numbers.
    """
    checks.check_options(mesh=mesh, l2=l2)
    matrix = Rows(features, 1, mesh=mesh, chunk_rows=None, any_size=True, l2=l2)
    if matrix.d != len(whitening.mean):
        raise ValueError(f"features have d = {matrix.d}, those whitened {len(whitening.mean)}")
    none = np.zeros(whitening.components.shape[1], np.float32)
    matrix.look_from(device.Frame(whitening.mean, none, whitening.components))
    found = matrix.join(matrix.for_each(lambda _, block: block.values))
    if not np.isfinite(found).all():
        row_checks.check_rows(matrix)  # names the row
    return found
