"""Lloyd's iteration on one block: nearest centroids, and the sums for the next centroids.

The result is exact, but most comparisons are skipped. Each row keeps its cluster, an upper bound on
the score of this cluster, and a lower bound on the scores of all others. If few centroids changed,
rows are compared only with these: the score of an unchanged centroid stays the same. The precision
"exact" compares by bfloat16 products, whose rounding error has a bound. Rows that stay undecided
("open") are gathered and compared with all centroids in float32. Shapes are static; the number of
chunks is not.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int32

from kt_jax.kmeans import device
from kt_jax.kmeans.device import Points, over_chunks, program

# In these jaxlibs, float32 scatter-add on GPUs is a compare-and-swap loop: up to thousands of times
# slower.
_SLOW_SCATTER = {"0.10.2", "0.11.0"}

# Rows per lane of sums, as a multiple of k: the sums of all lanes are small compared with the rows.
# And their largest number: if no more rows move in an iteration, one lane has them all.
_LANE_SHARE = 64
_MOST_LANE_ROWS = 4096

_RESCUED = 256  # open rows compared at a time; the last chunk is seldom full

State = tuple[Array, Array, Array]  # int32 cluster, float32 upper, float32 lower: [rows] each


def update_method(platform: str) -> str:
    """Returns how sums are computed: "scatter", "two scatters" or "one-hot".

    "one-hot" is a matrix product, as slow as the product for the scores. On a CPU, a scatter takes
    a few per cent of this time (benchmarks/kmeans.md). A TPU runs a scatter as a loop, as do some
    jaxlibs on a GPU. Other jaxlibs have an atomic addition on a GPU, but no subtraction: rows that
    leave a cluster are added up separately, and their sums are subtracted.
    """
    if platform == "tpu" or (platform == "gpu" and jax.lib.__version__ in _SLOW_SCATTER):
        return "one-hot"
    return "two scatters" if platform == "gpu" else "scatter"


_TOTALS = P(None, "data"), P("data"), P("data")


@program((P("data"), P("data"), _TOTALS) + (P(),) * 5, (P("data"), _TOTALS), donate=(1, 2))
def step(setting, block, state, totals, subset, every, changed, full, anew):
    """Returns (cluster, upper, lower) of every row, and the totals so far.

    Args:
      setting: settings of the call.
      block: Prepared rows.
      state: the state of these rows after the last iteration.
      totals: changes of the clusters on each device so far, by rows that moved: sums [2, k, d] (in
        two parts, see `_two_sum`), counts [k], and the number of moved rows [1].
      subset: the centroids that changed.
      every: all centroids.
      changed: bool [k], marks the centroids that changed.
      full: whether subset has all centroids. Then only the clusters of `state` are used.
      anew: whether totals are sums over all rows, not only over those that moved.
    """

    def settle(carry, *chunk):
        return carry, _compare(setting, chunk[:3], chunk[3:], subset, every, changed, full)

    rows = block.values, block.rounding, block.length
    _, (*found, is_open) = over_chunks(setting, settle, None, *rows, *state)
    found = _rescue(setting, block.values, tuple(found), is_open & block.counts, every)
    moves = block.moves & (found[0] != state[0])
    joins = jnp.where(anew, block.moves, moves)
    leaves = moves & ~anew & (state[0] >= 0)
    sums, counts, moved = totals
    moved += jnp.sum(moves, dtype=jnp.int32)
    k = len(counts)  # an index after the last: dropped
    came, left = jnp.where(joins, found[0], k), jnp.where(leaves, state[0], k)
    counts = counts.at[came].add(1, mode="drop").at[left].add(-1, mode="drop")
    return found, (_add(setting, sums, _weighted(block), came, left), counts, moved)


def _weighted(block: device.Prepared) -> Float32[Array, "rows _"]:
    """Returns the rows times their weights, and these in a last column; without weights the rows.

    So the sums of clusters have the sum of their weights in a last column.
    """
    if block.weight is None:
        return block.values
    weight = block.weight[:, None]
    return jnp.concatenate([block.values * weight, weight], axis=1)


def _compare(
    setting: device.Setting,
    rows: tuple[Array, Array, Array],
    state: State,
    subset: Points,
    every: Points,
    changed: Bool[Array, " k"],
    full: Bool[Array, ""],
) -> tuple[Array, Array, Array, Bool[Array, " rows"]]:
    """Returns the new state of a chunk (values, rounding, length), and which rows are open."""
    values, rounding, length = rows
    cluster, upper, lower = state
    exact = setting.precision == "exact"
    score = device.scores(values, subset, "bfloat16" if exact else setting.precision)
    if exact:
        columns = jax.tree.map(lambda x: x[:, None], (subset.rounding, subset.length))
        score = score - _rounding(rounding[None], length[None], *columns)
    at, low, following = device.lowest(score)
    new = subset.numbers[at]
    old = jnp.maximum(cluster, 0)  # -1 before the first iteration
    width, width_old = jnp.zeros_like(low), jnp.zeros_like(low)
    if exact:
        width = 2 * _rounding(rounding, length, subset.rounding[at], subset.length[at])
        width_old = 2 * _rounding(rounding, length, every.rounding[old], every.length[old])
    unchanged = ~(full | changed[old])
    low_old = jnp.where(unchanged, upper - width_old, jnp.inf)
    others = jnp.where(full, jnp.inf, lower)

    stay = (low_old < low) | ((low_old == low) & (cluster < new))
    rest = jnp.minimum(others, jnp.where(stay, low, jnp.minimum(following, low_old)))
    upper = jnp.where(stay, upper, low + width)
    # Without rounding, ties go to the lowest number. But which centroid has `others` is unknown.
    is_open = ~(upper < (rest if exact else others))
    return jnp.where(stay, cluster, new), upper, rest, is_open


def _rounding(
    rounding: Float32[Array, "*#rows"],
    length: Float32[Array, "*#rows"],
    point_rounding: Float32[Array, "*#points"],
    point_length: Float32[Array, "*#points"],
) -> Float32[Array, "..."]:
    """Returns the bound on the error of bfloat16 scores, for rows x and centroids c.

    |2 x.c - 2 x'.c'| <= 2 |x - x'| |c| + 2 |x'| |c - c'| for x', c' rounded.
    """
    return 2 * (rounding * point_length + length * point_rounding)


def _rescue(
    setting: device.Setting,
    values: Float32[Array, "rows d"],
    state: State,
    is_open: Bool[Array, " rows"],
    every: Points,
) -> State:
    """Gathers the open rows into chunks, and compares them with all centroids in float32."""
    count, beyond = jnp.sum(is_open, dtype=jnp.int32), len(is_open)
    chunk = min(_RESCUED, beyond)
    order = jnp.flatnonzero(is_open, size=-(-beyond // chunk) * chunk, fill_value=beyond)
    precision = "float32" if setting.precision == "exact" else setting.precision

    def go_on(carry):
        return carry[0] * chunk < count

    def compare(carry):
        number, state = carry
        at = lax.dynamic_slice(order, (number * chunk,), (chunk,))
        rows = jnp.take(values, at, axis=0, mode="clip")
        place, low, following = device.lowest(device.scores(rows, every, precision))
        found = every.numbers[place], low, following
        return number + 1, tuple(
            x.at[at].set(y, mode="drop") for x, y in zip(state, found, strict=True)
        )

    start = device.varying(jnp.int32(0))
    return lax.while_loop(go_on, compare, (start, state))[1]


def _add(
    setting: device.Setting,
    sums: Float32[Array, "2 k d"],
    values: Float32[Array, "rows d"],
    came: Int32[Array, " rows"],
    left: Int32[Array, " rows"],
) -> Float32[Array, "2 k d"]:
    """Adds rows to the sums of their new clusters, and subtracts them from their old clusters.

    The error of a sum of m rows x is at most min(m, lane) 2^-24 sum |x|: the rows of a lane are
    added up one after another in float32. Sums over lanes, blocks and iterations have no loss. The
    sum over devices has one rounding.
    """
    k, d = sums.shape[1:]
    lane = min(max(_LANE_SHARE * k, device.LANE_ROWS), _MOST_LANE_ROWS)
    method = update_method(setting.platform)
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
        return plus(sums, scatter(1))
    few = jnp.sum((came < k) | (left < k), dtype=jnp.int32) <= lane
    return plus(sums, lax.cond(few, lambda: scatter(1), lambda: scatter(lanes)))


def _add_products(
    setting: device.Setting,
    sums: Float32[Array, "2 k d"],
    values: Float32[Array, "rows d"],
    came: Int32[Array, " rows"],
    left: Int32[Array, " rows"],
    lane: int,
) -> Float32[Array, "2 k d"]:
    """Does the same as `_add` by matrix products."""
    k = sums.shape[1]

    def add(sums, *chunk):
        def member(cluster):
            every = jnp.arange(k, dtype=jnp.int32)[None, None]
            return (cluster[:, :, None] == every).astype(jnp.float32)

        rows, came, left = (device.in_lanes(x, min(lane, setting.chunk)) for x in chunk)
        signs = member(came) - member(left)
        precision = lax.Precision.HIGHEST
        change = jnp.einsum("lrk,lrd->lkd", signs, rows, precision=precision)
        return plus(sums, _joined(change)), ()

    return over_chunks(setting, add, sums, values, came, left)[0]


def _two_sum(a: Float32[Array, "..."], b: Float32[Array, "..."]) -> tuple[Array, Array]:
    """Returns a + b as float32, and its rounding error (Knuth's two-sum: exact).

    Otherwise a large sum would lose the small contributions of many blocks and iterations.
    """
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def plus(sums: Float32[Array, "2 k d"], change: Float32[Array, "2 k d"]) -> Float32[Array, "2 k d"]:
    """Adds sums that are pairs of a float32 value and its rounding error."""
    total, lost = _two_sum(sums[0], change[0])
    return jnp.stack([total, sums[1] + change[1] + lost])


def _joined(lanes: Float32[Array, "lanes k d"]) -> Float32[Array, "2 k d"]:
    """Adds up the sums of the lanes pairwise."""
    high, low = lanes, jnp.zeros_like(lanes)
    while len(high) > 1:
        pairs = (device.in_lanes(x, 2) for x in (high, low))
        (high, other), (low, more) = (jnp.moveaxis(x, 1, 0) for x in pairs)
        high, lost = _two_sum(high, other)
        low = low + more + lost
    return jnp.concatenate([high, low])


@program((P(),), _TOTALS)
def zero_totals(setting, like):
    """Returns zero totals for `step`; `like` has the shape of the sums of clusters."""
    sums = jnp.zeros((2, *like.shape), jnp.float32)
    zeros = sums, jnp.zeros(len(like), jnp.int32), jnp.zeros(1, jnp.int32)
    return device.varying(zeros)


@program((_TOTALS, P(), P(), P(), P()), P())
def update(setting, totals, sums, counts, centroids, origin):
    """Returns new sums, sizes and centroids, the rows moved, and the inertia's cluster terms.

    The term of cluster j uses its old centroid, and leaves out the rows' squared distances from
    the origin: n_j |c_j|^2 - 2 c_j.S_j, with S_j the sum of the cluster's rows. With weights, n_j
    is the sum of the rows' weights (see `_weighted`). Sizes are numbers of rows that weigh.
    """
    change, gained, moved = lax.psum(totals, "data")
    sums = plus(sums, change)
    counts += gained
    number, old, total = counts.astype(jnp.float32), centroids - origin[None], sums[0] + sums[1]
    least = jnp.maximum(number, 1)
    if total.shape != centroids.shape:
        number, total = total[:, -1], total[:, :-1]
        least = jnp.where(counts > 0, number, 1)
    share = number * jnp.sum(jnp.square(old), axis=1) - 2 * jnp.sum(old * total, axis=1)
    new = origin[None] + total / least[:, None]
    if setting.spherical:
        length = jnp.sqrt(jnp.sum(jnp.square(new), axis=1, keepdims=True))
        new = jnp.where(length > 0, new / jnp.where(length > 0, length, 1), centroids)
    new = jnp.where(counts[:, None] > 0, new, centroids)
    return sums, counts, new, moved[0], share


@program((P("data"), P("data"), P()), P("data"))
def own_squared(setting, block, cluster, every):
    """Returns each row's squared distance from its own centroid, or -1 if the row moves nothing."""

    def measure(carry, rows, cluster):
        return carry, jnp.sum(jnp.square(rows - every.values[cluster]), axis=1)

    _, squared = over_chunks(setting, measure, None, block.values, cluster)
    return jnp.where(block.moves, squared, -1)


@program(P("data"), P("data"))
def highest(setting, score, *, count: int):
    """Returns each device's highest scores, and their positions in the block."""
    top, at = lax.top_k(score, min(count, len(score)))
    return top, device.numbers(score)[at]
