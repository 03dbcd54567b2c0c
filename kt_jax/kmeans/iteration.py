"""The state of Lloyd's iteration, which can be saved and restored."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32

from kt_jax.kmeans import rows

_ROW_STATE = ("cluster", "upper", "lower")
# From this ratio of squared distances from the origin on, every iteration adds up all rows again.
_WILD = 1e6
# The same from this ratio of the weights of rows on.
_HEAVY = 1e3


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress after one iteration, passed to `on_iteration`. Iteration 0 is the seeding."""

    restart: int
    iteration: int
    inertia: float
    moved: int  # rows that changed their cluster; at iteration 0, all rows
    repaired: int  # empty clusters that moved before this iteration
    # Returns the state for `fit(resume=...)`, as NumPy arrays by name. Call it before
    # `on_iteration` returns. With several processes, all must call it.
    state: Callable[[], dict[str, np.ndarray]]


@dataclasses.dataclass
class Found:
    """The result of one restart so far."""

    centroids: Float32[np.ndarray, "k d"]  # their inertia is the last of the curve
    curve: list[float]
    repaired: list[int]
    stopped: str = ""
    clusters: list[Any] | None = None  # of the rows, by block; None if they must be computed

    def pack(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns all but the clusters, as arrays by name."""
        return {
            f"{prefix}centroids": self.centroids,
            f"{prefix}curve": np.array(self.curve, np.float64),
            f"{prefix}repaired": np.array(self.repaired, np.int64),
            f"{prefix}stopped": np.frombuffer(self.stopped.encode(), np.uint8),
        }

    @classmethod
    def unpack(cls, state: Mapping[str, np.ndarray], prefix: str) -> "Found":
        """Restores the result of `pack`."""
        return cls(
            centroids=state[f"{prefix}centroids"],
            curve=state[f"{prefix}curve"].tolist(),
            repaired=state[f"{prefix}repaired"].tolist(),
            stopped=bytes(state[f"{prefix}stopped"]).decode(),
        )


@dataclasses.dataclass
class Members:
    """The clusters of the rows, and the clusters' sums and sizes."""

    rows: list[Any]  # (cluster, upper, lower) of each block, from lloyd.step
    # Two of float32 [k, d]: sums of the clusters' rows, and their rounding errors. With weights,
    # [k, d + 1]: the last column is the sum of the weights.
    sums: Any
    counts: Any  # int32 [k]: numbers of rows with a weight above 0

    @classmethod
    def none(cls, matrix: rows.Rows, k: int) -> "Members":
        """Begins with all rows in no cluster."""
        kinds = (jnp.int32, -1), (jnp.float32, 0), (jnp.float32, 0)
        state = zip(*(matrix.zeros(*kind) for kind in kinds), strict=True)
        zero = np.zeros((k, matrix.d + (matrix.weights is not None)), np.float32)
        return cls(list(state), (zero, zero), np.zeros(k, np.int32))

    @property
    def clusters(self) -> list[Any]:
        """The clusters of the rows, by block."""
        return [cluster for cluster, _, _ in self.rows]

    def pack(self, matrix: rows.Rows) -> dict[str, np.ndarray]:
        """Returns the state as arrays by name."""
        parts = zip(_ROW_STATE, zip(*self.rows, strict=True), strict=True)
        joined = {name: matrix.join(part) for name, part in parts}
        return {**joined, "sums": np.stack(self.sums), "counts": np.asarray(self.counts)}

    @classmethod
    def unpack(cls, matrix: rows.Rows, state: Mapping[str, np.ndarray]) -> "Members":
        """Restores the result of `pack`."""
        parts = (matrix.split(state[name]) for name in _ROW_STATE)
        return cls(list(zip(*parts, strict=True)), tuple(state["sums"]), state["counts"])


@dataclasses.dataclass(frozen=True)
class Task:
    """Data that all restarts share."""

    matrix: rows.Rows
    # The rows' squared distances from the origin, as first read; 0 if a row does not count.
    squares: Float32[np.ndarray, " n"]
    counts: Bool[np.ndarray, " n"]  # False for rows that need a direction but have none
    max_iterations: int
    tolerance: int | float
    kept: Mapping[str, np.ndarray]  # is in all states, such as `call` (`checks.describe_call`)
    weights: Float32[np.ndarray, " n"] | None = None  # of the rows; None: all have weight 1

    @functools.cached_property
    def masses(self) -> Float32[np.ndarray, " n"]:
        """The weights of the rows, 0 for rows that do not count."""
        return np.where(self.counts, 1 if self.weights is None else self.weights, 0).astype(
            np.float32
        )

    @functools.cached_property
    def square(self) -> float:
        """The inertia with all centroids at the origin."""
        squares = self.squares if self.weights is None else self.squares * self.weights
        return float(squares.sum(dtype=np.float64))

    @functools.cached_property
    def has_wild_rows(self) -> bool:
        """Whether subtracting a far or heavy row from a cluster's sum may lose digits of others."""
        far = self.squares.max() > _WILD * np.median(self.squares[self.counts])
        if far or self.weights is None:
            return bool(far)
        weights = self.masses[self.masses > 0]
        return bool(weights.max() > _HEAVY * np.median(weights))


@dataclasses.dataclass
class Descent:
    """State of one restart between two iterations: its result, and the next centroids."""

    restart: int
    found: Found
    candidate: Float32[np.ndarray, "k d"]
    changed: Bool[np.ndarray, " k"]  # which centroids changed since the last iteration
    repairs: int  # number of empty clusters that were moved
    members: Members

    @classmethod
    def begin(cls, matrix: rows.Rows, restart: int, seeds: Float32[np.ndarray, "k d"]) -> "Descent":
        """Starts from seeds."""
        k = len(seeds)
        members = Members.none(matrix, k)
        return cls(restart, Found(seeds, [], []), seeds, np.ones(k, bool), 0, members)

    def pack(self, matrix: rows.Rows) -> dict[str, np.ndarray]:
        """Returns the state as arrays by name."""
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
        """Restores the result of `pack`."""
        members = Members.unpack(matrix, state)
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
