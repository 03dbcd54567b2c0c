"""Reads every image of a source once, to check it and to find its properties and hashes.

The result, the manifest, is a table with one row per entry. It is reused: an entry whose size and
stamp have not changed is not read again, unless another version of the decoder examined it.
"""

import concurrent.futures
import functools
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import scipy.fft
from jaxtyping import UInt8, UInt64

from kt_jax.data import layout
from kt_jax.data.decode import DECODER, THUMBNAIL, VERSION, examine_image
from kt_jax.data.sources.listing import SCANNED
from kt_jax.data.sources.source import ENTRIES, Source
from kt_jax.runs import progress

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

_log = logging.getLogger(__name__)

# phash: 64 bits of the low frequencies of the grey image. Near duplicates differ in a few.
# reason: empty for readable images. For the others, height, width, mode and phash are null.
EXAMINED = pa.schema(
    [
        ("label", pa.string()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mode", pa.string()),
        ("phash", pa.uint64()),
        ("reason", pa.string()),
    ]
)
MANIFEST = pa.schema([*ENTRIES, *EXAMINED])
# Key of a manifest's metadata: the decoder that examined the images.
_DECODER = b"kt_jax.decoder"

# Of 256 greys. Samples of 12 bits in 16-bit files give at most 15; resizing raises this a little.
_DARK = 24
_NEARLY_ALL = 0.95
_ROWS_PER_TASK = 64
_SECONDS_BETWEEN_SAVES = 60.0


def scan(
    source: Source, path: str | os.PathLike | None = None, known: pa.Table | None = None
) -> pa.Table:
    """Examines the entries of a source, in their order.

    Args:
      source: the source of the entries.
      path: file of the manifest, a .parquet. Its rows of entries that have not changed are reused.
        The result is written to it, also once a minute, so that an interrupted scan resumes. Images
        that another release of Pillow refused are examined again. If another version of this
        decoder gave other pixels, all are examined again. None writes no file.
      known: an earlier manifest, used in the same way if `path` does not exist.

    Returns:
      A table with the columns of MANIFEST and one row per entry. `label` is null unless the source
      stores labels with its images. The metadata name the decoder.
    """
    entries = source.entries.select(ENTRIES.names)
    known, decoder = _find_known(source, path, known)
    doubt_reasons = known is not None and decoder != _decoder_of(known)
    rows = _find(entries, known, doubt_reasons)
    new = np.flatnonzero(rows < 0)
    if known is not None:
        _log.info(
            "%s: %s images, %s new or changed", source.name, f"{len(rows):,}", f"{len(new):,}"
        )
        if not len(new) and len(known) == len(entries):
            table = known.select(MANIFEST.names)
            table = table if (rows == np.arange(len(rows))).all() else table.take(rows)
            return table.replace_schema_metadata({_DECODER: decoder})
    found = [EXAMINED.empty_table() if known is None else known.select(EXAMINED.names)]
    count = len(found[0])
    saved = time.monotonic()
    for task, values in _examine_all(source, new) if len(new) else ():
        found.append(values)
        rows[task] = np.arange(count, count + len(task))
        count += len(task)
        if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            saved = time.monotonic()
            write_manifest(_join(entries, rows, found, decoder), path)
    table = _join(entries, rows, found, decoder)
    if path is not None:
        write_manifest(table, path)
    return table


def labels_of(source: Source, scanned: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Returns the class of every entry, or null.

    It comes from the scan, else from a column of the source, else from the folders of the keys.
    """
    if scanned["label"].null_count < len(scanned):
        return scanned["label"]
    if "label" in source.entries.column_names:
        return source.entries["label"]
    classes = layout.classes_of(scanned["key"].to_pylist())
    return scanned["label"] if classes is None else pa.array(classes, pa.string())


def manifest_path(source: Source, cache_dir: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a source's manifest below `cache_dir`."""
    identity = hashlib.sha256(source.identity.encode("utf-8", "surrogateescape")).hexdigest()
    return pathlib.Path(cache_dir) / f"{identity[:16]}.parquet"


def read_manifest(path: str | os.PathLike) -> pa.Table:
    """Reads a manifest.

    Raises:
      ValueError: the file is not a manifest.
    """
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no manifest ({error}): delete it and scan again") from error
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} is no manifest: it lacks the columns {', '.join(missing)}")
    return table


def write_manifest(table: pa.Table, path: str | os.PathLike) -> None:
    """Writes a manifest to a temporary file and renames it, so that it is never half-written."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        pq.write_table(table, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def perceptual_hash(thumbnails: UInt8[np.ndarray, "*n 32 32"]) -> UInt64[np.ndarray, "*n"]:
    """Returns the pHash of grey thumbnails: the same 64 bits as `imagehash.phash`.

    A bit says whether one of the lowest 8 x 8 frequencies of the cosine transform is above their
    median.
    """
    frequencies = scipy.fft.dct(scipy.fft.dct(thumbnails.astype(np.float64), axis=-2), axis=-1)
    lowest = frequencies[..., :8, :8].reshape(*thumbnails.shape[:-2], 64)
    bits = lowest > np.median(lowest, axis=-1, keepdims=True)
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def _find_known(
    source: Source, path: str | os.PathLike | None, known: pa.Table | None
) -> tuple[pa.Table | None, str]:
    """Returns the earlier manifest, if any, and the decoder of the result."""
    if source.manifest is not None:
        if SCANNED in (source.manifest.schema.metadata or {}) and not _is_current(source.manifest):
            _log.warning(
                "%s: its manifest is of an earlier release, which read some images in another way "
                "or not at all: scan the images again",
                source.name,
            )
        return source.manifest, _decoder_of(source.manifest)
    if path is not None and os.path.exists(path):
        known = read_manifest(path)
    if known is not None and not _is_current(known):
        _log.info("%s: images are examined again: pixels may be others now", source.name)
        known = None
    return known, DECODER


def _decoder_of(manifest: pa.Table) -> str:
    """Returns the decoder that examined the images of a manifest; "" if unknown."""
    return (manifest.schema.metadata or {}).get(_DECODER, b"").decode()


def _is_current(manifest: pa.Table) -> bool:
    """Whether the images were examined by a decoder with the same pixels as this one."""
    return _decoder_of(manifest).partition(",")[0] == str(VERSION)


def _find(entries: pa.Table, known: pa.Table | None, doubt_reasons: bool) -> np.ndarray:
    """Returns the row of `known` that is still valid for each entry, or -1."""
    if known is None:
        return np.full(len(entries), -1)
    if entries["key"].equals(known["key"]):  # the usual case, and many times faster
        rows = np.arange(len(entries))
    else:
        found = pc.index_in(entries["key"], known["key"].combine_chunks())
        rows = pc.fill_null(found, -1).to_numpy()
    # Files that could not be read may be readable now, with the same stamp.
    holds = known["sha256"].is_valid().to_numpy()
    if doubt_reasons:
        holds = holds & pc.equal(known["reason"], "").to_numpy()
    same = (rows >= 0) & holds[rows] if len(known) else rows >= 0
    for name in ("bytes", "stamp"):
        was = known[name].to_numpy()
        same[same] = was[rows[same]] == entries[name].to_numpy()[same]
    return np.where(same, rows, -1)


def _join(entries: pa.Table, rows: np.ndarray, found: list[pa.Table], decoder: str) -> pa.Table:
    """Returns the entries whose row in `found` is not negative, joined with these rows."""
    have = rows >= 0
    table, values = entries.filter(have), pa.concat_tables(found).take(rows[have])
    for name in EXAMINED.names:
        table = table.append_column(EXAMINED.field(name), values[name])
    return table.combine_chunks().replace_schema_metadata({_DECODER: decoder})


class _Found(NamedTuple):
    """Scanned rows, their number of images with 16 bits, and of nearly black ones among these."""

    values: pa.Table
    deep: int
    dark: int


def _examine_all(source: Source, new: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Examines all rows of `new`; yields some rows and their results at a time."""
    tasks = np.array_split(new, -(-len(new) // _ROWS_PER_TASK))
    deep, dark = 0, 0
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        progress.Count(source.name, len(new), "images examined") as count,
    ):
        examine = functools.partial(_examine, source)
        for task, found in zip(tasks, pool.map(examine, tasks), strict=True):
            yield task, found.values
            deep += found.deep
            dark += found.dark
            count.add(len(task))
    if dark > _NEARLY_ALL * deep:
        _log.warning(
            "%s: %s of %s images of 16 bits are nearly black: no pixel is brighter than about "
            "a sixteenth of white. If they hold 12 bits, multiply their pixels by 16 "
            "(10 bits: by 64) and save them again",
            *(source.name, f"{dark:,}", f"{deep:,}"),
        )


def _examine(source: Source, task: np.ndarray) -> _Found:
    columns: dict[str, list] = {name: [None] * len(task) for name in EXAMINED.names}
    thumbnails = np.zeros((len(task), THUMBNAIL, THUMBNAIL), np.uint8)
    deep, dark = 0, 0
    for at, row in enumerate(task):
        try:
            data, columns["label"][at] = source.read_labelled(int(row))
            columns["sha256"][at] = hashlib.sha256(data).hexdigest()
            seen = examine_image(data)
        except ValueError as error:
            columns["reason"][at] = str(error)
            continue
        columns["reason"][at] = ""
        columns["height"][at], columns["width"][at] = seen.height, seen.width
        columns["mode"][at], thumbnails[at] = seen.mode, seen.thumbnail
        if seen.bits == 16:
            deep += 1
            dark += bool(seen.thumbnail.max() < _DARK)
    unreadable = np.array([mode is None for mode in columns["mode"]])
    columns["phash"] = pa.array(perceptual_hash(thumbnails), mask=unreadable)
    return _Found(pa.table(columns, schema=EXAMINED), deep, dark)
