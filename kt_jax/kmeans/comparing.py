"""Comparisons of rows with centroids, by one matrix product: scores, the lowest, labels."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int32

from kt_jax.kmeans import device
from kt_jax.kmeans.device import over_chunks, program

# Scores are searched in groups: first the minimum of each group, then within the best group. XLA
# makes vector code for a minimum, but not for an argmin.
GROUP = 8


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "square", "rounding", "length", "numbers", "weight"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Points:
    """Centroids c minus the origin, prepared for comparison, padded to whole groups."""

    values: Any  # float32 [p, d]
    square: Any  # float32 [p]: |c|^2 minus the weight; inf for padding
    rounding: Any  # float32 [p]: |c - c'| for c' = bfloat16(c), plus the error of the sum
    length: Any  # float32 [p]: |c|
    numbers: Any  # int32 [p]: ascending
    weight: Any = None  # float32 [p]: subtracted from squared distances in comparisons


@functools.partial(jax.jit, static_argnames="size")
def points(
    values: Float32[Array, "p d"],
    numbers: Int32[Array, " p"],
    keep: Bool[Array, " p"] | None = None,
    *,
    size: int,
) -> Points:
    """Returns the values marked by `keep` (None: all) as Points; `size` is rounded to groups."""
    length = device.lengths(values)
    # d 2^-24 |x'| |c'| bounds the error of a float32 sum of d products.
    rounding = device.lengths(values - device.rounded(values)) + values.shape[1] * 2.0**-24 * length
    all_of_them = Points(values, jnp.sum(jnp.square(values), axis=1), rounding, length, numbers)
    size = -(-size // GROUP) * GROUP
    places = (
        jnp.arange(len(values))
        if keep is None
        else jnp.flatnonzero(keep, size=size, fill_value=len(values))
    )
    places = jnp.pad(places, (0, size - len(places)), constant_values=len(values))
    chosen = jax.tree.map(lambda x: x.at[places].get(mode="fill", fill_value=0), all_of_them)
    padding = places == len(values)
    return dataclasses.replace(
        chosen,
        square=jnp.where(padding, jnp.inf, chosen.square),
        numbers=jnp.where(padding, numbers[-1], chosen.numbers),
    )


def products(
    values: Float[Array, "p d"], rows: Float[Array, "rows d"], precision: str
) -> Float32[Array, "p rows"]:
    """Returns values @ rows.T in the named precision, with float32 sums."""
    how: Any = {
        "float32": lax.Precision.HIGHEST,
        "tensorfloat32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    }.get(precision, lax.Precision.DEFAULT)
    if how is lax.Precision.DEFAULT:
        values, rows = values.astype(jnp.bfloat16), rows.astype(jnp.bfloat16)
    product = lax.dot_general(
        values, rows, (((1,), (1,)), ((), ())), precision=how, preferred_element_type=jnp.float32
    )
    # XLA for TPUs would fuse the product with the search for the lowest score and with the slice
    # of a chunk of rows. By libtpu's estimate the fused product takes 1.8 times as long.
    return lax.platform_dependent(product, tpu=lax.optimization_barrier, default=lambda x: x)


def doubled(to: Points, precision: str) -> Float[Array, "p d"]:
    """Returns -2 c in the dtype of the products. Before a loop over chunks it is computed once."""
    values = -2 * to.values
    return values.astype(jnp.bfloat16) if precision == "bfloat16" else values


def scores(
    rows: Float[Array, "rows d"],
    to: Points,
    precision: str,
    minus_two: Float[Array, "p d"] | None = None,
) -> Float32[Array, "p rows"]:
    """Returns |c|^2 - 2 c.x: squared distances minus |x|^2, which is equal for all centroids.

    If the centroids have weights, these are subtracted too. `minus_two` is `doubled(to)`.
    """
    minus_two = doubled(to, precision) if minus_two is None else minus_two
    return to.square[:, None] + products(minus_two, rows, precision)


def lowest(score: Float32[Array, "p rows"]) -> tuple[Array, Array, Array]:
    """Returns each row's first index of the lowest score, the lowest and the next score."""
    score = score.reshape(-1, GROUP, score.shape[1])
    of_group = jnp.min(score, axis=1)
    best_group = jnp.argmin(of_group, axis=0).astype(jnp.int32)
    within = jnp.take_along_axis(score, best_group[None, None], axis=0)[0]
    place = jnp.argmin(within, axis=0).astype(jnp.int32)
    low = jnp.min(within, axis=0)

    def without(values, at):
        others = jnp.arange(len(values), dtype=jnp.int32)[:, None] != at[None]
        return jnp.min(jnp.where(others, values, jnp.inf), axis=0)

    following = jnp.minimum(without(within, place), without(of_group, best_group))
    return best_group * GROUP + place, low, following


def nearest_two(
    rows: Float32[Array, "rows d"], to: Points, precision: str
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Returns (cluster, distance^2) of the nearest and of the second nearest centroid.

    One matrix product ranks the centroids. The best two are then compared by the norm of the
    difference, which has no cancellation, so that ties between two are exact. With weights, the
    nearest has the smallest distance^2 - weight; the returned distances do not include weights.
    """
    score = scores(rows, to, precision)

    def measured(score):
        place, low, _ = lowest(score)
        squared = jnp.sum(jnp.square(rows - to.values[place]), axis=1)
        squared = jnp.where(jnp.isposinf(low), jnp.inf, squared)
        compared = squared if to.weight is None else squared - to.weight[place]
        return to.numbers[place], squared, compared, place

    *first, place = measured(score)
    taken = jnp.arange(len(score), dtype=jnp.int32)[:, None] == place[None]
    *second, _ = measured(jnp.where(taken, jnp.inf, score))
    swap = (second[2] < first[2]) | ((second[2] == first[2]) & (second[0] < first[0]))

    def chosen(yes, no):
        return jnp.where(swap, yes[0], no[0]), jnp.where(swap, yes[1], no[1])

    return chosen(second, first), chosen(first, second)


@program((P("data"), P(), P()), P("data"))
def label(setting, block, to, valid):
    """Returns cluster, distance, second cluster and margin of every row.

    Chunks that are only padding are skipped.
    """

    def labelled(rows):
        (cluster, squared), (second, second_squared) = nearest_two(rows, to, setting.precision)
        distance = jnp.sqrt(squared)
        return cluster, distance, second, jnp.sqrt(second_squared) - distance

    def nothing(rows):
        kinds = jax.eval_shape(labelled, rows)
        return device.varying(tuple(jnp.zeros(kind.shape, kind.dtype) for kind in kinds))

    def run(carry, rows, real):
        return carry, lax.cond(real[0], labelled, nothing, rows)

    real = device.numbers(block.square) < valid
    return over_chunks(setting, run, None, block.values, real)[1]
