"""Finds the third nearest and further centroids of each row."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Int32

from kt_jax.kmeans import comparing, device
from kt_jax.kmeans.comparing import Points
from kt_jax.kmeans.device import Setting, program
from kt_jax.kmeans.rows import Rows


def rank(
    matrix: Rows,
    setting: Setting,
    to: Points,
    first: Int32[np.ndarray, " n"],
    second: Int32[np.ndarray, " n"],
    *,
    count: int,
) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "n m"], Float32[np.ndarray, " n"]]:
    """Returns the `count` nearest centroids of each row except two, and their distances.

    Third, it returns the rows' squared distances from the origin, as they were read now.

    They are sorted by distance, and ties by number. A distance is the root of |x|^2 - 2 x.c + |c|^2
    in float32, relative to the middle of the rows. The error of its square is about 1e-7 of |x|^2
    and |c|^2.

    Args:
      matrix: the prepared rows.
      setting: settings of the call.
      to: all centroids, at least `count` + 2.
      first: `[n]` centroids to skip.
      second: `[n]` other centroids to skip.
      count: number m of centroids to return.
    """
    taken = [matrix.split(each) for each in (first, second)]

    def look(number: int, block: device.Prepared):
        found = _rank(setting, block, to, *(parts[number] for parts in taken), count=count)
        return *found, block.square

    clusters, distances, squares = zip(*matrix.for_each(look), strict=True)
    return matrix.join(clusters), matrix.join(distances), matrix.join(squares)


@program((P("data"), P(), P("data"), P("data")), P("data"))
def _rank(setting, block, to, first, second, *, count):
    def run(carry, rows, square, first, second):
        score = comparing.scores(rows, to, setting.precision)
        numbers = to.numbers[:, None]
        out = (numbers == first[None]) | (numbers == second[None])
        # The score of padding is infinite, too.
        low, place = lax.top_k(-jnp.where(out, jnp.inf, score).T, count)
        return carry, (to.numbers[place], jnp.sqrt(jnp.maximum(square[:, None] - low, 0)))

    return device.over_chunks(setting, run, None, block.values, block.square, first, second)[1]
