"""What k-means refuses, before anything is compiled where that can be known."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from kt_jax.kmeans import device, rows, seeding, sources

PRECISIONS = ("auto", "float32", "exact", "bfloat16", "tensorfloat32")


def platform_of(mesh: Mesh | None) -> str:
    """cpu, gpu or tpu."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def check_options(
    *,
    seed: int = 0,
    precision: str = "auto",
    init: Any = "k-means||",
    max_iterations: int = 0,
    tolerance: int | float = 0,
    restarts: int = 1,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
) -> None:
    """Refuses what `fit` would refuse before it sees the features.

    Raises:
      ValueError: beginning with the name of the option.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "tensorfloat32" and platform_of(mesh) != "gpu":
        raise ValueError(f"precision = 'tensorfloat32' is for GPUs; this is a {platform_of(mesh)}")
    if isinstance(init, str) and init not in seeding.METHODS:
        raise ValueError(
            f"init = {init!r}: choose one of {', '.join(seeding.METHODS)}, or give centroids"
        )
    if seed < 0:
        raise ValueError(f"seed = {seed} is negative: give 0 or more")
    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance} is negative: give 0 or a fraction such as 1e-4")
    if max_iterations < 0:
        raise ValueError(f"max_iterations = {max_iterations} is negative: give 0 or more")
    if restarts < 1:
        raise ValueError(f"restarts = {restarts}: give 1 or more")
    if restarts > 1 and not isinstance(init, str):
        raise ValueError(f"restarts = {restarts} from given centroids: all would be the same run")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows = {chunk_rows}: give 1 or more, such as 4096")
    if mesh is not None and mesh.axis_names != ("data",):
        raise ValueError(f'mesh has the axes {mesh.axis_names}: k-means needs the one axis "data"')


def checked_centroids(centroids: Any, d: int, name: str) -> Float32[np.ndarray, "k d"]:
    """Returns given centroids as float32; refuses those that are not of the features' kind."""
    sources.check_matrix(centroids, name)
    if centroids.shape[1] != d:
        raise ValueError(
            f"{name} have d = {centroids.shape[1]}, features have d = {d}: "
            "use the centroids of the same layer and preprocessing"
        )
    centroids = np.asarray(centroids).astype(np.float32)
    bad = ~(np.abs(centroids) <= device.value_limit(d))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(_not_finite(f"{name} row {row}", centroids[row, column], int(column), d))
    return centroids


def _not_finite(where: str, value: Any, column: int, d: int) -> str:
    return (
        f"{where} holds {value} at column {column}: values must be finite and within "
        f"{device.value_limit(d):.1e}; drop the row or repair its source"
    )


def check_rows(matrix: rows.Rows) -> Float32[np.ndarray, " n"]:
    """Returns the rows' squared distances from the origin; refuses rows that are not finite."""
    squares = matrix.join(matrix.for_each(lambda _, block: block.square))
    good = squares <= device.value_limit(1) ** 2  # NaN fails the comparison too
    if good.all():
        return squares
    row = int(np.argmin(good))
    values = np.abs(matrix.take_raw(np.array([row]))[0].astype(np.float32))
    column = int(np.argmax(np.where(np.isnan(values), np.inf, values)))
    where, value = matrix.locate(row, column)
    raise ValueError(_not_finite(where, value, column, matrix.d))


def check_distinct(matrix: rows.Rows, k: int) -> None:
    """Refuses more clusters than there are different rows."""
    distinct = seeding.count_distinct(matrix, k)
    if distinct < k:
        raise ValueError(
            f"k = {k} is larger than the number of distinct rows: of the n = {matrix.n} rows "
            f"of features only {distinct} differ (in float32); choose k <= {distinct}"
        )


def check_resume(state: Mapping[str, np.ndarray], matrix: rows.Rows, k: int, restarts: int) -> None:
    """Refuses a state that another call left."""
    found = *state["candidate"].shape, len(state["cluster"])
    if found != (k, matrix.d, matrix.n) or state["restart"] >= restarts:
        raise ValueError(
            f"resume is a state of k, d, n = {found} in restart {int(state['restart']) + 1}; this "
            f"call has {(k, matrix.d, matrix.n)} and {restarts} restarts: pass the same arguments"
        )
