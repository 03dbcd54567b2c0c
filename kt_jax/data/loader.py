"""Which image is at which place of which batch, and the batches themselves.

Everything is a function of (seed, position), where position = step * batch size + row of the global
batch. Nothing is kept between batches: resuming needs only the step, and any number of processes
and threads sees the same global batches.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np
from grain.experimental import index_shuffle


@dataclass(frozen=True)
class Shuffled:
    """Every epoch (n consecutive positions) visits every index once, in an order of its own.

    With `group`, an epoch is n - n % group positions long and leaves out n % group indices, others
    each time: then no group of that many consecutive positions holds an index twice.
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

    With k such clusters, k consecutive positions visit each of them once, in an order that changes
    every time round; the member is drawn with replacement.

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
        """How many images the assignment is about."""
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
        # Counter-based: the draw at one position needs none of the draws before it. Positions lie
        # 2**64 counts apart, so that no two share random bits.
        bits = np.random.Philox(key=self.seed, counter=position << 64).random_raw()
        return int(members[bits % len(members)])


def train_batches(
    images,
    order: Shuffled | Balanced,
    batch_size: int,
    *,
    first_step: int = 0,
    last_step: int,
    process_index: int = 0,
    process_count: int = 1,
    targets: np.ndarray | None = None,
    num_threads: int = 2,
    prefetch: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the global batches first_step, ..., last_step - 1.

    Args:
      images: anything with a length whose `[i]` is a uint8 array; all of one shape.
      order: which image lies at which position of the endless global sequence.
      batch_size: rows of the global batch, over all processes.
      first_step: the first batch: where a resumed run carries on.
      last_step: the batch to stop before.
      process_index: this process takes rows [process_index * local, (process_index + 1) * local).
      process_count: processes that share the global batch.
      targets: `[n]` integers that become `label`; by default `images.labels`.
      num_threads: batches decoded at the same time, beside the caller; 0 decodes in the caller.
      prefetch: batches held ready.

    Returns:
      An iterator over dicts of `image` uint8 `[local, s, s, 3]`, `index` int32 `[local]` and, where
      there are targets, `label` int32 `[local]`.

    Raises:
      ValueError: the numbers do not fit together, or order and targets are about another set.
    """
    local = _local_batch(batch_size, process_index, process_count)
    if not 0 <= first_step <= last_step:
        raise ValueError(
            f"train_batches: first_step={first_step} and last_step={last_step}, but they must "
            "satisfy 0 <= first_step <= last_step"
        )
    if order.n != len(images):
        raise ValueError(
            f"train_batches: the order {type(order).__name__} is over {order.n} images, but there "
            f"are {len(images)}: make the order from the same set of images"
        )
    targets = _targets(images, targets)

    def make_batch(step: int) -> dict[str, np.ndarray]:
        start = step * batch_size + process_index * local
        return _batch(images, [order(start + row) for row in range(local)], targets)

    steps = grain.MapDataset.range(first_step, last_step).map(make_batch)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))


def eval_batches(
    images,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image once, in index order; arguments and errors as in `train_batches`.

    All batches have the full size. The rows after the last image are zeros in every array; `mask`,
    bool `[local]`, is False there.
    """
    local = _local_batch(batch_size, process_index, process_count)
    targets = _targets(images, None)

    def make_batch(step: int) -> dict[str, np.ndarray]:
        start = step * batch_size + process_index * local
        indices = list(range(start, min(start + local, len(images))))
        # A process without any row in the last batch still needs the shape of an image.
        batch = _batch(images, indices or [0], targets)
        rows = len(indices)
        padded = {
            name: np.pad(rest[:rows], [(0, local - rows)] + [(0, 0)] * (rest.ndim - 1))
            for name, rest in batch.items()
        }
        return padded | {"mask": np.arange(local) < rows}

    steps = grain.MapDataset.range(-(-len(images) // batch_size)).map(make_batch)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))


def _batch(images, indices: list[int], targets: np.ndarray | None) -> dict[str, np.ndarray]:
    batch = {
        "image": np.stack([images[i] for i in indices]),
        "index": np.array(indices, np.int32),
    }
    if targets is not None:
        batch["label"] = targets[batch["index"]].astype(np.int32)
    return batch


def _targets(images, targets: np.ndarray | None) -> np.ndarray | None:
    if targets is None:
        targets = getattr(images, "labels", None)
    if targets is not None and len(targets) != len(images):
        raise ValueError(
            f"there are {len(targets)} targets for {len(images)} images: targets must hold one "
            "integer for every image, in index order"
        )
    return targets


def _local_batch(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} (the global batch) is not a positive multiple of "
            f"process_count={process_count}: every process takes the same number of rows"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index} is not in [0, process_count), process_count is "
            f"{process_count}"
        )
    return batch_size // process_count


def _check_order(n: int, seed: int) -> None:
    if n < 1:
        raise ValueError(f"an order over n={n} images has nothing to draw: n must be >= 1")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative: seeds are integers >= 0")


def _shuffle(offset: int, n: int, seed: int, epoch: int) -> int:
    # index_shuffle needs no memory, but walks a domain of 2**16 and more until it meets an index
    # below n: 8 ms a call at n = 3, 10 us at n = 4096.
    if n <= 4096:
        return int(_permutation(n, seed, epoch)[offset])
    return index_shuffle(offset, n - 1, _epoch_seed(seed, epoch), 4)


# Threads prefetch across the end of an epoch, hence more than one entry in these caches.
@functools.lru_cache(maxsize=64)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # Raw bits and a sort: NumPy promises the bits of a generator for ever, not its permutation().
    return np.argsort(np.random.Philox(_epoch_seed(seed, epoch)).random_raw(n), kind="stable")


@functools.lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
