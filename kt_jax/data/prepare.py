"""Re-encodes a set of images once, as small pictures in a few files that are fast to read.

An unfinished directory has a folder `.unfinished` with the request and the tables of the complete
shards. manifest.parquet is written last: a directory that has it is finished.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from kt_jax.data.decode import MIN_SIDE
from kt_jax.data.layout import sorted_names
from kt_jax.data.scan import MANIFEST, labels_of
from kt_jax.data.shards import Job, digest_source, place, write_here, write_on_beam
from kt_jax.data.sources import make_source
from kt_jax.data.sources.array_record import (
    EXCLUDED_NAME,
    MANIFEST_NAME,
    PREPARED,
    REQUEST_NAME,
    UNFINISHED,
    read_prepared,
)
from kt_jax.data.sources.source import SUBSET, plain_options
from kt_jax.runs import files, lock, marks

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

_log = logging.getLogger(__name__)

_SHARDS = 64
_MAX_SHARDS = 99_999  # five digits, so that names sort as numbers


def prepare(
    source: str,
    out: str | os.PathLike,
    *,
    size: int = 256,
    quality: int | None = 90,
    shards: int | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    **options: Any,
) -> None:
    """Re-encodes a source into a directory that `source="array_record"` opens.

    After a kill, the same call resumes and keeps complete shards. A finished directory does not
    change. The files do not depend on the runner or the number of cores.

    Args:
      source: name of the source, as in `open_images`.
      out: the directory to write.
      size: short side of the results, in pixels. Smaller images are not enlarged.
      quality: JPEG quality, 1 to 100. None: pixels are stored without compression (PPM), 3 bytes
        each. They lose nothing and need no decoding, nor resizing if `size` is the side that images
        are used at.
      shards: number of files. None: 64, or fewer if 64 files would have fewer than 64 images each.
      runner: runner of Apache Beam. None: all cores of this machine.
      runner_options: more options of the Beam pipeline, as on a command line.
      **options: options of the source, as in `open_images`. A path must be absolute.

    Raises:
      ValueError: a number is out of range; `out` was made with other arguments, or from files that
        have changed, or has other contents, or is in use by another process; no image can be read;
        Beam is not installed.
      FileNotFoundError: the path does not exist, or files of a finished `out` are missing.
      OSError: a file cannot be written, for example because the disk is full.
    """
    options = plain_options(options)
    opened = make_source(source, **options)
    shards = _check(len(opened.entries), size, quality, shards)
    job = Job(opened, pathlib.Path(out).expanduser().absolute(), size, quality, shards)
    request = {
        "source": source,
        "options": options,
        "size": size,
        "quality": quality,
        "shards": shards,
        "files": digest_source(opened),
    }
    begun = job.out / UNFINISHED / REQUEST_NAME
    with marks.working_in(
        job.out,
        request,
        find=lambda _: _find(job),
        start=lambda _, request: files.write_json(begun, request),
    ) as anything:
        if anything:
            missing = [shard for shard in range(shards) if not job.is_complete(shard)]
            if done := shards - len(missing):
                _log.info("%s: %d of %d shards are complete", job.out, done, shards)
            if runner is None:
                write_here(job, missing)
            elif missing:
                write_on_beam(job, missing, runner, runner_options)
            _finish(job, request)
    # Here, because a kill after the manifest leaves them. A finished directory may be read-only.
    with contextlib.suppress(OSError):
        (job.out / lock.NAME).unlink()
    shutil.rmtree(job.out / UNFINISHED, ignore_errors=True)


def _check(count: int, size: int, quality: int | None, shards: int | None) -> int:
    """Checks the arguments; returns the number of shards."""
    if size < MIN_SIDE:
        raise ValueError(f"--size={size}: the short side must have {MIN_SIDE} pixels or more")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"--quality={quality}: choose 1 to 100")
    sensible = min(_SHARDS, max(count // 64, 1))
    if shards is None:
        return sensible
    if not 1 <= shards <= min(count, _MAX_SHARDS):
        raise ValueError(
            f"--shards={shards} for {count} images: choose 1 to {min(count, _MAX_SHARDS)}, such "
            f"as {sensible}"
        )
    return shards


def _find(job: Job) -> marks.Found | None:
    """Returns the request that the directory was started or finished with."""
    begun = job.out / UNFINISHED / REQUEST_NAME
    if not (job.out / MANIFEST_NAME).exists():
        return marks.Found(files.read_json(begun)) if begun.exists() else None
    prepared = read_prepared(job.out)
    records = {job.records_path(shard).name: "" for shard in range(job.shards)}
    return None if prepared is None else marks.Found(prepared["request"], records)


def _finish(job: Job, request: dict[str, Any]) -> None:
    """Writes the tables of all shards, with the manifest last."""
    opened = job.opened
    table = pa.concat_tables([pq.read_table(job.table_path(n)) for n in range(job.shards)])
    label = table.schema.get_field_index("label")
    known = opened.manifest
    if known is not None and known["label"].null_count < len(known):
        rows = pc.index_in(table["key"], known["key"].combine_chunks())
        table = table.set_column(label, MANIFEST.field("label"), known["label"].take(rows))
    labels = labels_of(opened, table)
    table = table.set_column(label, MANIFEST.field("label"), labels)
    class_names = opened.class_names
    if labels.null_count < len(labels):
        # All classes of the source: a class without readable images keeps its number.
        class_names = class_names or sorted_names(labels.to_pylist())
    if "subset" in opened.entries.column_names:
        table = table.append_column(SUBSET, opened.entries["subset"])
    if opened.presence is not None:
        flat = pa.array(opened.presence.ravel(), pa.int8())
        presence = pa.FixedSizeListArray.from_arrays(flat, opened.presence.shape[1])
        table = table.append_column("presence", presence)
    if opened.boxes is not None:
        _log.warning("%s: boxes are skipped: they are in pixels of the originals", opened.name)
    readable = pc.equal(table["reason"], "")
    excluded = table.filter(pc.invert(readable)).select(["key", "reason"])
    refused = [{"key": each.key, "reason": each.reason} for each in opened.refused]
    excluded = pa.concat_tables([excluded, pa.Table.from_pylist(refused, excluded.schema)])
    table = table.filter(readable)
    if not len(table):
        first = excluded.slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"none of the {len(readable)} images of {opened.name} can be read; the first: "
            f"{first['key']}: {first['reason']}"
        )
    note = json.dumps({"request": request, "class_names": class_names}, sort_keys=True)
    table = table.replace_schema_metadata({PREPARED: note})
    place(job, job.out / EXCLUDED_NAME, functools.partial(pq.write_table, excluded))
    place(job, job.out / MANIFEST_NAME, functools.partial(pq.write_table, table))
    _log.info(
        "%s: %s images in %d shards, %s excluded: %s lists them",
        *(job.out, f"{len(table):,}", job.shards, f"{len(excluded):,}", EXCLUDED_NAME),
    )
