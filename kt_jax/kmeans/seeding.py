"""The first centroids for Lloyd's iteration: random rows, k-means++ or k-means||.

k-means++ (Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007) takes row
i as the next seed with probability proportional to D_i^2, its squared distance to the nearest
seed. As in their experiments, several rows are drawn, and the one that lowers sum D^2 most is kept.
k-means|| (Bahmani et al., "Scalable k-means++", 2012) draws many rows at a time in a few passes,
weights each by the number of rows nearest to it, and reduces them to k by weighted k-means++.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Float32, Int, Int64

from kt_jax.kmeans import comparing, device, distinct, rows

METHODS = ("k-means||", "k-means++", "random")

_PASSES = 5  # of k-means||, after the first draw
_DRAWN = 0.8  # rows drawn in each, per cluster: 4.8 candidates per cluster in all
_ALL_ROWS = 10  # with at most this many rows per cluster, k-means|| takes all as candidates
# With at most this many rows per cluster, k-means++ takes the farthest of the rows that it tries. A
# seed then covers little more than itself, so the farthest lowers sum D^2 most: no need to measure.
_FEW_ROWS = 4
# k-means++ first draws one seed at a time, later this share of the present number of seeds at once:
# matrix products replace thousands of passes. So few new seeds hardly change the probabilities.
_AT_A_TIME, _AT_A_TIME_OF_FEW_ROWS = 1 / 100, 1 / 20


@dataclasses.dataclass(frozen=True)
class SeedingProgress:
    """Progress of the seeding of a restart, passed to `on_seeding`."""

    restart: int
    drawn: int  # number of seeds; 0 while candidates are drawn
    k: int
    state: Callable[[], dict[str, np.ndarray]]  # as `Progress.state`


@dataclasses.dataclass
class Seeding:
    """State of one restart's seeding, between two steps."""

    restart: int
    random: np.random.Generator
    passes: int = 0  # of k-means||
    candidates: Int64[np.ndarray, " c"] = dataclasses.field(default_factory=lambda: _no_rows())
    chosen: Int64[np.ndarray, " s"] = dataclasses.field(default_factory=lambda: _no_rows())

    def pack(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays by name."""
        random = json.dumps(self.random.bit_generator.state).encode()
        return {
            "restart": np.array(self.restart),
            "random": np.frombuffer(random, np.uint8),
            "passes": np.array(self.passes),
            "candidates": self.candidates,
            "chosen": self.chosen,
        }

    @classmethod
    def unpack(cls, state: Mapping[str, np.ndarray]) -> "Seeding":
        """Restores the result of `pack`."""
        random = np.random.default_rng()
        random.bit_generator.state = json.loads(bytes(state["random"]))
        numbers = state["candidates"], state["chosen"]
        return cls(int(state["restart"]), random, int(state["passes"]), *numbers)


def _no_rows() -> Int64[np.ndarray, " 0"]:
    return np.zeros(0, np.int64)


def draw(
    matrix: rows.Rows,
    weights: Float32[np.ndarray, " n"],
    k: int,
    init: str,
    at: Seeding,
    report: Callable[[], None],
) -> Float32[np.ndarray, "k d"]:
    """Returns k seeds: rows prepared for comparison, without the subtraction of the origin.

    Seeds are the same on every mesh, apart from rounding. Two seeds may be equal rows. Lloyd's
    iteration then finds one cluster empty and moves it.

    Args:
      matrix: the rows.
      weights: the weights of the rows: 1 without weights, 0 for rows that are no seeds. At least k
        are above 0.
      k: number of seeds.
      init: one of METHODS.
      at: state of the draw, updated in place.
      report: called after each step.
    """
    usable = np.flatnonzero(weights)
    if k == len(usable):
        at.chosen = usable
    elif init == "random":
        chance = None  # uniform
        if matrix.weights is not None:
            chance = weights[usable].astype(np.float64)
            chance = chance / chance.sum() if np.ptp(chance) else None
        drawn = at.random.choice(len(usable), k, replace=False, p=chance, shuffle=False)
        at.chosen = usable[np.sort(drawn)]
    elif init == "k-means++" or (matrix.resident and len(usable) <= _ALL_ROWS * k):
        few_rows = len(usable) <= _FEW_ROWS * k
        _draw_greedily(matrix, weights, k, few_rows, at, report)
    else:
        weights = _draw_candidates(matrix, weights, k, at, report)
        values = _centred(matrix, at.candidates)
        candidates = rows.Rows(values, k, mesh=matrix.mesh, chunk_rows=None)
        candidates.look_from(candidates.frame)
        _draw_greedily(candidates, weights, k, False, at, report)
        return matrix.take(at.candidates[at.chosen])
    return matrix.take(at.chosen)


class _Nearest:
    """For every row, the number of the nearest point, and its squared distance."""

    def __init__(self, matrix: rows.Rows, counts: Bool[np.ndarray, " n"]) -> None:
        self._matrix = matrix
        self._points = 0
        self.squared = matrix.split(counts.astype(np.float32))  # at first all are equally far
        self.number = matrix.zeros(jnp.int32)

    def approach(self, values: Float32[np.ndarray, "m d"]) -> None:
        """Adds points, and updates the nearest ones."""
        first, fresh = np.int32(self._points), np.bool_(self._points == 0)
        to = _points(values)

        def step(at: int, block: Any) -> Any:
            state = self.squared[at], self.number[at]
            found = _approach(self._matrix.setting, block, state, to, first, fresh)
            self.squared[at], self.number[at] = found
            return found

        self._matrix.for_each(step)
        self._points += len(values)


def _draw_greedily(
    matrix: rows.Rows,
    weights: Float32[np.ndarray, " n"],
    k: int,
    few_rows: bool,
    at: Seeding,
    report: Callable[[], None],
) -> None:
    """Chooses k seeds by greedy k-means++ of weighted rows.

    Seeds that are drawn together are independent. Equal ones among them count once.
    """
    trials = 2 + int(np.log(k))
    at_a_time = _AT_A_TIME_OF_FEW_ROWS if few_rows else _AT_A_TIME
    nearest = _Nearest(matrix, weights > 0)
    if len(at.chosen):
        nearest.approach(_centred(matrix, at.chosen))
    of_blocks = matrix.split(weights)
    while len(at.chosen) < k:
        squared = matrix.join(nearest.squared)
        squared[at.chosen] = 0  # despite rounding
        chance = np.cumsum(weights * squared, dtype=np.float64)
        if chance[-1] == 0:  # only equal rows remain: take any, Lloyd's iteration moves them
            rest = np.full(k - len(at.chosen), at.chosen[-1])
            at.chosen = np.concatenate([at.chosen, rest])
            break
        count = min(1 + int(at_a_time * len(at.chosen)), k - len(at.chosen))
        count = 4 ** ((count.bit_length() - 1) // 2)  # powers of 4, to compile few programs
        tried = (count, trials if len(at.chosen) else 1)
        drawn = np.searchsorted(chance, at.random.random(tried) * chance[-1], side="right")
        drawn = np.minimum(drawn, np.searchsorted(chance, chance[-1]))  # rounding may reach the sum
        score = squared[drawn]
        if len(at.chosen) and not few_rows:
            values = _centred(matrix, drawn.ravel())
            score = _measure_gain(matrix, nearest.squared, of_blocks, values).reshape(tried)
        picked = np.take_along_axis(drawn, score.argmax(1)[:, None], axis=1)[:, 0]
        values = _centred(matrix, picked)
        different = distinct.find(values)
        nearest.approach(values[different])
        at.chosen = np.concatenate([at.chosen, picked[different]])
        report()


def _measure_gain(
    matrix: rows.Rows, squared: list[Any], weights: list[Any], values: Float32[np.ndarray, "t d"]
) -> Float[np.ndarray, " t"]:
    """Returns how much each point would lower the weighted sum of squared distances, [t]."""
    to = _points(values)
    parts = matrix.for_each(
        lambda at, block: _gain(matrix.setting, block, squared[at], weights[at], to)
    )
    of_devices = np.concatenate([matrix.fetch(part) for part in parts])
    return of_devices.sum(0, dtype=np.float64)[: len(values)]


def _draw_candidates(
    matrix: rows.Rows,
    weights: Float32[np.ndarray, " n"],
    k: int,
    at: Seeding,
    report: Callable[[], None],
) -> Float32[np.ndarray, " c"]:
    """Draws the candidates of k-means||; returns the weight of the rows nearest to each, [c]."""
    count = int(np.ceil(_DRAWN * k))
    nearest = _Nearest(matrix, weights > 0)
    if len(at.candidates):
        nearest.approach(_centred(matrix, at.candidates))
    while at.passes <= _PASSES:
        key = jax.random.key(int(at.random.integers(2**32)), impl="threefry2x32")
        chances = nearest.squared
        if matrix.weights is not None:
            chances = [x * y for x, y in zip(chances, matrix.weights, strict=True)]
        drawn = _race(matrix, chances, key, count)
        if not len(drawn):  # every row is equal to a candidate; saved for a resumed draw
            at.passes = _PASSES + 1
            break
        nearest.approach(_centred(matrix, drawn))
        at.candidates, at.passes = np.concatenate([at.candidates, drawn]), at.passes + 1
        report()
    numbers = matrix.join(nearest.number)
    return np.bincount(numbers, weights, minlength=len(at.candidates)).astype(np.float32)


def _points(values: Float32[np.ndarray, "m d"]) -> comparing.Points:
    """Returns points for float32 comparison, padded to whole groups by repeats of the first."""
    missing = -len(values) % comparing.GROUP
    values = np.concatenate([values, np.repeat(values[:1], missing, axis=0)])
    square, none = np.square(values).sum(1), np.zeros(len(values), np.float32)
    return comparing.Points(values, square, none, none, np.arange(len(values), dtype=np.int32))


def _centred(matrix: rows.Rows, numbers: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m d"]:
    return matrix.take(numbers) - matrix.frame.origin[None]


def _race(matrix: rows.Rows, chances: list[Any], key: Any, count: int) -> Int[np.ndarray, " m"]:
    """Returns `count` row numbers, drawn without replacement in proportion to `chances`.

    Every row gets an exponential random time divided by its weight. The rows with the earliest
    times are drawn. Each device returns only its own earliest rows, which are merged here.
    """
    times, numbers = [], []
    for at, weight in enumerate(chances):
        first = np.int32(at * matrix.block_rows)
        arrived = _arrivals(matrix.setting, weight, key, first, count=count)
        time, number = (matrix.fetch(x) for x in arrived)
        times.append(time)
        numbers.append(number.astype(np.int64) + int(first))
    time, number = np.concatenate(times), np.concatenate(numbers)
    order = np.lexsort((number, time))[:count]
    return np.sort(number[order[np.isfinite(time[order])]])


@device.program((P("data"), P(), P()), P("data"))
def _arrivals(setting, weight, key, first, *, count: int):
    """Returns this device's earliest times and the numbers of their rows."""
    place = device.numbers(weight)
    bits = jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), dtype=jnp.uint32))(
        place + first
    )
    # Use all 32 bits: the earliest times are near 0, where 23 bits often tie. Never 0 nor 1.
    uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    time = -jnp.log1p(-uniform) / weight  # inf for a row of weight 0
    early, at = lax.top_k(-time, min(count, len(time)))
    return -early, place[at]


