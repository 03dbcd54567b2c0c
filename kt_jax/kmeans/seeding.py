"""Where Lloyd's iteration starts: random rows, k-means++ or k-means||.

k-means++ (Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007) takes row
i as the next seed with probability proportional to D_i^2, its squared distance to the nearest
seed. As in their experiments several rows are drawn and the one is kept that lowers sum D^2 most.
k-means|| (Bahmani et al., "Scalable k-means++", 2012) draws many rows at a time in a few passes,
weighs each with the rows nearest to it, and reduces them to k by weighted k-means++.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, Int

from kt_jax.kmeans import device, rows

METHODS = ("k-means||", "k-means++", "random")

_PASSES = 5  # of k-means||, after the first draw
_DRAWN = 0.8  # rows that each draws, in clusters: 4.8 candidates a cluster in all
_ALL_ROWS = 10  # up to so many rows a cluster, all are candidates of k-means||
_MOST_CANDIDATES = 2**14  # whose distances from one another are kept: 1 GiB


def draw(
    matrix: rows.Rows, k: int, init: str, seed: int, restart: int
) -> Float32[np.ndarray, "k d"]:
    """Returns k seeds, rows as they are compared (but not less the origin).

    The same on every mesh, but for rounding. Two seeds may be equal rows; Lloyd's iteration
    then finds one cluster empty and moves it.
    """
    rng = np.random.default_rng([seed, restart, k])
    if k == matrix.n:
        chosen = np.arange(k)
    elif init == "random":
        chosen = np.sort(rng.choice(matrix.n, k, replace=False, shuffle=False))
    elif init == "k-means++" or matrix.n <= min(_MOST_CANDIDATES, _ALL_ROWS * k):
        few = matrix.n <= _MOST_CANDIDATES
        squared_to = (
            _measure_few(_centred(matrix, np.arange(matrix.n))) if few else _measure_rows(matrix)
        )
        chosen = _greedy(squared_to, np.ones(matrix.n), k, rng)
    else:
        chosen = _draw_in_passes(matrix, k, rng)
    return matrix.take(chosen)


def count_distinct(matrix: rows.Rows, enough: int) -> int:
    """Returns how many rows differ, as they are compared; `enough` if there are that many."""
    seen: set[bytes] = set()

    def look(number: int, block: device.Prepared) -> None:
        if len(seen) < enough:
            values = matrix.fetch(block.values)[: matrix.valid(number)] + 0.0  # -0.0 is 0.0
            seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in values)

    matrix.for_each(look)
    return min(len(seen), enough)


def _greedy(
    squared_to: Callable[[Int[np.ndarray, " t"]], Float[np.ndarray, "t n"]],
    weights: Float[np.ndarray, " n"],
    k: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " k"]:
    """Returns the numbers of k seeds by greedy k-means++ with weighted rows.

    `squared_to(numbers)` gives the squared distances of all rows to a few of them.
    """
    trials = 2 + int(np.log(k))
    chosen = np.zeros(k, np.int64)
    nearest = np.full(len(weights), np.inf)
    for step in range(k):
        chance = np.cumsum(weights * nearest if step else weights)
        # Only equal rows left: any will do, and Lloyd's iteration moves what stays empty.
        count = trials if step and chance[-1] > 0 else 1
        drawn = np.searchsorted(chance, rng.random(count) * chance[-1], side="right")
        drawn = np.minimum(drawn, len(weights) - 1)
        after = np.minimum(nearest, squared_to(drawn))
        best = int(np.argmin(after @ weights))
        chosen[step], nearest = drawn[best], after[best]
        nearest[drawn[best]] = 0
    return chosen


def _measure_rows(matrix: rows.Rows) -> Any:
    def squared_to(numbers: np.ndarray) -> np.ndarray:
        to = _points(matrix, numbers)
        parts = matrix.for_each(lambda _, block: _distances(matrix.setting, block, to))
        return matrix.join(parts)[:, : len(numbers)].T

    return squared_to


def _points(matrix: rows.Rows, numbers: Int[np.ndarray, " m"]) -> device.Points:
    values = _centred(matrix, numbers)
    return device.points(values, np.arange(len(values), dtype=np.int32), size=len(values))


def _draw_in_passes(
    matrix: rows.Rows,
    k: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " k"]:
    """Returns the numbers of k seeds by k-means||."""
    count = int(np.ceil(_DRAWN * k))
    squared = matrix.zeros(jnp.float32, 1)  # at first all rows are as likely
    nearest = matrix.zeros(jnp.int32)
    candidates = np.zeros(0, np.int64)
    for number in range(_PASSES + 1):
        key = jax.random.key(int(rng.integers(2**32)), impl="threefry2x32")
        drawn = _race(matrix, squared, key, count)
        if not len(drawn):  # every row lies on a candidate
            break
        to = _points(matrix, drawn)
        first, fresh = np.int32(len(candidates)), np.bool_(number == 0)

        def approach(at: int, block: Any, to=to, first=first, fresh=fresh) -> Any:
            state = squared[at], nearest[at]
            squared[at], nearest[at] = _approach(matrix.setting, block, state, to, first, fresh)
            return squared[at]

        matrix.for_each(approach)
        candidates = np.concatenate([candidates, drawn])
    weights = np.bincount(matrix.join(nearest), minlength=len(candidates)).astype(np.float64)
    squared_to = _measure_few(_centred(matrix, candidates))
    return candidates[_greedy(squared_to, weights, k, rng)]


def _centred(matrix: rows.Rows, numbers: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m d"]:
    return matrix.take(numbers) - matrix.frame.origin[None]


def _race(matrix: rows.Rows, squared: list[Any], key: Any, count: int) -> Int[np.ndarray, " m"]:
    """Returns the numbers of `count` rows, drawn without replacement in proportion to `squared`.

    Every row runs for an exponential time divided by its weight, and the first to arrive are
    drawn. Devices send only their own first, which are merged here.
    """
    times, numbers = [], []
    for at, weight in enumerate(squared):
        first = np.int32(at * matrix.block_rows)
        arrived = _arrivals(matrix.setting, weight, key, first, matrix.valid(at), count=count)
        time, number = (matrix.fetch(x) for x in arrived)
        times.append(time)
        numbers.append(number.astype(np.int64) + int(first))
    time, number = np.concatenate(times), np.concatenate(numbers)
    order = np.lexsort((number, time))[:count]
    return np.sort(number[order[np.isfinite(time[order])]])


@device.program((P("data"), P(), P(), P()), P("data"))
def _arrivals(setting, weight, key, first, valid, *, count: int):
    """Returns this device's earliest times and whose they are."""
    place = device.numbers(weight)
    bits = jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), dtype=jnp.uint32))(
        place + first
    )
    # All 32 bits: the winners' times are near 0, where 23 would often tie. Never 0 nor 1.
    uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    weight = jnp.where(place < valid, weight, 0)
    time = -jnp.log1p(-uniform) / weight  # inf for a row of weight 0
    early, at = lax.top_k(-time, min(count, len(time)))
    return -early, place[at]


