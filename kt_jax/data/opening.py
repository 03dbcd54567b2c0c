"""Opens sets of images: lists a source, scans new files, and finds splits and labels."""

import functools
import hashlib
import inspect
import logging
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kt_jax.data import layout
from kt_jax.data.cache import keep_decoded
from kt_jax.data.decode import decode_image
from kt_jax.data.image_set import Hashes, Images
from kt_jax.data.scan import labels_of, manifest_path, scan
from kt_jax.data.sources import (
    SOURCES,
    Excluded,
    Source,
    check_options,
    describe_excluded,
    make_source,
    photographs,
)
from kt_jax.data.splits import KNOWN

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

_log = logging.getLogger(__name__)


def open_images(
    source: str,
    *,
    size: int,
    cache_dir: str | os.PathLike | None = None,
    cache: str = "none",
    workers: int = 0,
    **options: Any,
) -> Images:
    """Opens a set of images.

    The first call reads and checks every image. Unreadable files are excluded and logged.

    Args:
      source: one of the names below, with its options in brackets. All but "photographs" also take
        subset="all" | "train" | "test" and holdout=0.2.
        "auto" (path): looks at the path to choose one of the others.
        "folder" (path: a folder, a glob, or a list of them).
        "zip" (path), "tar" (path).
        "manifest" (path of a .csv, .tsv or .parquet, path_column="path", label_column="label",
        split_column="split"; or path of the output of `python -m kt_jax.data scan`).
        "tfds" (name, split, data_dir="").
        "array_record" (path of a file, a folder or a glob).
        "voc" (path of one year of a devkit).
        "huggingface" (path, image_column="image", label_column="label"). If these columns are
        absent, it takes "img" or the only image column, and "labels", "fine_label" or the only
        ClassLabel.
        "webdataset" (path of a tar, a folder of tars, a glob, a name with braces such as
        "train-{0000..0146}.tar", or a list of them).
        "photographs" (subset="train" | "test", views_per_photograph=256, seed=0, share=(0.4, 1.0)).
      size: side of the decoded images, in pixels.
      cache_dir: where to keep the result of the check, so that the next call is fast. None checks
        every time.
      cache: where to keep decoded images: "ram", "disk", "none", or "auto", which chooses by the
        free space.
      workers: number of processes that will decode. Only cache="auto" uses it.
      **options: options of the source, as listed.

    Returns:
      The images, which are decoded when they are indexed.

    Raises:
      ValueError: an unknown source or option, an empty subset, or no readable image.
      FileNotFoundError: the path does not exist.
    """
    _check_types(source, size, options)
    if source == "photographs":
        check_options(source, photographs.Views, options)
        images = _show_photographs(photographs.Views(size, **options))
    else:
        splitting = {"subset": options.pop("subset", "all"), "holdout": options.pop("holdout", 0.2)}
        opened = make_source(source, True, **options)
        path = None if cache_dir is None else manifest_path(opened, cache_dir)
        images = _make_images(opened, scan(opened, path), size, **splitting)
    load = keep_decoded(
        images.load,
        len(images),
        size,
        place=cache,
        name=images.origin,
        fingerprint=images.fingerprint,
        cache_dir=cache_dir,
        workers=workers,
    )
    return replace(images, load=load)


def _check_types(source: Any, size: Any, options: Mapping[str, Any]) -> None:
    """Refuses values of wrong types: configs are Python code, and may hold any."""

    def is_path(value: Any) -> bool:
        return isinstance(value, str | os.PathLike)

    if not isinstance(source, str):
        raise ValueError(f"source={source!r} is no name: give one, such as 'auto'")
    if not _is_number(size, numbers.Integral) or size < 1:
        raise ValueError(f"size={size!r} is not a side in pixels: give a whole number from 1 on")
    path, holdout = options.get("path", ""), options.get("holdout", 0.2)
    if not is_path(path) and not (isinstance(path, list | tuple) and all(map(is_path, path))):
        raise ValueError(f"path={path!r} is no path: give one, or a list of paths")
    if not _is_number(holdout, numbers.Real):
        raise ValueError(f"holdout={holdout!r} is no number: give a fraction in [0, 1)")


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def options_of(source: str) -> set[str]:
    """Returns the names of a source's options in `open_images`; empty for an unknown source.

    "auto" has the options of every source that it can choose.
    """
    if source == "photographs":
        return {*inspect.signature(photographs.Views).parameters} - {"size"}
    asked = {name: {*inspect.signature(each).parameters} for name, each in SOURCES.items()}
    found = [each for each in asked.values() if "path" in each]
    known = set().union(*found) if source == "auto" else asked.get(source, set())
    return known - {"entries"} | {"subset", "holdout"} if known else set()


