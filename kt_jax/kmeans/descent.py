"""One run of Lloyd's iteration, from seeds to where it stops, on the host's side."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int

from kt_jax.kmeans import checks, device, lloyd, rows
from kt_jax.kmeans.labelling import nearest_to_zero

# An iteration is compiled for all centroids and, for when few change, for this share of them...
_SUBSET = 1 / 8
_PRUNED_WORK = 1e10  # ... if it has so many products that compiling pays.
_ROW_STATE = ("cluster", "upper", "lower")
# From this ratio of the rows' spread to the inertia on, it is measured row by row.
_SPREAD = 16
# From this ratio of squared distances from the origin on, sums are made anew in every iteration.
_WILD = 1e6
_REPAIR_CHOICE = 4  # far rows to choose from, for each empty cluster


@dataclasses.dataclass(frozen=True)
class Progress:
    """One iteration, as `on_iteration` sees it; iteration 0 is the seeding."""

    restart: int
    iteration: int
    inertia: float
    moved: int  # rows that changed their cluster; all of them at iteration 0
    repaired: int  # clusters that were empty and moved before this iteration
    # All that `fit(resume=...)` needs to go on from here, as NumPy arrays by name. To be called
    # before `on_iteration` returns, and among several processes by all of them.
    state: Callable[[], dict[str, np.ndarray]]


@dataclasses.dataclass
class Found:
    """What one restart has found so far."""

    centroids: Float32[np.ndarray, "k d"]  # whose inertia is the last of the curve
    curve: list[float]
    repaired: list[int]
    stopped: str = ""
    clusters: list[Any] | None = None  # of the rows, by block; None where they are to be found

    def pack(self, prefix: str) -> dict[str, np.ndarray]:
        """All but the clusters, as arrays by name."""
        return {
            f"{prefix}centroids": self.centroids,
            f"{prefix}curve": np.array(self.curve, np.float64),
            f"{prefix}repaired": np.array(self.repaired, np.int64),
            f"{prefix}stopped": np.frombuffer(self.stopped.encode(), np.uint8),
        }

    @classmethod
    def unpack(cls, state: Mapping[str, np.ndarray], prefix: str) -> "Found":
        """What `pack` packed."""
        return cls(
            centroids=state[f"{prefix}centroids"],
            curve=state[f"{prefix}curve"].tolist(),
            repaired=state[f"{prefix}repaired"].tolist(),
            stopped=bytes(state[f"{prefix}stopped"]).decode(),
        )


@dataclasses.dataclass
class _Members:
    """Who belongs to which cluster."""

    rows: list[Any]  # for each block (cluster, upper, lower), as lloyd.step returns them
    sums: Any  # float32 [2, k, d]: sums of the clusters' rows, and what rounding took from them
    counts: Any  # int32 [k]

    @classmethod
    def none(cls, matrix: rows.Rows, k: int) -> "_Members":
        kinds = (jnp.int32, -1), (jnp.float32, 0), (jnp.float32, 0)
        state = zip(*(matrix.zeros(*kind) for kind in kinds), strict=True)
        sums = np.zeros((2, k, matrix.d), np.float32)
        return cls(list(state), sums, np.zeros(k, np.int32))

    @property
    def clusters(self) -> list[Any]:
        return [cluster for cluster, _, _ in self.rows]

    def pack(self, matrix: rows.Rows) -> dict[str, np.ndarray]:
        parts = zip(_ROW_STATE, zip(*self.rows, strict=True), strict=True)
        joined = {name: matrix.join(part) for name, part in parts}
        return {**joined, "sums": np.asarray(self.sums), "counts": np.asarray(self.counts)}

    @classmethod
    def unpack(cls, matrix: rows.Rows, state: Mapping[str, np.ndarray]) -> "_Members":
        parts = (matrix.split(state[name]) for name in _ROW_STATE)
        return cls(list(zip(*parts, strict=True)), state["sums"], state["counts"])


@dataclasses.dataclass(frozen=True)
class Task:
    """What all restarts share."""

    matrix: rows.Rows
    # The rows' squared distances from the origin as they were first read, 0 if a row never counts.
    squares: Float32[np.ndarray, " n"]
    counts: Bool[np.ndarray, " n"]  # which rows have a direction, where they need one
    max_iterations: int
    tolerance: int | float
    kept: Mapping[str, np.ndarray]  # in all its states, such as `call`: `checks.describe_call`

    @functools.cached_property
    def square(self) -> float:
        """The inertia if all centroids were the origin."""
        return float(self.squares.sum(dtype=np.float64))

    @functools.cached_property
    def has_wild_rows(self) -> bool:
        """Whether a row that leaves a cluster may take digits of the others' sum with it."""
        return bool(self.squares.max() > _WILD * np.median(self.squares[self.counts]))


@dataclasses.dataclass
class Descent:
    """One restart between two iterations: what it has found, and what it tries next."""

    restart: int
    found: Found
    candidate: Float32[np.ndarray, "k d"]
    changed: Bool[np.ndarray, " k"]  # which centroids are others than in the last iteration
    repairs: int  # how many of them were moved because they were empty
    members: _Members

    @classmethod
    def begin(cls, matrix: rows.Rows, restart: int, seeds: Float32[np.ndarray, "k d"]) -> "Descent":
        """From seeds."""
        k = len(seeds)
        members = _Members.none(matrix, k)
        return cls(restart, Found(seeds, [], []), seeds, np.ones(k, bool), 0, members)

    def pack(self, matrix: rows.Rows) -> dict[str, np.ndarray]:
        """All of it as arrays by name."""
        return {
            "restart": np.array(self.restart),
            "candidate": self.candidate,
            "changed": self.changed,
            "repairs": np.array(self.repairs),
            **self.members.pack(matrix),
            **self.found.pack(""),
        }

    @classmethod
    def unpack(cls, matrix: rows.Rows, state: Mapping[str, np.ndarray]) -> "Descent":
        """What `pack` packed."""
        members = _Members.unpack(matrix, state)
        found = Found.unpack(state, "")
        found.clusters = members.clusters
        return cls(
            int(state["restart"]),
            found,
            state["candidate"],
            state["changed"],
            int(state["repairs"]),
            members,
        )


