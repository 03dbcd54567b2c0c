"""Writes the shards of a re-encoded set: ArrayRecord files, each with a table of its rows."""

import collections
import functools
import hashlib
import json
import logging
import os
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from array_record.python import array_record_module

from kt_jax.data import ppm
from kt_jax.data.decode import decode_upright, examine_image
from kt_jax.data.scan import MANIFEST, perceptual_hash
from kt_jax.data.sources import Source, make_source
from kt_jax.data.sources.array_record import REQUEST_NAME, UNFINISHED
from kt_jax.runs import progress, versions

_log = logging.getLogger(__name__)

# One row for every original; excluded ones have a reason. source_sha256 is the hash of the file
# before its first re-encoding.
_ROWS = pa.schema([*MANIFEST, ("source_sha256", pa.string())])
_ROWS_PER_BATCH = 1024


@dataclass(frozen=True, eq=False)
class Job:
    """The source, the settings and the files of a re-encoding.

    A shard is complete when its records and its table, which is written after them, exist.
    """

    opened: Source
    out: pathlib.Path
    size: int
    quality: int | None
    shards: int

    def rows(self, shard: int) -> range:
        """Returns the rows of the source in a shard."""
        count = len(self.opened.entries)
        return range(shard * count // self.shards, (shard + 1) * count // self.shards)

    def records_path(self, shard: int) -> pathlib.Path:
        """Returns the path of a shard's records."""
        return self.out / f"images-{shard:05d}-of-{self.shards:05d}.array_record"

    def table_path(self, shard: int) -> pathlib.Path:
        """Returns the path of a shard's table, which exists until all shards are complete."""
        return self.out / UNFINISHED / f"{shard:05d}.parquet"

    def is_complete(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return self.table_path(shard).exists() and self.records_path(shard).exists()

    def encode(self, row: int) -> tuple[bytes | None, dict[str, Any]]:
        """Returns the new file of an image (None if unreadable) and its row of the table."""
        said: dict[str, Any] = {"bytes": 0, "stamp": 0}
        try:
            data, said["label"] = self.opened.read_labelled(row)
            originals = self.opened.originals
            said["source_sha256"] = (
                hashlib.sha256(data).hexdigest() if originals is None else originals[row].as_py()
            )
            pixels = decode_upright(data, self.size)
            if self.quality is None:
                record = ppm.encode(pixels)
            else:
                record = simplejpeg.encode_jpeg(pixels, self.quality, colorsubsampling="420")
            seen = examine_image(record)
        except ValueError as error:
            return None, said | {"reason": str(error)}
        return record, said | {
            "bytes": len(record),
            "sha256": hashlib.sha256(record).hexdigest(),
            "height": seen.height,
            "width": seen.width,
            "mode": seen.mode,
            "phash": int(perceptual_hash(seen.thumbnail)),
            "reason": "",
        }


def digest_source(opened: Source) -> dict[str, Any]:
    """Returns the number of entries and a digest of each column, to compare sources."""
    columns = {name: opened.entries[name] for name in opened.entries.column_names}
    if opened.manifest is not None:
        columns["label in the manifest"] = opened.manifest["label"]
    digests = {
        name: hashlib.sha256("\n".join(map(str, column.to_pylist())).encode()).hexdigest()[:16]
        for name, column in columns.items()
    }
    return {"count": len(opened.entries), **digests}


def write_here(job: Job, missing: Sequence[int]) -> None:
    """Writes shards one after another; all cores encode the images of a shard.

    Raises:
      OSError: a file cannot be written.
    """
    threads = os.cpu_count() or 1
    total = sum(len(job.rows(shard)) for shard in missing)
    with (
        ThreadPoolExecutor(threads) as pool,
        progress.Count(job.opened.name, total, "images re-encoded") as count,
    ):

        def parallel(encode: Callable, rows: Iterable[int]) -> Iterator:
            # Few at a time, so that memory does not depend on the number of images.
            waiting = collections.deque()
            for row in rows:
                waiting.append(pool.submit(encode, row))
                if len(waiting) > 4 * threads:
                    yield next_of(waiting)
            while waiting:
                yield next_of(waiting)

        def next_of(waiting: collections.deque) -> Any:
            result = waiting.popleft().result()
            count.add()
            return result

        for shard in missing:
            _write_shard(job, shard, parallel)


def write_on_beam(job: Job, missing: Sequence[int], runner: str, options: Sequence[str]) -> None:
    """Writes shards by Apache Beam, one task per shard. The workers need the same disks.

    Raises:
      ValueError: Beam is not installed, or does not know the runner.
      OSError: a file cannot be written.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError(
            f"--runner={runner} needs Apache Beam, which is not installed ({error}): "
            + versions.install_extra("beam")
        ) from error
    with beam.Pipeline(runner=runner, options=PipelineOptions(list(options))) as pipeline:
        shards = pipeline | beam.Create(missing) | beam.Reshuffle()
        _ = shards | beam.Map(write_shard_of, out=str(job.out))


def write_shard_of(shard: int, out: str) -> None:
    """Writes one shard of the job that was started in `out`, maybe on another machine."""
    request = (pathlib.Path(out) / UNFINISHED / REQUEST_NAME).read_text()
    _write_shard(_open_job(out, request), shard)


def place(job: Job, path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Calls `write` with a temporary path, then renames the file to `path`.

    Raises:
      OSError: the file cannot be written, for example because the disk is full.
    """
    # A unique name, because two workers of Beam may write the same shard.
    partial = job.out / UNFINISHED / f"{path.name}.{uuid.uuid4().hex}"
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"{path} could not be written: {error}. Complete shards are kept: fix this, and run "
            "the same command again"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_shard(job: Job, shard: int, parallel: Callable = map) -> None:
    """Writes the records, then the table. `parallel` is `map`, or a map with threads."""
    rows, said, batches = job.rows(shard), [], []

    def write_records(partial: pathlib.Path) -> None:
        try:
            writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
            for record, row in parallel(job.encode, rows):
                if record is not None:
                    writer.write(record)
                said.append(row)
                if len(said) == _ROWS_PER_BATCH:
                    batches.append(pa.RecordBatch.from_pylist(said, _ROWS))
                    said.clear()
            writer.close()
        except RuntimeError as error:  # the writer raises nothing else, even on a full disk
            raise OSError(str(error)) from error

    place(job, job.records_path(shard), write_records)
    batches.append(pa.RecordBatch.from_pylist(said, _ROWS))
    keys = job.opened.entries["key"].slice(rows.start, len(rows))
    table = pa.Table.from_batches(batches).set_column(0, _ROWS.field("key"), keys)
    place(job, job.table_path(shard), functools.partial(pq.write_table, table))


@functools.lru_cache(maxsize=1)
def _open_job(out: str, text: str) -> Job:
    request = json.loads(text)
    opened = make_source(request["source"], **request["options"])
    if digest_source(opened) != request["files"]:
        raise ValueError(
            f"the files of {opened.name} here differ from those that {out} was started with"
        )
    return Job(opened, pathlib.Path(out), request["size"], request["quality"], request["shards"])
