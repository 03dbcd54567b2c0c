"""The order of training images: maps positions of an endless sequence to image indices.

An index is a function of (seed, position) only, with position = step * batch size + row of the
global batch. So resuming needs only the step.
"""

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shuffled:
    """Every epoch (n consecutive positions) visits every index once, in a new random order.

    With `group`, an epoch has n - n % group positions and skips n % group indices, different ones
    each time. Then a group of `group` consecutive positions has no index twice.
    """

    n: int
    seed: int
    group: int = 1

    def __post_init__(self) -> None:
        _check_order(self.n, self.seed)
        if not 1 <= self.group <= self.n:
            raise ValueError(
                f"Shuffled: group is {self.group}, but {self.n} images make groups of 1 to {self.n}"
            )

    def __call__(self, position: int) -> int:
        """Returns the index at `position`."""
        epoch, offset = divmod(position, self.n - self.n % self.group)
        return _shuffle(offset, self.n, self.seed, epoch)


@dataclass(frozen=True, eq=False)
class Balanced:
    """Uniform over the clusters that have members, then uniform over the members.

    With k such clusters, k consecutive positions visit each cluster once, in an order that changes
    every time. Members are drawn with replacement.

    Attributes:
      assignment: the cluster of every index, integers `[n]`; an index below 0 is never drawn.
      seed: >= 0.
    """

    assignment: np.ndarray
    seed: int

    def __post_init__(self) -> None:
        _check_order(self.n, self.seed)
        if self.assignment.max() < 0:
            raise ValueError(
                f"Balanced: all {self.n} entries of assignment are negative, so that no cluster has"
                " a member: at least one image must be assigned to a cluster (>= 0)"
            )

    @property
    def n(self) -> int:
        """The number of images in the assignment."""
        return len(self.assignment)

    @functools.cached_property
    def _members(self) -> list[np.ndarray]:
        order = np.argsort(self.assignment, kind="stable")
        order = order[np.searchsorted(self.assignment[order], 0) :]
        return np.split(order, np.flatnonzero(np.diff(self.assignment[order])) + 1)

    def __call__(self, position: int) -> int:
        """Returns the index at `position`."""
        k = len(self._members)
        turn, offset = divmod(position, k)
        members = self._members[_shuffle(offset, k, self.seed, turn)]
        # Counter-based: a draw does not need the draws before it. Positions are 2**64 counts apart,
        # so that no two share random bits.
        bits = np.random.Philox(key=self.seed, counter=position << 64).random_raw()
        return int(members[bits % len(members)])


def _check_order(n: int, seed: int) -> None:
    if n < 1:
        raise ValueError(f"an order over n={n} images has nothing to draw: n must be >= 1")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative: seeds are integers >= 0")


def _shuffle(offset: int, n: int, seed: int, epoch: int) -> int:
    # index_shuffle needs no memory, but searches a domain of at least 2**16 until it finds an index
    # below n: 8 ms per call at n = 3, 10 us at n = 4096.
    if n <= 4096:
        return int(_permutation(n, seed, epoch)[offset])
    # Imported here for the same reason as in the loader.
    from grain.experimental import index_shuffle

    return index_shuffle(offset, n - 1, _epoch_seed(seed, epoch), 4)


# More than one entry, because threads prefetch across the end of an epoch.
@functools.lru_cache(maxsize=64)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # Raw bits and a sort: NumPy guarantees a generator's bits in all versions, not permutation().
    return np.argsort(np.random.Philox(_epoch_seed(seed, epoch)).random_raw(n), kind="stable")


@functools.lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
