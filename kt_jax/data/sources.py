"""Where images come from: a folder, a zip, a TFDS data set, or photographs that need no download.

Every source opens as `Images`: verified, named, indexable, and decoded only when indexed.
"""

import difflib
import hashlib
import inspect
import json
import logging
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from kt_jax.data import photographs
from kt_jax.data.archives import EXTENSIONS, Folder, Zip, cached, layout, scan
from kt_jax.data.decode import decode_image

_log = logging.getLogger(__name__)

SUBSETS = ("all", "train", "test")
# Decoded sets up to this size stay in memory.
KEEP_DECODED_BYTES = 1 << 30


@dataclass(frozen=True)
class Excluded:
    """A file that is no image of the set, and why."""

    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class Images:
    """An indexable set of verified images: `images[i]` is uint8 `[size, size, 3]`.

    Picklable and safe to index from many threads.

    Attributes:
      keys: a unique, stable name for every image, sorted: the POSIX path below the root.
      labels: int32 `[n]`, ids into `class_names`; None where there are no labels.
      class_names: sorted; empty where there are no labels.
      size: the side of every image, in pixels.
      excluded: the files left out.
      origin: where the images came from, for people.
      fingerprint: sha256 that changes with the images, but not with where the files lie.
      load: the decoder: index -> uint8 `[size, size, 3]`, ValueError if unreadable.
    """

    keys: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    size: int
    excluded: tuple[Excluded, ...]
    origin: str
    fingerprint: str
    load: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int | np.integer) -> np.ndarray:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)} ({self.origin}): i must be in [0, n)")
        try:
            return self.load(i)
        except ValueError as error:
            raise ValueError(
                f"{self.keys[i]} ({self.origin}) cannot be read: {error}. If the files changed "
                "since the set was opened, open it again"
            ) from error


def open_images(source: str, *, size: int, cache_dir=None, **options) -> Images:
    """Opens a set of images.

    Args:
      source: "folder" or "zip" (options path, subset="all" | "train" | "test", holdout=0.2),
        "photographs" (subset="train" | "test", views_per_photograph=256, seed=0,
        share=(0.4, 1.0)), or "tfds" (name, split, data_dir="").
      size: side of the decoded images, in pixels.
      cache_dir: where the result of verifying a folder or a zip (and the labels of a TFDS data
        set) is kept, so that opening it again is fast; None verifies every time.
      **options: of the source, as listed.

    Raises:
      ValueError: an unknown source or option, or no readable image.
      FileNotFoundError: the path does not exist.
    """
    openers = {
        "folder": _open_folder,
        "zip": _open_zip,
        "photographs": _open_photographs,
        "tfds": _open_tfds,
    }
    if source not in openers:
        raise ValueError(f"unknown source {source!r}{_nearest(source, openers)}")
    if size < 1:
        raise ValueError(f"size={size} is not a side in pixels: it must be >= 1")
    parameters = list(inspect.signature(openers[source]).parameters.values())[2:]
    known = {p.name: p.default is p.empty for p in parameters}
    for name in options:
        if name not in known:
            raise ValueError(f"source {source!r}: unknown option {name!r}{_nearest(name, known)}")
    for name, required in known.items():
        if required and name not in options:
            raise ValueError(f"source {source!r} needs the option {name!r}, which was not given")
    images = openers[source](size, cache_dir, **options)
    if len(images) * size * size * 3 <= KEEP_DECODED_BYTES:
        images = replace(images, load=_Remembered(images.load, len(images), size))
    return images


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


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f": did you mean {near[0]!r}?" if near else ":") + f" Known: {', '.join(known)}"


def _open_folder(size, cache_dir, *, path, subset="all", holdout=0.2) -> Images:
    return _open_archive("folder", Folder(path), size, cache_dir, subset, holdout)


def _open_zip(size, cache_dir, *, path, subset="all", holdout=0.2) -> Images:
    return _open_archive("zip", Zip(path), size, cache_dir, subset, holdout)


class _Remembered:
    """Keeps every image that it has decoded once: epochs after the first cost no decoding."""

    def __init__(self, load: Callable[[int], np.ndarray], count: int, size: int) -> None:
        self._load, self._shape = load, (count, size, size, 3)
        self._forget()

    def _forget(self) -> None:
        # The pages of np.empty are real only once they are written.
        self._decoded = np.empty(self._shape, np.uint8)
        self._known = np.zeros(self._shape[0], bool)

    def __call__(self, i: int) -> np.ndarray:
        # Two threads may both decode an image: they write the same bytes.
        if not self._known[i]:
            self._decoded[i] = self._load(i)
            self._known[i] = True
        return self._decoded[i]

    def __getstate__(self) -> dict:
        return {"_load": self._load, "_shape": self._shape}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._forget()


@dataclass(frozen=True)
class _ArchiveImages:
    archive: Folder | Zip
    keys: tuple[str, ...]
    size: int

    def __call__(self, i: int) -> np.ndarray:
        return decode_image(self.archive.read(self.keys[i]), self.size)


