"""Weights that make clusters of about equal size. They are subtracted from squared distances.

Labels of equal frequency are an optimal transport of n rows to k centroids, each of which takes
n / k (Asano et al., "Self-labelling via simultaneous clustering and representation learning",
2020, section 3). The dual problem has one weight w_j per centroid: a row belongs to the centroid
with the smallest |x - c_j|^2 - w_j. Sinkhorn's iteration (Cuturi, "Sinkhorn distances", 2013) finds
the weights for soft labels: a row's shares are softmax_j((w_j - |x - c_j|^2) / e) for a small e.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Float64

from kt_jax.kmeans import comparing, device, labelling, row_checks

_log = logging.getLogger(__name__)

# First and last e, as fractions of the rows' mean squared distance from their nearest centroids. A
# large e converges in a few passes. A small e is nearer to hard labels.
_SOFTNESS = 0.5, 0.02
_FALL = 0.9  # factor of e in every pass
_MOST_PASSES = 60
_ROUNDING = 1e-12  # of squared lengths: the error of a float32 row
_TOLERANCE = 0.05  # relative error of the cluster sizes


def balance(
    features: Any,
    centroids: Any,
    *,
    mean: Any = None,
    components: Any = None,
    l2: bool = False,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
) -> Float32[np.ndarray, " k"]:
    """Returns the `weights` [k] with which `assign` gives clusters of about equal size.

    Their mean is 0. The arguments are those of `assign`. It stops when the soft sizes are within
    5 % of n / k, after at most 60 passes over the rows. A pass costs about as much as an iteration
    of k-means. The sizes of hard labels differ more.

    Raises:
      ValueError: as `assign`.
    """
    nearest = labelling.assign(
        features,
        centroids,
        mean=mean,
        components=components,
        l2=l2,
        mesh=mesh,
        chunk_rows=chunk_rows,
    )
    usable = np.square(nearest.distance[nearest.directed], dtype=np.float64)
    opened = labelling.open_rows(
        features,
        centroids,
        mean=mean,
        components=components,
        l2=l2,
        mesh=mesh,
        chunk_rows=chunk_rows,
        precision="float32",
    )
    matrix, k = opened.matrix, len(opened.centroids)
    weights = np.zeros(len(opened.to.square), np.float64)
    scale = _typical(usable, float(np.mean(opened.squares, dtype=np.float64)))
    if k == 1 or scale == 0:  # one cluster, or every row is equal to its centroid
        return np.zeros(k, np.float32)
    passes, error = 0, np.inf
    while passes < _MOST_PASSES:
        softness = scale * max(_SOFTNESS[0] * _FALL**passes, _SOFTNESS[1])
        potentials = (weights / softness).astype(np.float32)
        passes += 1

        program = functools.partial(_sizes, matrix.setting)
        state = opened.to, potentials, np.float32(softness)
        parts = matrix.for_each(lambda _, block, run=program, state=state: run(block, *state))
        parts = [matrix.fetch(part) for part in parts]
        sizes = np.concatenate(parts).sum(0, dtype=np.float64)[:k] / (len(usable) / k)
        error = np.abs(sizes - 1).max()
        if error <= _TOLERANCE and softness <= scale * _SOFTNESS[1]:
            break
        weights[:k] -= softness * np.log(np.maximum(sizes, 1e-6))
        weights[:k] -= weights[:k].mean()
    if not matrix.resident:
        again = matrix.join(matrix.for_each(lambda _, block: block.square))
        row_checks.check_unchanged(matrix, opened.squares, np.where(opened.directed, again, 0))
    _log.info("k-means: balanced in %d passes, soft sizes within %.0f %%", passes, 100 * error)
    return weights[:k].astype(np.float32)


def _typical(squares: Float64[np.ndarray, " n"], length: float) -> float:
    """Returns the mean squared distance without the largest hundredth: they may be outliers.

    If this is nothing but rounding of rows with the mean squared `length`, it is the mean of all.
    """
    if not len(squares):
        return 0.0
    count = len(squares) - len(squares) // 100
    most = np.partition(squares, count - 1)[:count].mean()
    return float(most if most > _ROUNDING * length else squares.mean())


@device.program((P("data"), P(), P(), P()), P("data"))
def _sizes(setting, block, to, potentials, softness):
    """Returns the sums of the rows' shares in each cluster on this device, [1, p]."""

    def add(sums, rows, counts):
        logits = potentials[:, None] - comparing.scores(rows, to, setting.precision) / softness
        shares = jax.nn.softmax(logits, axis=0)
        return sums + jnp.sum(jnp.where(counts[None], shares, 0), axis=1), ()

    zero = device.varying(jnp.zeros(len(to.square), jnp.float32))
    return device.over_chunks(setting, add, zero, block.values, block.counts)[0][None]
