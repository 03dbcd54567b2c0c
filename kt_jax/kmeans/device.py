"""What k-means runs on the devices.

A device holds `rows` [its rows, d] of the matrix, which ends in zero rows as padding: `numbers`
are the global row numbers, and those from n on are never counted.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32


def _sharded(in_specs, out_specs):
    def decorate(local):
        def run(*arrays, chunk, mesh):
            on_device = functools.partial(local, chunk=chunk)
            return jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs)(
                *arrays
            )

        run.__name__, run.__doc__ = local.__name__, local.__doc__
        return jax.jit(run, static_argnames=("chunk", "mesh"))

    return decorate


def _numbers(rows: Float32[Array, "rows d"]) -> Int32[Array, " rows"]:
    return jax.lax.axis_index("data") * len(rows) + jnp.arange(len(rows), dtype=jnp.int32)


def _squared_to(rows, point: Float32[Array, " d"], chunk: int) -> Float32[Array, " rows"]:
    def squared(block):
        return jnp.sum(jnp.square(block - point[None]), axis=1)

    return jax.lax.map(squared, rows.reshape(-1, chunk, rows.shape[1])).reshape(-1)


def _best_row(score: Float32[Array, " rows"], rows: Float32[Array, "rows d"]):
    """Returns the highest score on all devices and its row, of equals the first."""
    at = jnp.argmax(score)
    best = jax.lax.pmax(score[at], "data")
    number = _numbers(rows)[at]
    winner = jax.lax.pmin(jnp.where(score[at] == best, number, jnp.iinfo(jnp.int32).max), "data")
    return best, jax.lax.psum(jnp.where(number == winner, rows[at], 0), "data")


@_sharded((P("data"), P(), P(), P()), P())
def seed(rows, centroids, key, n, *, chunk):
    """Returns k-means++ seeds [k, d] and how many of them could be drawn.

    Row i wins with probability proportional to D_i^2 when its log(D_i^2) - log(E_i) is the highest,
    E_i exponential noise (a race): drawn from the global row number, so the same on any mesh.
    """
    numbers = _numbers(rows)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)

    def draw(step, state):
        centroids, squared, distinct = state
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, step)
        bits = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(step_keys)
        # All 32 bits: the winner's noise is near 0, where 23 would often tie. Never 0 nor 1.
        uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
        weight = jnp.where(numbers < n, jnp.where(step == 0, 1.0, squared), 0.0)
        score = jnp.log(weight) - jnp.log(-jnp.log1p(-uniform))
        best, row = _best_row(score, rows)
        squared = jnp.minimum(squared, _squared_to(rows, row, chunk))
        return centroids.at[step].set(row), squared, distinct + (best > -jnp.inf).astype(jnp.int32)

    infinite = jax.lax.pcast(jnp.full(len(rows), jnp.inf, jnp.float32), "data", to="varying")
    state = centroids, infinite, jnp.int32(0)
    centroids, _, distinct = jax.lax.fori_loop(0, len(centroids), draw, state)
    return centroids, distinct


def _nearest_two(rows: Float32[Array, "c d"], centroids: Float32[Array, "k d"]):
    """Returns (cluster, distance^2, row - centroid) of the nearest and of the second nearest.

    One matrix product ranks the centroids by |c|^2 - 2 x.c, about the mean of the centroids: far
    from the origin these would be differences of huge numbers. The best two are then measured by
    the norm of the difference, which decides between them: no cancellation, and ties are exact.
    """
    k = len(centroids)
    centre = jnp.mean(centroids, axis=0, keepdims=True)
    centred = centroids - centre
    product = jnp.dot(rows - centre, centred.T, precision=jax.lax.Precision.HIGHEST)
    score = jnp.sum(jnp.square(centred), axis=1)[None] - 2 * product

    def measured(score):
        cluster = jnp.argmin(score, axis=1).astype(jnp.int32)
        difference = rows - centroids[cluster]
        return cluster, jnp.sum(jnp.square(difference), axis=1), difference

    first = measured(score)
    if k == 1:
        return first, (jnp.full_like(first[0], -1), jnp.full_like(first[1], jnp.inf), first[2])
    second = measured(jnp.where(jnp.arange(k)[None] == first[0][:, None], jnp.inf, score))
    swap = (second[1] < first[1]) | ((second[1] == first[1]) & (second[0] < first[0]))

    def chosen(yes, no):
        return *(jnp.where(swap, y, x) for y, x in zip(yes[:2], no[:2], strict=True)), jnp.where(
            swap[:, None], yes[2], no[2]
        )

    return chosen(second, first), chosen(first, second)


@_sharded((P("data"), P()), P("data"))
def label(rows, centroids, *, chunk):
    """Returns cluster, distance, second cluster and margin of every row."""

    def labelled(block):
        (cluster, squared, _), (second, second_squared, _) = _nearest_two(block, centroids)
        distance = jnp.sqrt(squared)
        return cluster, distance, second, jnp.sqrt(second_squared) - distance

    blocks = jax.lax.map(labelled, rows.reshape(-1, chunk, rows.shape[1]))
    return tuple(x.reshape(-1) for x in blocks)


@_sharded((P("data"), P("data"), P(), P()), (P("data"), P("data"), P(), P(), P()))
def step(rows, assignment, centroids, n, *, chunk):
    """Returns assignment, inertia of each chunk, updated centroids, sizes and rows that moved.

    A mean is summed as the centroid plus the mean difference from it, which are small numbers.
    """
    k, d = centroids.shape

    def add(totals, block):
        sums, counts, moved = totals
        block_rows, numbers, old = block
        (cluster, squared, difference), _ = _nearest_two(block_rows, centroids)
        real = numbers < n
        member = (cluster[:, None] == jnp.arange(k)[None]) & real[:, None]
        sums += jnp.dot(
            member.T.astype(jnp.float32), difference, precision=jax.lax.Precision.HIGHEST
        )
        counts += jnp.sum(member, axis=0, dtype=jnp.int32)
        moved += jnp.sum(real & (cluster != old), dtype=jnp.int32)
        return (sums, counts, moved), (cluster, jnp.sum(jnp.where(real, squared, 0)))

    zeros = jnp.zeros((k, d), jnp.float32), jnp.zeros(k, jnp.int32), jnp.int32(0)
    blocks = (
        rows.reshape(-1, chunk, d),
        _numbers(rows).reshape(-1, chunk),
        assignment.reshape(-1, chunk),
    )
    totals, (cluster, inertia) = jax.lax.scan(
        add, jax.lax.pcast(zeros, "data", to="varying"), blocks
    )
    sums, counts, moved = jax.lax.psum(totals, "data")
    updated = centroids + sums / jnp.maximum(counts, 1)[:, None].astype(jnp.float32)
    return cluster.reshape(-1), inertia, updated, counts, moved


@_sharded((P("data"), P("data"), P(), P(), P(), P()), (P(), P()))
def repair(rows, assignment, centroids, order, empties, n, *, chunk):
    """Moves the clusters order[:empties] to the rows farthest from all that they could join."""

    def squared_to_own(block):
        block_rows, cluster = block
        return jnp.sum(jnp.square(block_rows - centroids[cluster]), axis=1)

    blocks = rows.reshape(-1, chunk, rows.shape[1]), assignment.reshape(-1, chunk)
    squared = jax.lax.map(squared_to_own, blocks).reshape(-1)
    squared = jnp.where(_numbers(rows) < n, squared, -1.0)

    def move(e, state):
        centroids, squared, moved = state
        best, row = _best_row(squared, rows)
        row = jnp.where(best > 0, row, centroids[order[e]])  # every row has its centroid: stay
        squared = jnp.minimum(squared, _squared_to(rows, row, chunk))
        return centroids.at[order[e]].set(row), squared, moved + (best > 0).astype(jnp.int32)

    state = centroids, squared, jnp.int32(0)
    centroids, _, moved = jax.lax.fori_loop(0, empties, move, state)
    return centroids, moved