def _make_images(opened: Source, table: pa.Table, size: int, subset: str, holdout: float) -> Images:
    keys = table["key"].to_pylist()
    given = opened.given_subsets
    folders = layout.read_layout(keys)
    subsets = folders.subsets if given is None else given
    chosen = layout.in_subset(keys, subsets, subset, holdout)
    # Folder names give the classes if neither the source nor its scan does.
    said = opened.presence is not None or "label" in opened.entries.column_names
    said = said or table["label"].null_count < len(table)
    doubt, masks = ("", "") if said else (folders.doubt, folders.masks)
    doubts = [doubt, masks]
    if subset != "all" and subsets is None:
        unsplit = layout.why_unsplit(keys, opened.name, doubt=doubt, lists=opened.lists)
        doubts.append(opened.unsplit or unsplit)
    elif subset == "train" and given is not None:
        doubts.append(layout.why_unknown(given))
    for doubt in filter(None, doubts):
        _warn_once(opened.identity, opened.name, doubt)
    if not chosen.any():
        if unknown := sorted({place for place in given or () if place} - {"train", "test"}):
            names = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"subset {subset!r} of {opened.name} is empty: its images are of splits that are "
                f"not known here, {names}: name them as one of {KNOWN}, or use subset='all'"
            )
        raise ValueError(
            f"subset {subset!r} of {opened.name} is empty ({len(keys)} images in all, holdout="
            f"{holdout}): use subset='all'{' or another holdout' if given is None else ''}"
        )
    readable = pc.equal(table["reason"], "").to_numpy()
    bad = table.select(["key", "reason"]).filter(chosen & ~readable).to_pylist()
    excluded = [*opened.refused, *(Excluded(**row) for row in bad)]
    excluded.sort(key=lambda each: each.key)
    if not (chosen & readable).any():
        raise ValueError(
            f"none of the {chosen.sum()} images of {opened.name} can be read; the first: "
            f"{excluded[0].key}: {excluded[0].reason}"
        )
    if excluded:
        _log.warning(
            "%s: %d of %d files excluded:",
            *(opened.name, len(excluded), chosen.sum() + len(opened.refused)),
        )
    for line in describe_excluded(excluded):
        _log.warning("  %s", line)
    rows = np.flatnonzero(chosen & readable)
    labels, class_names = _labels(opened, table, keys, rows)
    kept = table.select(["key", "sha256"]).take(rows)
    content = kept["sha256"].to_pylist()
    keys = tuple(kept["key"].to_pylist())
    return Images(
        keys=keys,
        labels=labels,
        class_names=class_names,
        size=size,
        excluded=tuple(excluded),
        origin=f"{opened.name}, {subset}",
        fingerprint=_fingerprint(size, keys, labels, content),
        hashes=make_hashes(opened, table, rows),
        boxes=_boxes_of(opened.boxes, rows),
        load=_Decoded(opened, rows, size),
        root=getattr(opened, "root", None),
    )


def make_hashes(opened: Source, table: pa.Table, rows: np.ndarray) -> Hashes:
    """Returns the hashes of the readable entries at `rows` of the scan `table`."""
    content = table["sha256"]
    if opened.originals is not None:
        content = pc.coalesce(opened.originals, content)
    return Hashes(tuple(content.take(rows).to_pylist()), table["phash"].take(rows).to_numpy())


def _labels(
    opened: Source, table: pa.Table, keys: list[str], rows: np.ndarray
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns the labels of the entries at `rows`, and the class names of the whole source."""
    if opened.presence is not None:
        return opened.presence[rows], opened.class_names
    classes = labels_of(opened, table)
    if classes.null_count == len(classes):
        return None, ()
    names = opened.class_names or layout.sorted_names(pc.unique(classes).to_pylist())
    if alike := layout.find_alike(names):
        both = " and ".join(map(repr, alike))
        doubt = f"{both} are two classes: if they are one, write its name the same way everywhere"
        _warn_once(opened.identity, opened.name, doubt)
    numbers = pc.index_in(classes.take(rows), value_set=pa.array(names, pa.string()))
    labels = pc.fill_null(numbers, -1).to_numpy().astype(np.int32)
    if len(unknown := np.flatnonzero(labels < 0)):
        _log.warning(
            "%s: %d of %d images have no class, such as %s: the set has no labels",
            *(opened.name, len(unknown), len(labels), keys[rows[unknown[0]]]),
        )
        return None, ()
    return labels, names


# One warning for each set: a run opens it for training and again for tests.
@functools.cache
def _warn_once(identity: str, name: str, text: str) -> None:
    _log.warning("%s: %s", name, text)


@dataclass(frozen=True)
class _Decoded:
    source: Source
    rows: np.ndarray
    size: int

    def __call__(self, i: int) -> np.ndarray:
        return decode_image(self.source.read(int(self.rows[i])), self.size)


def _show_photographs(views: photographs.Views) -> Images:
    keys, names = views.keys(), tuple(photographs.FILES)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), views.views_per_photograph)
    # A view depends on the photograph and on these values only.
    details = [str(views.seed), str(list(views.share))] + [
        hashlib.sha256(photographs.photograph_path(name).read_bytes()).hexdigest() for name in names
    ]
    return Images(
        keys=keys,
        labels=labels,
        class_names=names,
        size=views.size,
        excluded=(),
        origin=f"photographs, {views.subset}",
        fingerprint=_fingerprint(views.size, keys, labels, details),
        load=views,
    )


def _boxes_of(boxes: pa.Table | None, rows: np.ndarray) -> pa.Table | None:
    if boxes is None:
        return None
    index = pc.index_in(boxes["row"], pa.array(rows))
    boxes = boxes.drop_columns("row").add_column(0, "index", index)
    return boxes.filter(index.is_valid())


def _fingerprint(size, keys, labels, details) -> str:
    digest = hashlib.sha256(str(size).encode())
    for texts in (keys, details):
        digest.update(f"\n{len(texts)}\n".encode() + "\n".join(texts).encode())
    if labels is not None:
        digest.update(str(labels.shape).encode() + labels.astype("<i4").tobytes())
    return digest.hexdigest()
