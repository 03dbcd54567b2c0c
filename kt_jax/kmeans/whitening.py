"""Principal components of a feature matrix, scaled to the same variance."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Float64

from kt_jax.kmeans import checks, device
from kt_jax.kmeans.device import program
from kt_jax.kmeans.rows import Rows

# Components of a smaller share of the largest variance are rounding: features are float16.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Whitening:
    """What turns a row x into (x - mean) @ components, whose columns have variance 1."""

    mean: Float32[np.ndarray, " d"]
    components: Float32[np.ndarray, "d m"]
    """Orthogonal, by falling variance, each divided by its standard deviation; the largest element
    of each is above 0. Zeros where there is no variance."""
    variances: Float64[np.ndarray, " m"]
    """Of the rows along the components, before they are scaled."""


def fit(features: Any, dims: int, *, mesh: Mesh | None = None) -> Whitening:
    """The first `dims` principal components of rows [n, d].

    The covariance is summed up over blocks of rows: within a block in float32 on the devices, over
    blocks in float64. Then it costs 8 d^2 bytes and O(d^3) operations of the host.

    Raises:
      ValueError: as `kmeans.fit` for what is no matrix of finite numbers; dims not from 1 to d.

    >>> fit([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], 1).variances.tolist()
    [2.6666666666666665]
    """
    checks.check_options(mesh=mesh)
    matrix = Rows(features, 1, mesh=mesh, chunk_rows=None)
    if not 1 <= dims <= matrix.d:
        raise ValueError(f"dims = {dims}: features have d = {matrix.d}, give 1 to that")
    sums = matrix.for_each_raw(lambda _, block: device.lane_sums(matrix.setting, block))
    mean = sum(matrix.fetch(part).sum(0, dtype=np.float64) for part in sums) / matrix.n
    mean = np.asarray(mean, np.float32)
    if not np.isfinite(mean).all():  # this finds the row
        matrix.look_from(matrix.frame)
        checks.check_rows(matrix)
    total = np.zeros((matrix.d, matrix.d))

    def add(number: int, block: Any) -> None:
        nonlocal total
        total += matrix.fetch(_products(matrix.setting, block, mean, matrix.valid(number)))

    matrix.for_each_raw(add)
    first = matrix.d - dims
    found: Any = scipy.linalg.eigh(
        total / matrix.n, subset_by_index=(first, matrix.d - 1), overwrite_a=True
    )
    variances, vectors = np.maximum(found[0][::-1], 0), found[1][:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0)
    vectors = vectors * np.sign(largest)
    real = variances > _LEAST_SHARE * variances[0]
    scale = np.where(real, 1 / np.sqrt(np.where(real, variances, 1)), 0)
    return Whitening(mean, (vectors * scale[None]).astype(np.float32), variances)


def apply(
    whitening: Whitening, features: Any, *, l2: bool = False, mesh: Mesh | None = None
) -> Float32[np.ndarray, "n m"]:
    """The whitened rows of `features` [n, d]; with `l2` divided by their lengths, if above 0.

    Raises:
      ValueError: features of another d than those that were whitened, or no matrix of numbers.
    """
    checks.check_options(mesh=mesh, l2=l2)
    matrix = Rows(features, 1, mesh=mesh, chunk_rows=None, l2=l2)
    if matrix.d != len(whitening.mean):
        raise ValueError(f"features have d = {matrix.d}, those whitened {len(whitening.mean)}")
    to = whitening.mean, whitening.components
    parts = matrix.for_each_raw(lambda _, block: matrix.fetch(_whiten(matrix.setting, block, *to)))
    return np.concatenate(parts)[: matrix.n]


@program((P("data"), P(), P()), P())
def _products(setting, block, mean, valid):
    del setting
    rows = block.astype(jnp.float32) - mean[None]
    rows = jnp.where((device.numbers(block) < valid)[:, None], rows, 0)
    total = lax.dot_general(rows, rows, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
    return lax.psum(total, "data")


@program((P("data"), P(), P()), P("data"))
def _whiten(setting, block, mean, components):
    rows = block.astype(jnp.float32) - mean[None]
    found = jnp.matmul(rows, components, precision=lax.Precision.HIGHEST)
    if setting.l2:
        length = jnp.linalg.norm(found, axis=1, keepdims=True)
        found = found / jnp.where(length > 0, length, 1)
    return found
