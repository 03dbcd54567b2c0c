"""Sets of images: verified, named, indexable, and decoded only when indexed."""

import dataclasses
import hashlib
import operator
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kt_jax.data.sources import Excluded


@dataclass(frozen=True, eq=False)
class Hashes:
    """What tells that two images are the same, or nearly.

    Attributes:
      content: sha256 of the file, hexadecimal, `[n]`: equal for equal files. Of a set that was
        re-encoded by `python -m kt_jax.data prepare`, that of the file before, so that an image and
        its copy in such a set are equal.
      perceptual: pHash, uint64 `[n]`: a few bits apart for near duplicates.
    """

    content: tuple[str, ...]
    perceptual: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """An indexable set of verified images: `images[i]` is uint8 `[size, size, 3]`.

    Picklable and safe to index from many threads.

    Attributes:
      keys: a unique, stable name for every image: the POSIX path below the root.
      labels: int32 `[n]`, ids into `class_names`; or, where an image may show several classes,
        int8 `[n, classes]`: 1 present, 0 present but only as "difficult", -1 absent; None where
        there are no labels.
      class_names: sorted; empty where there are no labels.
      size: the side of every image, in pixels.
      excluded: the files that are no image of the set, and why.
      origin: where the images came from, for people.
      fingerprint: sha256 that changes with the images, but not with where the files lie.
      load: the decoder: index -> uint8 `[size, size, 3]`, ValueError if unreadable.
      hashes: what tells duplicates; None where the images are no files.
      boxes: of images whose source has them, a table with the columns index, class, xmin, ymin,
        xmax, ymax (pixels of the original), difficult, truncated; else None.
      root: where every image is a file of its own, the folder that the keys are paths below; else
        None.
    """

    keys: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    size: int
    excluded: tuple[Excluded, ...]
    origin: str
    fingerprint: str
    load: Callable[[int], np.ndarray]
    hashes: Hashes | None = None
    boxes: pa.Table | None = None
    root: pathlib.Path | None = None

    @property
    def single_labels(self) -> np.ndarray | None:
        """The labels, int32 `[n]`, where every image has exactly one; else None."""
        return None if self.labels is None or self.labels.ndim > 1 else self.labels

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"Images({self.origin}: {len(self):,} of {self.size} px{classes})"

    def __getitem__(self, i: int | np.integer) -> np.ndarray:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)} ({self.origin}): i must be in [0, n)")
        try:
            return self.load(i)
        except ValueError as error:
            raise ValueError(
                f"{self.keys[i]} ({self.origin}) cannot be read: {error}. Restore the file, "
                "or touch or delete it and open the set again (of a manifest: scan it again)"
            ) from error


def take_rows(images: Images, rows: Sequence[int]) -> Images:
    """Some images alone, in the order of `rows`, without their labels, hashes and boxes."""
    return dataclasses.replace(
        images,
        keys=tuple(images.keys[row] for row in rows),
        labels=None,
        class_names=(),
        hashes=None,
        boxes=None,
        load=_Chosen(images.load, rows),
    )


@dataclass(frozen=True)
class _Chosen:
    """A decoder that counts chosen images alone."""

    load: Callable[[int], np.ndarray]
    rows: Sequence[int]

    def __call__(self, i: int) -> np.ndarray:
        return self.load(self.rows[i])


def index_columns(images: Images) -> dict[str, Any]:
    """index, key, label (-1 where there is none, or there may be several) and class of images."""
    labels, classes = images.single_labels, [None] * len(images)
    if labels is None:
        labels = np.full(len(images), -1, np.int32)
    else:
        classes = [images.class_names[label] for label in labels]
    return {
        "index": np.arange(len(images), dtype=np.int64),
        "key": list(images.keys),
        "label": labels,
        "class": pa.array(classes, pa.string()),
    }


def hash_keys(images: Images) -> str:
    """A SHA-256 of the names of the images in their order and, where known, of their files.

    The size that they are decoded to does not matter.
    """
    told = [*images.keys, *(() if images.hashes is None else images.hashes.content)]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def check_size(images: Images, origin: str, size: int) -> None:
    """Refuses images that are smaller than the `size` px of them that a stage shows.

    Raises:
      ValueError: with both sizes; `origin` is where the config names the images.
    """
    if images.size < size:
        raise ValueError(
            f"{origin} names {images.origin}, decoded to {images.size} px, but {size} px of them "
            f"are used: set the size of that source in config.images to {size} or more."
        )


def find_shortage(images: Images, batch_size: int) -> tuple[str, ...]:
    """What a training from these images would be poor in, for people; empty if nothing."""
    found = []
    if len(images) < batch_size:
        found.append(
            f"{len(images)} images are fewer than a batch of {batch_size}, which shows "
            "some of them twice: give more images, or a smaller batch_size"
        )
    if images.hashes is not None and len(images) > 1 and len(set(images.hashes.content)) == 1:
        found.append(f"the {len(images)} images are all the same: nothing can be learned")
    return tuple(found)