@device.program((P("data"), P("data"), P(), P(), P()), (P("data"), P("data")), donate=(1,))
def _approach(setting, block, state, to, first, fresh):
    """Returns the squared distance and the number of every row's nearest candidate."""

    def compare(carry, rows, square, counts, squared, number):
        at, low, _ = comparing.lowest(comparing.scores(rows, to, "float32"))
        found = jnp.where(counts, jnp.maximum(low + square, 0), 0)
        nearer = fresh | (found < squared)
        new = jnp.where(nearer, found, squared), jnp.where(nearer, first + to.numbers[at], number)
        return carry, new

    rows = block.values, block.square, block.counts
    return device.over_chunks(setting, compare, None, *rows, *state)[1]


@device.program((P("data"), P("data"), P("data"), P()), P("data"))
def _gain(setting, block, squared, weights, to):
    """Returns how much each point lowers this device's weighted squared distances, [1, t]."""

    def measure(gain, rows, square, squared, weights):
        distance = jnp.maximum(comparing.scores(rows, to, "float32") + square[None], 0)
        gains = jnp.maximum(squared[None] - distance, 0)
        return gain + jnp.matmul(gains, weights, precision=lax.Precision.HIGHEST), ()

    zero = device.varying(jnp.zeros(len(to.square), jnp.float32))
    rows = block.values, block.square, squared, weights
    return device.over_chunks(setting, measure, zero, *rows)[0][None]
