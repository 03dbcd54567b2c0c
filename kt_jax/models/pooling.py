"""Maxima over windows of maps."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kt_jax.models.layers import keep


def pooled_size(size: int, window: int, stride: int) -> int:
    """The side of a map of side `size` after pooling in Caffe's ceil mode."""
    return -(-(size - window) // stride) + 1


def max_pool(
    x: Float[Array, "n h w c"], window: int, stride: int, *, ceil: bool = False
) -> Float[Array, "n p q c"]:
    """Maxima over window x window squares.

    `ceil` keeps the last, incomplete window, as Caffe does: the map is padded with -inf at the
    right and at the bottom. TPUs have an operation for the gradient of `reduce_window`. XLA turns
    it into scatters on CPUs and GPUs, which therefore compute maxima of strided slices.

    Raises:
      ValueError: the map is smaller than a window.
    """
    height, width = x.shape[1:3]
    if ceil:
        rows, columns = (pooled_size(side, window, stride) for side in (height, width))
        extra = [(n - 1) * stride + window - side for n, side in ((rows, height), (columns, width))]
        padding = ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0))
    else:
        rows, columns = ((side - window) // stride + 1 for side in (height, width))
        padding = None
    if min(rows, columns) < 1:
        raise ValueError(f"no window of {window} x {window} fits a map of {height} x {width}")

    def maximum(x: Array, axis: int, count: int) -> Array:
        slices = [
            jax.lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
            for start in range(window)
        ]
        return functools.reduce(_larger, slices)

    def by_slices(x: Array) -> Array:
        return maximum(maximum(x, 1, rows), 2, columns)

    def by_windows(x: Array) -> Array:
        windows, strides = (1, window, window, 1), (1, stride, stride, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, windows, strides, "VALID")

    # Exports recognise the operation by this name; profiles show it.
    with jax.named_scope(f"max_pool_{window}_{stride}"):
        if padding is not None:
            x = jnp.pad(x, padding, constant_values=-jnp.inf)
        return keep(jax.lax.platform_dependent(x, tpu=by_windows, default=by_slices))


def _larger(a: Array, b: Array) -> Array:
    """The maximum, or NaN. If values are equal, `a` gets the gradient.

    jnp.maximum finds the operand of the gradient by comparing operands with the result. If XLA:CPU
    computes an operand twice with different rounding, neither is equal, and the gradient is lost.
    """
    return jnp.where((a >= b) | (a != a), a, b)


def pool(x: Float[Array, "n *h_w c"], grid: int) -> Float[Array, "n *g_g c"]:
    """Maxima over grid x grid nearly equal windows. Vectors and smaller maps do not change.

    Window i covers floor(i h / g) .. ceil((i + 1) h / g), as in PyTorch.

    >>> pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    for axis in range(1, x.ndim - 1):
        side = x.shape[axis]
        if side > grid:
            windows = [(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
            maxima = [
                jax.lax.slice_in_dim(x, start, stop, axis=axis).max(axis) for start, stop in windows
            ]
            x = jnp.stack(maxima, axis)
    return x
