"""Batches of images.

The images of a batch depend on the order and the step only. No state is kept between batches, so
resuming needs only the step. The global batches are the same for any number of processes, workers
and threads.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from absl import flags

from kt_jax.data.order import Balanced, Shuffled

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How batches are read. The images in a batch do not depend on it.

    Attributes:
      workers: number of worker processes that decode training batches; 0 uses threads of this
        process. Workers take seconds to start, so `eval_batches` always uses threads. They import
        the script that starts them: it must do its work below `if __name__ == "__main__":`.
      threads: number of batches that each process decodes at the same time; 0 decodes in the
        caller.
      prefetch: number of batches that each process keeps ready, at least `threads`.
      process_index: index of this training process. It reads the rows [process_index * local,
        (process_index + 1) * local) of every global batch.
      process_count: number of training processes that share a global batch.
      max_unreadable: largest share of the images that may become unreadable during training. Each
        process counts the ones that it meets, and starts at 0 when a run resumes.
    """

    workers: int = 0
    threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    prefetch: int = 4
    process_index: int = 0
    process_count: int = 1
    max_unreadable: float = 0.01


def train_batches(
    images,
    order: Shuffled | Balanced,
    batch_size: int,
    *,
    first_step: int = 0,
    last_step: int,
    targets: np.ndarray | None = None,
    reading: Reading | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the global batches first_step, ..., last_step - 1.

    If an image has become unreadable, the log names it, and the next readable index replaces it,
    with its own label. An index with a target below 0 never replaces one with a target >= 0.

    Args:
      images: anything with a length whose `[i]` is a uint8 array `[s, s, 3]`; all of one shape.
      order: maps a position of the endless global sequence to an image index.
      batch_size: rows of the global batch, over all processes.
      first_step: the first step to yield: where a resumed run starts.
      last_step: the step to stop before.
      targets: `[n]` integers that become `label`; by default `images.labels`.
      reading: how to read; by default, with threads of this process.

    Returns:
      An iterator over dicts of `image` uint8 `[local, s, s, 3]`, `index` int32 `[local]` and, where
      there are targets, `label` int32 `[local]`.

    Raises:
      ValueError: the steps, batch size and processes do not fit together; `order` or `targets` is
        for another number of images; or this process has met more unreadable images since
        `first_step` than `reading.max_unreadable` allows.
    """
    reading = reading or Reading()
    local = _local_batch(batch_size, reading)
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
    first_row = reading.process_index * local
    make = _TrainBatch(images, order, batch_size, first_row, local, _targets(images, targets))
    batches = _read_ahead(make, range(first_step, last_step), reading, reading.workers)
    return _count_unreadable(batches, len(images), reading.max_unreadable)


def eval_batches(
    images,
    batch_size: int,
    *,
    reading: Reading | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image once, in index order. Arguments and arrays are as in `train_batches`.

    All batches have the full size. The rows after the last image are zeros in every array, and the
    additional array `mask`, bool `[local]`, is False there.

    Raises:
      ValueError: the batch size and processes do not fit together, or an image cannot be read.
        Unlike in training, no other image can replace it.
    """
    reading = reading or Reading()
    local = _local_batch(batch_size, reading)
    first_row = reading.process_index * local
    make = _EvalBatch(images, batch_size, first_row, local, _targets(images, None))
    return _read_ahead(make, range(-(-len(images) // batch_size)), reading, workers=0)


# Classes instead of closures, because workers get them by pickle.
@dataclass(frozen=True, eq=False)
class _TrainBatch:
    images: Any
    order: Shuffled | Balanced
    batch_size: int
    first_row: int
    rows: int
    targets: np.ndarray | None

    def __call__(self, step: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
        """Returns the batch, and the index and reason of each image that could not be read."""
        start = step * self.batch_size + self.first_row
        indices, pixels, unreadable = [], [], []
        for position in range(start, start + self.rows):
            for index in self._candidates(self.order(position)):
                try:
                    pixels.append(self.images[index])
                except ValueError as error:
                    unreadable.append((index, str(error)))
                else:
                    indices.append(index)
                    break
        if len(pixels) < self.rows:
            raise ValueError(f"no image can be read any more: {unreadable[-1][1]}")
        return _batch(pixels, indices, self.targets), unreadable

    def _candidates(self, drawn: int) -> Iterator[int]:
        """Yields the drawn index, then the indices that may replace it."""
        yield drawn
        for other in range(drawn + 1, drawn + len(self.images)):
            index = other % len(self.images)
            # A target below 0 means no cluster: such an index is never drawn and has no label.
            if (
                self.targets is None
                or self.targets.ndim > 1
                or not self.targets[index] < 0 <= self.targets[drawn]
            ):
                yield index


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


def _read_ahead(
    make: Callable[[int], Any], steps: range, reading: Reading, workers: int
) -> Iterator:
    """Yields make(step) for every step. Threads or processes make some steps ahead of time."""
    # Imported here: grain imports JAX and orbax, which takes seconds that a scan does not need.
    import grain

    # grain runs no more threads than its buffer has batches.
    options = grain.ReadOptions(reading.threads, max(reading.prefetch, reading.threads))
    batches = grain.MapDataset.range(steps.start, steps.stop).map(make).to_iter_dataset(options)
    if workers:
        # grain's workers read absl flags, which notebooks and scripts do not parse.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(workers, reading.prefetch))
    return iter(batches)


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


def _local_batch(batch_size: int, reading: Reading) -> int:
    process_index, process_count = reading.process_index, reading.process_count
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
