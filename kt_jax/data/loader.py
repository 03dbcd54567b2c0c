"""Batches of images.

Which images are in a batch is a function of the order and the step alone. Nothing is kept between
batches: resuming needs only the step, and any number of processes, workers and threads sees the
same global batches.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grain
import numpy as np
from absl import flags

from kt_jax.data.order import Balanced, Shuffled

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How batches are read; which images are in them does not depend on it.

    Attributes:
      workers: processes that decode the batches of training; 0: threads of this one do. To start
        them takes seconds, so that passes over a set once are always left to threads.
      threads: batches decoded at the same time by each process; 0 decodes in the caller.
      prefetch: batches that each process holds ready.
      max_unreadable: the share of a set's images that may turn unreadable while training.
    """

    workers: int = 0
    threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    prefetch: int = 4
    max_unreadable: float = 0.01


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
    reading: Reading | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the global batches first_step, ..., last_step - 1.

    An image that has become unreadable is named in the log, and the next readable index takes its
    place, with its own label.

    Args:
      images: anything with a length whose `[i]` is a uint8 array; all of one shape.
      order: which image lies at which position of the endless global sequence.
      batch_size: rows of the global batch, over all processes.
      first_step: the first batch: where a resumed run carries on.
      last_step: the batch to stop before.
      process_index: this process takes rows [process_index * local, (process_index + 1) * local).
      process_count: processes that share the global batch.
      targets: `[n]` integers that become `label`; by default `images.labels`.
      reading: by default, threads of this process.

    Returns:
      An iterator over dicts of `image` uint8 `[local, s, s, 3]`, `index` int32 `[local]` and, where
      there are targets, `label` int32 `[local]`.

    Raises:
      ValueError: the numbers do not fit together, order and targets are about another set, or more
        than the share `reading.max_unreadable` of the images have become unreadable.
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
    reading = reading or Reading()
    make = _TrainBatch(
        images, order, batch_size, process_index * local, local, _targets(images, targets)
    )
    steps = grain.MapDataset.range(first_step, last_step)
    batches = steps.map(make).to_iter_dataset(_read_ahead(reading))
    if reading.workers:
        batches = _start_workers(batches, reading)
    return _count_unreadable(iter(batches), len(images), reading.max_unreadable)


def eval_batches(
    images,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    reading: Reading | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image once, in index order; arguments as in `train_batches`.

    All batches have the full size. The rows after the last image are zeros in every array; `mask`,
    bool `[local]`, is False there.

    Raises:
      ValueError: the numbers do not fit together; or an image cannot be read: nothing could stand
        in for it here.
    """
    local = _local_batch(batch_size, process_index, process_count)
    make = _EvalBatch(images, batch_size, process_index * local, local, _targets(images, None))
    steps = grain.MapDataset.range(-(-len(images) // batch_size))
    return iter(steps.map(make).to_iter_dataset(_read_ahead(reading or Reading())))


# Classes instead of closures, because they must reach the workers by pickle.
@dataclass(frozen=True, eq=False)
class _TrainBatch:
    images: Any
    order: Shuffled | Balanced
    batch_size: int
    first_row: int
    rows: int
    targets: np.ndarray | None

    def __call__(self, step: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
        """The batch, and which images could not be read, and why."""
        start = step * self.batch_size + self.first_row
        indices, pixels, unreadable = [], [], []
        for position in range(start, start + self.rows):
            index = self.order(position)
            for _ in range(len(self.images)):
                try:
                    pixels.append(self.images[index])
                except ValueError as error:
                    unreadable.append((index, str(error)))
                    index = (index + 1) % len(self.images)
                else:
                    break
            indices.append(index)
        if len(pixels) < self.rows:
            raise ValueError(f"no image can be read any more: {unreadable[-1][1]}")
        return _batch(pixels, indices, self.targets), unreadable


@dataclass(frozen=True, eq=False)
class _EvalBatch:
    images: Any
    batch_size: int
    first_row: int
    rows: int
    targets: np.ndarray | None

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        start = step * self.batch_size + self.first_row
        indices = list(range(start, min(start + self.rows, len(self.images))))
        # A process without any row in the last batch still needs the shape of an image.
        some = indices or [0]
        batch = _batch([self.images[index] for index in some], some, self.targets)
        rows = len(indices)
        padded = {
            name: np.pad(rest[:rows], [(0, self.rows - rows)] + [(0, 0)] * (rest.ndim - 1))
            for name, rest in batch.items()
        }
        return padded | {"mask": np.arange(self.rows) < rows}


def _read_ahead(reading: Reading) -> grain.ReadOptions:
    return grain.ReadOptions(reading.threads, reading.prefetch)


def _start_workers(batches: grain.IterDataset, reading: Reading) -> grain.IterDataset:
    # grain's workers read absl flags, which a notebook or a script has not parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return batches.mp_prefetch(grain.MultiprocessingOptions(reading.workers, reading.prefetch))


def _count_unreadable(batches: Iterator, n: int, max_share: float) -> Iterator:
    known: set[int] = set()
    for batch, unreadable in batches:
        for index, reason in unreadable:
            if index not in known:
                known.add(index)
                _log.warning("%d unreadable of %d: %s", len(known), n, reason)
        if len(known) > max_share * n:
            raise ValueError(
                f"{len(known)} of {n} images have become unreadable, more than the share "
                f"max_unreadable={max_share}; the last: {unreadable[-1][1]}"
            )
        yield batch


def _batch(
    pixels: list[np.ndarray], indices: list[int], targets: np.ndarray | None
) -> dict[str, np.ndarray]:
    batch = {"image": np.stack(pixels), "index": np.array(indices, np.int32)}
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
