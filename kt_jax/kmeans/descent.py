"""The host's part of Lloyd's iteration, from seeds to the stop."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from kt_jax.kmeans import comparing, lloyd, row_checks, rows
from kt_jax.kmeans.iteration import Descent, Found, Members, Progress, Task
from kt_jax.kmeans.labelling import nearest_to_zero

# An iteration is compiled for all centroids, and for this share of them if few change.
_SUBSET = 1 / 8
_PRUNED_WORK = 1e10  # The second is compiled only from this number of products on.
# From this ratio of the rows' spread to the inertia on, the inertia is measured row by row.
_SPREAD = 16
ASKED_TO_STOP, OUT_OF_ITERATIONS = "on_iteration returned True", "max_iterations"
_REPAIR_CHOICE = 4  # number of far rows to choose from, per empty cluster


def descend(
    task: Task,
    at: Descent,
    best: Found | None,
    on_iteration: Callable[[Progress], bool | None] | None,
) -> Found:
    """Runs Lloyd's iteration until it stops, or until `on_iteration` returns True."""
    matrix, found = task.matrix, at.found
    while not found.stopped:
        iteration, tried, moved_empties = len(found.curve), at.candidate, at.repairs
        updated, moved, share = _iterate(task, tried, at.changed, at.members)
        inertia = task.square + float(share.sum(dtype=np.float64))
        if inertia * _SPREAD < task.square:  # else it would be a difference of huge numbers
            squared = _measure_own(matrix, tried, at.members.clusters)
            inertia = _sum_weighted(matrix, squared)
        before = found.curve[-1] if found.curve else np.inf
        if not inertia <= before:
            # Rounding raised it: keep the last centroids. The clusters of their rows are lost.
            found.stopped, found.clusters = "inertia fell no further in float32", None
            break
        found.centroids, found.clusters = tried, at.members.clusters
        found.curve.append(inertia)
        found.repaired += [moved_empties] if iteration else []
        empty = np.flatnonzero(np.asarray(at.members.counts) == 0)
        settled = not len(empty) and not moved_empties  # a moved cluster has no rows yet
        if moved == 0:
            found.stopped = "no row moved"
        elif iteration and settled and before - inertia <= task.tolerance * before:
            found.stopped = "inertia fell by less than tolerance"
        elif iteration >= task.max_iterations:
            found.stopped = OUT_OF_ITERATIONS
        else:
            at.candidate, at.repairs = _repair(task, updated, empty, at.members)
            at.changed = (at.candidate != tried).any(1)
        if on_iteration is not None:

            def save() -> dict[str, np.ndarray]:
                others = best.pack("best_") if best else {}
                return {**at.pack(matrix), **others, **task.kept}

            now = Progress(at.restart, iteration, inertia, moved, moved_empties, save)
            # Only True: other functions return None, or whatever their last call returned.
            if isinstance(answer := on_iteration(now), bool | np.bool_) and answer:
                found.stopped = ASKED_TO_STOP
    return found


def finish(task: Task, found: Found) -> tuple[np.ndarray, float]:
    """Returns the assignment to the final centroids, and its inertia, measured row by row.

    Raises:
      ValueError: the rows have changed since they were first read.
    """
    matrix = task.matrix
    clusters = found.clusters
    if clusters is None:
        changed = np.ones(len(found.centroids), bool)
        members = Members.none(matrix, len(changed))
        _iterate(task, found.centroids, changed, members)
        clusters = members.clusters
    every = _points(matrix, found.centroids)

    def look(number: int, block: Any) -> tuple[Any, ...]:
        squared = lloyd.own_squared(matrix.setting, block, clusters[number], every)
        return squared, block.square

    squared, squares = (matrix.join(part) for part in zip(*matrix.for_each(look), strict=True))
    row_checks.check_unchanged(matrix, task.squares, np.where(task.counts, squares, 0))
    squared = squared.clip(0)
    if task.weights is not None:
        squared *= task.weights
    assignment = matrix.join(clusters)
    assignment[~task.counts] = nearest_to_zero(found.centroids)[0]
    return assignment, float(squared.sum(dtype=np.float64))


