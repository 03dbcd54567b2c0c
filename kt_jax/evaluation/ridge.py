"""Linear classifiers in closed form: ridge regression to one-hot labels, from streamed moments.

Rows need not be in memory together. A classifier of n rows of d numbers needs their sums by class
and their products [d, d], which add up over batches, views and devices.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float64, Int

from kt_jax.machine import blas

# As shares of the mean eigenvalue of the rows' covariance.
PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(-3, 2, 0.5))


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums that a ridge regression needs of its rows x [d] and their classes."""

    counts: Float64[np.ndarray, " classes"]
    """The number of rows of each class."""
    by_class: Float64[np.ndarray, "d classes"]
    """The sum of the rows of each class."""
    products: Float64[np.ndarray, "d d"]
    """The sum of x x^T."""

    def __add__(self, other: "Moments") -> "Moments":
        names = [field.name for field in dataclasses.fields(self)]
        return Moments(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, eq=False)
class Classifier:
    """The scores of a row x are x @ weights + bias; the class is that of the largest."""

    weights: Float64[np.ndarray, "d classes"]
    bias: Float64[np.ndarray, " classes"]


def moments_of(
    rows: Float64[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int
) -> Moments:
    """The moments of rows that fit in memory."""
    one_hot = np.eye(classes)[labels]
    return Moments(one_hot.sum(0), rows.T @ one_hot, rows.T @ rows)


def fit(
    moments: Moments, channels: int, penalties: Sequence[float] = PENALTIES
) -> Iterator[Classifier]:
    """Yields for each penalty the W that minimises |X W - Y|^2 + penalty n v |W|^2.

    X is the rows minus their mean, with each channel divided by its standard deviation over rows
    and positions (the batch norm without parameters of Zhang et al. 2016). Y is the one-hot labels
    minus their mean, and v is the mean variance of X. A penalty is raised if rounding makes the
    system indefinite.

    Args:
      moments: moments of the training rows.
      channels: the last axis of the map [h, w, channels]; a row is a flattened map.
      penalties: as shares of v.
    """
    rows = moments.counts.sum()
    mean, shares = moments.by_class.sum(1) / rows, moments.counts / rows
    second = np.diag(moments.products) / rows
    by_channel = mean.reshape(-1, channels).mean(0)
    variance = second.reshape(-1, channels).mean(0) - by_channel**2
    # A channel that hardly varies has no information: a smaller divisor would amplify its rounding
    # errors.
    deviation = np.sqrt(np.maximum(variance, 1e-4 * by_channel**2 + 1e-10))
    scale = 1 / np.tile(deviation, len(mean) // channels)
    covariance = (moments.products / rows - np.outer(mean, mean)) * np.outer(scale, scale)
    target = scale[:, None] * (moments.by_class / rows - np.outer(mean, shares))
    unit = np.trace(covariance) / len(mean)
    diagonal = np.einsum("ii->i", covariance)  # a view
    variances = diagonal.copy()
    shift = 0.0
    for penalty in penalties:
        added = max(penalty * unit, np.finfo(np.float32).tiny)
        with blas.decomposing(len(mean)):
            diagonal[:] = variances + added + shift
            try:
                factor = scipy.linalg.cho_factor(covariance, lower=True)
            except np.linalg.LinAlgError:
                # The sums were float32: rounding may make an eigenvalue of 0 negative.
                diagonal[:] = variances
                shift = 2 * abs(float(np.linalg.eigvalsh(covariance)[0]))
                diagonal[:] = variances + added + shift
                factor = scipy.linalg.cho_factor(covariance, lower=True)
            weights = scale[:, None] * scipy.linalg.cho_solve(factor, target)
        yield Classifier(weights, shares - mean @ weights)