def _open_archive(kind, archive, size, cache_dir, subset, holdout) -> Images:
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r} but must be one of {', '.join(SUBSETS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout} but must be a fraction in [0, 1)")
    files, refused = archive.list_files()
    if not files:
        raise ValueError(
            f"no images in {archive.path}: looked for {' '.join(EXTENSIONS)} in every "
            f"folder below it; {len(refused)} entries were refused {refused[:3]}"
        )
    chosen, classes = layout([file.name for file in files], subset, holdout)
    if not chosen:
        raise ValueError(
            f"subset {subset!r} of {archive.path} is empty ({len(files)} images in all, holdout="
            f"{holdout}): use subset='all' or another holdout"
        )
    files = [file for file in files if file.name in chosen]
    listing = json.dumps([[f.name, f.bytes, f.crc, f.mtime_ns] for f in files]).encode()
    table = cached(cache_dir, listing, lambda: scan(archive, files))
    reasons = table["reason"].to_pylist()
    readable = [file for file, reason in zip(files, reasons, strict=True) if not reason]
    crcs = dict(zip(table["key"].to_pylist(), table["crc"].to_pylist(), strict=True))
    excluded = [Excluded(*entry) for entry in refused] + [
        Excluded(file.name, reason) for file, reason in zip(files, reasons, strict=True) if reason
    ]
    if not readable:
        raise ValueError(
            f"none of the {len(files)} images of {archive.path} can be read; the first: "
            f"{excluded[0].key}: {excluded[0].reason}"
        )
    if excluded:
        _log.warning(
            "%s: %d of %d files excluded, the first: %s: %s",
            archive.path, len(excluded), len(files) + len(refused), *vars(excluded[0]).values(),
        )  # fmt: skip
    keys = tuple(file.name for file in readable)
    class_names = tuple(sorted(set(classes.values())))
    labels = None
    if classes:
        labels = np.array([class_names.index(classes[key]) for key in keys], np.int32)
    return Images(
        keys=keys,
        labels=labels,
        class_names=class_names,
        size=size,
        excluded=tuple(sorted(excluded, key=lambda e: e.key)),
        origin=f"{archive.path.name}, {subset}",
        fingerprint=_fingerprint(
            kind, size, keys, labels, [(f.bytes, crcs[f.name]) for f in readable]
        ),
        load=_ArchiveImages(archive, keys, size),
    )


def _open_photographs(
    size, cache_dir, *, subset="train", views_per_photograph=256, seed=0, share=(0.4, 1.0)
) -> Images:
    del cache_dir  # Nothing to verify.
    low, high = share
    views = photographs.Views(subset, views_per_photograph, seed, size, (low, high))
    keys, names = views.keys(), tuple(photographs.FILES)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), views_per_photograph)
    crcs = [zlib.crc32(photographs.photograph_path(name).read_bytes()) for name in names]
    fingerprint = _fingerprint("photographs", size, keys, labels, [seed, list(share), *crcs])
    return Images(keys, labels, names, size, (), f"photographs, {subset}", fingerprint, views)


@dataclass(frozen=True)
class _TfdsImages:
    records: Any
    size: int

    def __call__(self, i: int) -> np.ndarray:
        return decode_image(bytes(self.records[i]["image"]), self.size)


def _open_tfds(size, cache_dir, *, name, split, data_dir="") -> Images:
    import tensorflow_datasets as tfds

    skip: Any = {"image": tfds.decode.SkipDecoding()}
    try:
        records: Any = tfds.data_source(
            name, split=split, data_dir=data_dir or None, download=False, decoders=skip
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        where = f" --data_dir={data_dir}" if data_dir else ""
        raise ValueError(
            f"TFDS data set {name!r}, split {split!r}, is not prepared as ArrayRecord in "
            f"{data_dir or 'the default data_dir'}: {error}. Prepare it once with: "
            f"tfds build {name} --file_format=array_record{where}"
        ) from error
    features = records.dataset_info.features
    if "image" not in features:
        raise ValueError(f"TFDS data set {name!r} has no feature 'image', only {list(features)}")
    keys = tuple(f"{name}/{split}/{i:07d}" for i in range(len(records)))
    full_name = records.dataset_info.full_name
    labels, class_names = None, ()
    if "label" in features:
        # A record is read whole to learn its label: worth keeping.
        identity = json.dumps([full_name, split, len(keys), str(data_dir)]).encode()

        def read_labels() -> pa.Table:
            return pa.table({"label": [int(records[i]["label"]) for i in range(len(keys))]})

        labels = cached(cache_dir, identity, read_labels)["label"].to_numpy().astype(np.int32)
        class_names = tuple(features["label"].names)
    fingerprint = _fingerprint("tfds", size, keys, labels, [full_name])
    load = _TfdsImages(records, size)
    origin = f"TFDS {full_name}, {split}"
    return Images(keys, labels, class_names, size, (), origin, fingerprint, load)


def _fingerprint(kind: str, size: int, keys, labels, details: list) -> str:
    numbers = None if labels is None else labels.tolist()
    return hashlib.sha256(json.dumps([kind, size, keys, numbers, details]).encode()).hexdigest()