def _points(
    matrix: rows.Rows,
    centroids: Float32[np.ndarray, "k d"],
    keep: Bool[np.ndarray, " k"] | None = None,
    size: int | None = None,
) -> comparing.Points:
    """Returns the centroids marked by `keep` (None: all), prepared for comparison."""
    k = len(centroids)
    numbers, size = np.arange(k, dtype=np.int32), k if size is None else size
    return comparing.points(centroids - matrix.frame.origin[None], numbers, keep, size=size)


def _measure_own(matrix: rows.Rows, centroids: np.ndarray, clusters: list[Any]) -> list[Any]:
    """Returns each row's squared distance from its own centroid."""
    every = _points(matrix, centroids)
    return matrix.for_each(
        lambda number, block: lloyd.own_squared(matrix.setting, block, clusters[number], every)
    )


def _sum_weighted(matrix: rows.Rows, squared: list[Any]) -> float:
    """Returns the sum of the rows' squared distances, times their weights."""
    parts = [matrix.fetch(x).clip(0) for x in squared]
    if matrix.weights is not None:
        weights = map(matrix.fetch, matrix.weights)
        parts = [part * weight for part, weight in zip(parts, weights, strict=True)]
    return sum(part.sum(dtype=np.float64) for part in parts)


def _iterate(
    task: Task, centroids: np.ndarray, changed: Bool[np.ndarray, " k"], members: Members
) -> tuple[np.ndarray, int, np.ndarray]:
    """Updates the members; returns the new centroids, rows moved, terms of the inertia."""
    matrix, setting, k = task.matrix, task.matrix.setting, len(centroids)
    size = _subset_size(task, k, int(changed.sum()))
    full = size == k
    every = _points(matrix, centroids)
    subset = every if full else _points(matrix, centroids, changed, size)
    sums, counts = members.sums, members.counts
    totals = lloyd.zero_totals(setting, np.zeros(sums[0].shape, np.float32))
    if task.has_wild_rows:
        sums, counts = tuple(np.zeros_like(x) for x in sums), np.zeros_like(counts)

    def step(number: int, block: Any) -> Any:
        nonlocal totals
        members.rows[number], totals = lloyd.step(
            setting,
            block,
            members.rows[number],
            totals,
            subset,
            every,
            changed,
            np.bool_(full),
            np.bool_(task.has_wild_rows),
        )
        return totals[2]

    matrix.for_each(step)
    members.sums, members.counts, updated, moved, share = lloyd.update(
        setting, totals, sums, counts, centroids, matrix.frame.origin
    )
    return np.asarray(updated), int(moved), np.asarray(share)


def _subset_size(task: Task, k: int, changed: int) -> int:
    """Returns the number of centroids that the iteration is compiled for."""
    matrix = task.matrix
    if matrix.n * matrix.d * k / matrix.mesh.size < _PRUNED_WORK:
        return k
    few = max(int(k * _SUBSET), 1)
    return few if changed <= few else k


def _repair(
    task: Task, centroids: np.ndarray, empty: Int[np.ndarray, " e"], members: Members
) -> tuple[np.ndarray, int]:
    """Moves empty clusters to far rows; returns the centroids and the number moved."""
    if not len(empty):
        return centroids, 0
    matrix = task.matrix
    # A power of two, to compile few programs.
    count = 1 << int(_REPAIR_CHOICE * len(empty) + 60).bit_length()
    squares, numbers = [], []
    measured = _measure_own(matrix, centroids, members.clusters)
    for number, squared in enumerate(measured):
        top = lloyd.highest(matrix.setting, squared, count=count)
        square, place = (matrix.fetch(x) for x in top)
        squares.append(square)
        numbers.append(place.astype(np.int64) + number * matrix.block_rows)
    square, number = np.concatenate(squares), np.concatenate(numbers)
    order = np.lexsort((number, -square))[:count]
    order = order[square[order] > 0]  # a row equal to its centroid stays
    square, far = square[order].copy(), matrix.take(number[order])
    centroids, moved = centroids.copy(), 0
    for cluster in empty:
        if not (square > 0).any():
            break
        row = far[int(np.argmax(square))]
        centroids[cluster] = row
        square = np.minimum(square, np.square(far - row[None]).sum(1))
        moved += 1
    return centroids, moved