def descend(
    task: Task,
    at: Descent,
    best: Found | None,
    on_iteration: Callable[[Progress], None] | None,
) -> Found:
    """Lloyd's iteration until it stops."""
    matrix, found = task.matrix, at.found
    while not found.stopped:
        iteration, tried, moved_empties = len(found.curve), at.candidate, at.repairs
        updated, moved, share = _iterate(task, tried, at.changed, at.members)
        inertia = task.square + float(share.sum(dtype=np.float64))
        if inertia * _SPREAD < task.square:  # a difference of huge numbers
            squared = _measure_own(matrix, tried, at.members.clusters)
            inertia = sum(matrix.fetch(x).clip(0).sum(dtype=np.float64) for x in squared)
        before = found.curve[-1] if found.curve else np.inf
        if inertia > before:
            # By rounding: keep the centroids before it, whose rows' clusters are gone.
            found.stopped, found.clusters = "inertia fell no further in float32", None
            break
        found.centroids, found.clusters = tried, at.members.clusters
        found.curve.append(inertia)
        found.repaired += [moved_empties] if iteration else []
        empty = np.flatnonzero(np.asarray(at.members.counts) == 0)
        settled = not len(empty) and not moved_empties  # a moved cluster has yet to gather rows
        if moved == 0:
            found.stopped = "no row moved"
        elif iteration and settled and before - inertia <= task.tolerance * before:
            found.stopped = "inertia fell by less than tolerance"
        elif iteration >= task.max_iterations:
            found.stopped = "max_iterations"
        else:
            at.candidate, at.repairs = _repair(task, updated, empty, at.members)
            at.changed = (at.candidate != tried).any(1)
        if on_iteration is not None:

            def save() -> dict[str, np.ndarray]:
                others = best.pack("best_") if best else {}
                return {**at.pack(matrix), **others, **task.kept}

            on_iteration(Progress(at.restart, iteration, inertia, moved, moved_empties, save))
    return found


def finish(task: Task, found: Found) -> tuple[np.ndarray, float]:
    """The assignment to the centroids that were found, and its inertia, measured row by row.

    Raises:
      ValueError: the rows are no longer what they were when they were first read.
    """
    matrix = task.matrix
    clusters = found.clusters
    if clusters is None:
        changed = np.ones(len(found.centroids), bool)
        members = _Members.none(matrix, len(changed))
        _iterate(task, found.centroids, changed, members)
        clusters = members.clusters
    every = _points(matrix, found.centroids)

    def look(number: int, block: Any) -> tuple[Any, ...]:
        squared = lloyd.own_squared(matrix.setting, block, clusters[number], every)
        return squared, block.square

    squared, squares = (matrix.join(part) for part in zip(*matrix.for_each(look), strict=True))
    checks.check_unchanged(matrix, task.squares, np.where(task.counts, squares, 0))
    assignment = matrix.join(clusters)
    assignment[~task.counts] = nearest_to_zero(found.centroids)[0]
    return assignment, float(squared.clip(0).sum(dtype=np.float64))


def _points(
    matrix: rows.Rows,
    centroids: Float32[np.ndarray, "k d"],
    keep: Bool[np.ndarray, " k"] | None = None,
    size: int | None = None,
) -> device.Points:
    """The centroids to keep (all: None), ready to be compared."""
    k = len(centroids)
    numbers, size = np.arange(k, dtype=np.int32), k if size is None else size
    return device.points(centroids - matrix.frame.origin[None], numbers, keep, size=size)


def _measure_own(matrix: rows.Rows, centroids: np.ndarray, clusters: list[Any]) -> list[Any]:
    """Every row's squared distance from its own centroid."""
    every = _points(matrix, centroids)
    return matrix.for_each(
        lambda number, block: lloyd.own_squared(matrix.setting, block, clusters[number], every)
    )


def _iterate(
    task: Task, centroids: np.ndarray, changed: Bool[np.ndarray, " k"], members: _Members
) -> tuple[np.ndarray, int, np.ndarray]:
    """Updates the members; returns the new centroids, rows moved, shares of the inertia."""
    matrix, setting, k = task.matrix, task.matrix.setting, len(centroids)
    size = _subset_size(task, k, int(changed.sum()))
    full = size == k
    every = _points(matrix, centroids)
    subset = every if full else _points(matrix, centroids, changed, size)
    totals = lloyd.zero_totals(setting, centroids)
    sums, counts = members.sums, members.counts
    if task.has_wild_rows:
        sums, counts = np.zeros_like(sums), np.zeros_like(counts)

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
    """For how many centroids the iteration is compiled."""
    matrix = task.matrix
    if matrix.n * matrix.d * k / matrix.mesh.size < _PRUNED_WORK:
        return k
    few = max(int(k * _SUBSET), 1)
    return few if changed <= few else k


def _repair(
    task: Task, centroids: np.ndarray, empty: Int[np.ndarray, " e"], members: _Members
) -> tuple[np.ndarray, int]:
    """Moves empty clusters to far rows; returns the centroids and how many moved."""
    if not len(empty):
        return centroids, 0
    matrix = task.matrix
    # A power of two, so that few programs are compiled.
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
    order = order[square[order] > 0]  # what lies on its centroid is in place
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
