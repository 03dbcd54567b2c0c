"""Sums of the rows of each cluster: by scatters or by matrix products, without a loss of digits."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float32, Int32

from kt_jax.kmeans import device
from kt_jax.kmeans.device import over_chunks

# In these jaxlibs, float32 scatter-add on GPUs before Hopper is a compare-and-swap loop: up to
# thousands of times slower.
_SLOW_SCATTER = {"0.10.2", "0.11.0"}

# Rows per lane of sums, as a multiple of k: the sums of all lanes are small compared with the rows.
# And their largest number: if no more rows move in an iteration, one lane has them all.
_LANE_SHARE = 64
_MOST_LANE_ROWS = 4096

# If at most this share of the rows moved, a matrix product sums only these, so many at a time.
_FEW_MOVED = 1 / 4
_GATHERED = 512

# Sums [k, d] as pairs of float32 values and their rounding errors, see `_two_sum`.
Sums = tuple[Float32[Array, "k d"], Float32[Array, "k d"]]


def update_method(on: Any) -> str:
    """Returns how sums are computed on a device: "scatter", "two scatters" or "one-hot".

    "one-hot" is three matrix products of bfloat16. On a CPU, a scatter takes a few per cent of the
    time of a product (benchmarks/kmeans.md). A TPU's scatter reads and writes eight rows for each
    that it adds. A GPU adds atomically, but does not subtract: rows that leave a cluster are added
    up separately, and their sums are subtracted. GPUs before Hopper need a jaxlib that does so.
    """
    if on.platform != "gpu":
        return "one-hot" if on.platform == "tpu" else "scatter"
    # "9.0" on an H100, "8.0" on an A100, "gfx942" on an AMD GPU.
    major = str(getattr(on, "compute_capability", "")).split(".")[0]
    is_old = jax.lib.__version__ in _SLOW_SCATTER and not (major.isdigit() and int(major) >= 9)
    return "one-hot" if is_old else "two scatters"


def add(
    setting: device.Setting,
    sums: Sums,
    values: Float32[Array, "rows d"],
    came: Int32[Array, " rows"],
    left: Int32[Array, " rows"],
) -> Sums:
    """Adds rows to the sums of their new clusters, and subtracts them from their old clusters.

    The error of a sum of m rows x is at most min(m, lane) 2^-24 sum |x|: the rows of a lane are
    added up one after another in float32. Sums over lanes, blocks and iterations have no loss. The
    sum over devices has one rounding.
    """
    k, d = sums[0].shape
    lane = min(max(_LANE_SHARE * k, device.LANE_ROWS), _MOST_LANE_ROWS)
    method = update_method(setting.mesh.devices.flat[0])
    if method == "one-hot":
        return _add_products(setting, sums, values, came, left, lane)

    def scatter(lanes):
        first = jnp.arange(len(values), dtype=jnp.int32) // -(-len(values) // lanes) * k
        places = (jnp.where(x < k, first + x, lanes * k) for x in (came, left))
        change = device.varying(jnp.zeros((lanes * k, d), jnp.float32))
        to, of = places
        if method == "scatter":
            change = change.at[to].add(values, mode="drop").at[of].subtract(values, mode="drop")
        else:
            # Without the barriers, XLA turns the second addition into a subtraction.
            won, lost = (change.at[at].add(values, mode="drop") for at in (to, of))
            change = lax.optimization_barrier(won) - lax.optimization_barrier(lost)
        return _joined(change.reshape(lanes, k, d))

    lanes = -(-len(values) // lane)
    if lanes == 1:
        return plus(sums, *scatter(1))
    few = jnp.sum((came < k) | (left < k), dtype=jnp.int32) <= lane
    return plus(sums, *lax.cond(few, lambda: scatter(1), lambda: scatter(lanes)))


def _add_products(
    setting: device.Setting,
    sums: Sums,
    values: Float32[Array, "rows d"],
    came: Int32[Array, " rows"],
    left: Int32[Array, " rows"],
    lane: int,
) -> Sums:
    """Does the same as `add` by matrix products, of the rows that moved if these are few."""
    k, beyond = len(sums[0]), len(values)
    moved = (came < k) | (left < k)
    count = jnp.sum(moved, dtype=jnp.int32)
    size = min(_GATHERED, beyond)

    def change(rows, came, left):
        """The sums of lanes, [lanes, k, d]."""
        return _signed_sums(setting, _members(came, k) - _members(left, k), rows)

    def add_all(sums):
        rows = setting.chunk
        while rows > lane and rows % 2 == 0:  # without lanes, a TPU adds to the sums at once
            rows //= 2
        lanes = -(-rows // lane)

        def add_chunk(sums, *chunk):
            split = (device.in_lanes(x, -(-rows // lanes)) for x in chunk)
            return plus(sums, *_joined(change(*split))), ()

        halved = dataclasses.replace(setting, chunk=rows)
        return over_chunks(halved, add_chunk, sums, values, came, left)[0]

    def add_moved(sums):
        order = jnp.flatnonzero(moved, size=-(-beyond // size) * size, fill_value=beyond)

        def add_some(carry):
            number, sums = carry
            at = lax.dynamic_slice(order, (number * size,), (size,))
            rows = jnp.take(values, at, axis=0, mode="clip")
            clusters = (x.at[at].get(mode="fill", fill_value=k) for x in (came, left))
            return number + 1, plus(sums, *_joined(change(*(x[None] for x in (rows, *clusters)))))

        start = device.varying(jnp.int32(0))
        return lax.while_loop(lambda carry: carry[0] * size < count, add_some, (start, sums))[1]

    return lax.cond(count <= int(_FEW_MOVED * beyond), add_moved, add_all, sums)


def _members(cluster: Int32[Array, "lanes rows"], k: int) -> BFloat16[Array, "lanes rows k"]:
    """Returns 1 where a row belongs to the cluster, else 0."""
    every = jnp.arange(k, dtype=jnp.int32)[None, None]
    return (cluster[:, :, None] == every).astype(jnp.bfloat16)


def _signed_sums(
    setting: device.Setting,
    signs: BFloat16[Array, "lanes rows k"],
    rows: Float32[Array, "lanes rows d"],
) -> Float32[Array, "lanes k d"]:
    """Returns the rows' sums by cluster, times -1, 0 or 1, which are exact in bfloat16.

    Three products of bfloat16, in which a float32 number is the sum of three, lose nothing.
    float32 signs would take twice as many.
    """

    def multiply(rows, precision=lax.Precision.DEFAULT):
        return lax.dot_general(
            signs, rows, (((1,), (1,)), ((0,), (0,))),
            precision=precision, preferred_element_type=jnp.float32,
        )  # fmt: skip

    if setting.platform != "gpu":
        return multiply(rows, lax.Precision.HIGHEST)
    # XLA would convert the signs to float32, for which GPUs have no fast products.
    high = device.rounded(rows)
    middle = device.rounded(rows - high)
    parts = high, middle, rows - high - middle
    return functools.reduce(jnp.add, (multiply(x.astype(jnp.bfloat16)) for x in reversed(parts)))


def _two_sum(a: Float32[Array, "..."], b: Float32[Array, "..."]) -> tuple[Array, Array]:
    """Returns a + b as float32, and its rounding error (Knuth's two-sum: exact).

    Otherwise a large sum would lose the small contributions of many blocks and iterations.
    """
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def plus(
    sums: Sums, change: Float32[Array, "k d"], lost: Float32[Array, "k d"] | None = None
) -> Sums:
    """Adds a change, and its rounding error if it has one, to pairs of sums and rounding errors."""
    total, error = _two_sum(sums[0], change)
    rest = sums[1] if lost is None else sums[1] + lost
    return total, rest + error


def _joined(lanes: Float32[Array, "lanes k d"]) -> Sums:
    """Adds up the sums of the lanes pairwise."""
    high, low = lanes, jnp.zeros_like(lanes)
    while len(high) > 1:
        pairs = (device.in_lanes(x, 2) for x in (high, low))
        (high, other), (low, more) = (jnp.moveaxis(x, 1, 0) for x in pairs)
        high, lost = _two_sum(high, other)
        low = low + more + lost
    return high[0], low[0]
