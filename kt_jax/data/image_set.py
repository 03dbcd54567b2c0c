"""Sets of images: checked, named, indexable, and decoded only when indexed."""

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
    """Hashes that find equal images and near duplicates.

    Attributes:
      content: `[n]` SHA-256 of each file, hexadecimal. For images that
        `python -m kt_jax.data prepare` re-encoded, it is the hash of the original file, so that an
        image and its re-encoded copy are equal.
      perceptual: pHash, uint64 `[n]`. The hashes of near duplicates differ in a few bits.
    """

    content: tuple[str, ...]
    perceptual: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """An indexable set of verified images: `images[i]` is uint8 `[size, size, 3]`.

    It can be pickled, and indexed from many threads.

    Attributes:
      keys: `[n]` unique, stable names: for files, POSIX paths below the root.
      labels: int32 `[n]`, indices into `class_names`. If an image may show several classes: int8
        `[n, classes]`, 1 for present, 0 for present but only as "difficult", -1 for absent. None
        without labels.
      class_names: sorted; empty without labels.
      size: side of every image, in pixels.
      excluded: the files that are not in the set, with reasons.
      origin: where the images came from, for people.
      fingerprint: SHA-256 that changes with the images, but not with the location of the files.
      load: the decoder: index -> uint8 `[size, size, 3]`. Raises ValueError if unreadable.
      hashes: hashes to find duplicates; None if the images are not files.
      boxes: bounding boxes: a table with the columns index, class, xmin, ymin, xmax, ymax (pixels
        of the original), difficult, truncated. None if the source has no boxes.
      root: the folder that the keys are relative to, if every image is a file of its own; else
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
        """The labels, int32 `[n]`, if every image has exactly one; else None."""
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
    """Returns the images at `rows`, in this order, without labels, hashes and boxes."""
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
    """A decoder with indices into the chosen rows."""

    load: Callable[[int], np.ndarray]
    rows: Sequence[int]

    def __call__(self, i: int) -> np.ndarray:
        return self.load(self.rows[i])


def index_columns(images: Images) -> dict[str, Any]:
    """Returns the columns index, key, label (-1 if unknown or multi-label) and class."""
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
    """Returns a SHA-256 of the ordered image names and, if known, of the content of their files.

    It does not depend on the decoded size.
    """
    told = [*images.keys, *(() if images.hashes is None else images.hashes.content)]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def check_size(images: Images, origin: str, size: int) -> None:
    """Checks that images are decoded to at least the `size` pixels that a stage needs.

    Raises:
      ValueError: they are smaller. The message names `origin`, their place in the config.
    """
    if images.size < size:
        raise ValueError(
            f"{origin} names {images.origin}, decoded to {images.size} px, but {size} px of them "
            f"are used: set the size of that source in config.images to {size} or more."
        )


def find_shortage(images: Images, batch_size: int) -> tuple[str, ...]:
    """Returns warnings about images that are too few or all equal; empty if there are none."""
    found = []
    if len(images) < batch_size:
        found.append(
            f"{len(images)} images are fewer than a batch of {batch_size}, which shows "
            "some of them twice: give more images, or a smaller batch_size"
        )
    if images.hashes is not None and len(images) > 1 and len(set(images.hashes.content)) == 1:
        found.append(f"the {len(images)} images are all the same: nothing can be learned")
    return tuple(found)