@device.program((P("data"), P("data"), P(), P(), P()), (P("data"), P("data")), donate=(1,))
def _approach(setting, block, state, to, first, fresh):
    """Returns squared distance to, and number of, the nearest candidate of every row."""

    def compare(carry, rows, square, squared, nearest):
        at, low, _ = device.lowest(device.scores(rows, to, "float32"))
        found = jnp.maximum(low + square, 0)
        nearer = fresh | (found < squared)
        number = first + to.numbers[at]
        return carry, (jnp.where(nearer, found, squared), jnp.where(nearer, number, nearest))

    return device.over_chunks(setting, compare, None, block.values, block.square, *state)[1]


@device.program((P("data"), P()), P("data"))
def _distances(setting, block, to):
    """Returns the squared distances of every row to all points."""

    def measure(carry, rows, square):
        return carry, jnp.maximum(device.scores(rows, to, "float32") + square[None], 0).T

    return device.over_chunks(setting, measure, None, block.values, block.square)[1]


def _measure_few(values: Float32[np.ndarray, "m d"]) -> Any:
    """Gives `_greedy` the distances between candidates, all at once if they are not too many."""
    norms = np.einsum("md,md->m", values, values)
    on_device = jnp.asarray(values)

    def squared_to(numbers: np.ndarray) -> np.ndarray:
        product = np.asarray(_multiply(on_device[numbers], on_device))
        return np.maximum(norms[None] + norms[numbers][:, None] - 2 * product, 0)

    if len(values) > _MOST_CANDIDATES:
        return squared_to
    every = np.empty((len(values), len(values)), np.float32)
    for start in range(0, len(values), 1024):  # whole, it would take three times as much memory
        some = np.arange(start, min(start + 1024, len(values)))
        every[some] = squared_to(some)
    return lambda numbers: every[numbers]


@jax.jit
def _multiply(some, every):
    return device.products(some, every, "float32")
