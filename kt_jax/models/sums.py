"""Sums over large arrays. On XLA:CPU a `sum` takes ten times as long as adding slices.

XLA:CPU rewrites a `sum` to windows of 32. They are neither vectorised nor fused with the
computation of the summands, so squares are first written to memory. Other platforms use the plain
`sum`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call
from jaxtyping import Array, Float

_MOST_SLICES = 13  # AlexNet's maps of 13 x 13 have no other divisor


def channel_sums(x: Float[Array, "*n c"]) -> Float[Array, " c"]:
    """Sums over all axes but the last.

    >>> channel_sums(jnp.arange(6.0).reshape(3, 2)).tolist()
    [6.0, 9.0]
    """
    return linear_call(_sum, lambda _, sums: jnp.broadcast_to(sums, x.shape), (), x)


def spread(values: Float[Array, " c"], shape: tuple[int, ...]) -> Float[Array, "*n c"]:
    """Broadcasts along the last axis; its gradient is `channel_sums`, not a `sum`.

    >>> spread(jnp.ones(2), (3, 2)).shape
    (3, 2)
    """
    return linear_call(lambda _, values: jnp.broadcast_to(values, shape), _sum, (), values)


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all arrays of a tree together.

    >>> float(global_norm({"a": jnp.full(4, 2.0), "b": jnp.full((3, 3), 1.0)}))
    5.0
    """
    return jnp.sqrt(sum(_sum_of_squares(x) for x in jax.tree.leaves(tree)))


def _sum(_: tuple[()], x: Array) -> Array:
    """Sums over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    # Slices are along the positions of a map, not along the first axis: devices share the batch.
    count = _slices(math.prod(x.shape[1:-1]))

    def by_slices(x: Array) -> Array:
        slices = x.reshape(x.shape[0], count, -1, x.shape[-1])
        return functools.reduce(jnp.add, [slices[:, i] for i in range(count)]).sum((0, 1))

    if count == 1:
        return x.sum(axes)
    return jax.lax.platform_dependent(x, cpu=by_slices, default=lambda x: x.sum(axes))


def _sum_of_squares(x: Array) -> Array:
    count = _slices(x.size)

    def by_slices(x: Array) -> Array:
        slices = x.reshape(count, -1)
        return functools.reduce(jnp.add, [jnp.square(each) for each in slices]).sum()

    if count == 1:
        return jnp.square(x).sum()
    return jax.lax.platform_dependent(x, cpu=by_slices, default=lambda x: jnp.square(x).sum())


def _slices(size: int) -> int:
    """The largest number of equal slices, up to 13. More take longer to compile, and save nothing.

    The result is 1 (the plain `sum`) if the size has no such divisor.
    """
    return max(count for count in range(1, _MOST_SLICES + 1) if size % count == 0)
