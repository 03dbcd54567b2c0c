"""Image data sets of Hugging Face on the local disk, read without its library."""

import hashlib
import logging
import os
import pathlib
import re
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from kt_jax.data.sources.huggingface_columns import (
    COPY,
    choose_image_column,
    choose_label_column,
    class_names,
    is_labelled,
)
from kt_jax.data.sources.huggingface_files import find_files, read_schema
from kt_jax.data.sources.names import is_sound_or_film, tidy, why_not
from kt_jax.data.sources.source import (
    PathLike,
    Source,
    existing,
    make_entries,
    read_file,
    stat_file,
)
from kt_jax.data.splits import choose_splits, divide

# Its functions are made at run time, where no type checker sees them.
pc: Any = pyarrow.compute

_log = logging.getLogger(__name__)

# How a stream of Arrow ends: one that was cut between two batches lacks it.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_ROWS_PER_BATCH = 64


class HuggingFace(Source):
    """The images of a directory that `save_to_disk` wrote, or of Parquet files as on the Hub.

    Arrow is read in place. Rows of Parquet cannot be read alone, so the images are copied to a
    temporary directory. All sources of a process that are of the same files share it, and so do the
    processes that they are sent to. It is removed with the last of the sources or, where their
    process was killed, by the next one that makes a copy.

    Keys are the paths that the set gives its images, if every image of a split has one of its own,
    else their numbers. The splits "train" and "test" (or "validation") are the subsets where both
    exist. Where there is no column "image", the images are those of "img" or of the only column
    that holds some; where there is no column "label", the labels are those of "labels", of
    "fine_label", or of the only ClassLabel.
    """

    def __init__(
        self, path: PathLike, image_column: str = "image", label_column: str = "label"
    ) -> None:
        super().__init__()
        path = existing(path).absolute()
        splits = find_files(path)
        schemas = {file: read_schema(file) for files in splits.values() for file in files}
        image_column = choose_image_column(schemas, image_column)
        label_column = choose_label_column(schemas, label_column, path)
        if path.is_dir():
            self.account_for_others(path, schemas.keys())
        stats = {file: stat_file(file) for file in schemas}
        known = str([(str(file), *stats[file]) for file in schemas])
        digest = hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.identity = f"huggingface:{path}:{image_column}:{digest}"
        self.name = path.name
        names = {file: class_names(schemas[file], file, label_column) for file in schemas}
        self.class_names = next(filter(None, names.values()), ())
        self._copy = self._copy_parquet(schemas, [image_column, label_column])
        copies = {} if self._copy is None else self._copy.streams
        self._streams = [copies.get(file, file) for file in schemas]
        self._image_column = image_column
        self._batches: list[tuple[pa.Array, pa.Array]] | None = []
        # A row of the files each, with None for what is refused.
        entries: list[tuple | None] = []
        for split, files in splits.items():
            found = []
            for file in files:
                stream = copies.get(file, file)
                for batch in _read_batches(stream, image_column, label_column):
                    data, paths = _fields(batch[image_column])
                    self._batches.append((data, paths))
                    labels = _labels(batch, label_column, names[file])
                    sizes = pc.binary_length(data).to_pylist()
                    stamps = [stats[file][1]] * len(batch)
                    found += zip(sizes, stamps, paths.to_pylist(), labels, strict=True)
            entries += self._take(found, split, f"{split}/" if len(splits) > 1 else "")
        if not entries:
            raise ValueError(f"{path} is a data set without any row")
        self._starts = np.cumsum([0, *(len(data) for data, _ in self._batches)])[:-1]
        self._rows = np.array([at for at, entry in enumerate(entries) if entry], np.int64)
        columns = list(zip(*filter(None, entries), strict=True)) or [()] * 5
        keys, sizes, stamps, labels, of_split = map(list, columns)
        where, subsets = choose_splits(splits), None
        if divide(where.values()):
            subsets = [where.get(split) for split in of_split]
        elif len(splits) == 1:
            self.unsplit = (
                f"its only split is {next(iter(splits))!r}: a hash of each name holds images out "
                "for tests. Give the folder of a data set with splits for both, or use subset='all'"
            )
        self.entries = make_entries(keys, sizes, stamps, label=labels, subset=subsets)

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        if self._batches is None:
            # Threads that come here together do the same.
            self._batches = [
                _fields(batch[self._image_column])
                for stream in self._streams
                for batch in _read_batches(stream, self._image_column)
            ]
        number = int(np.searchsorted(self._starts, self._rows[row], "right")) - 1
        data, paths = self._batches[number]
        at = int(self._rows[row] - self._starts[number])
        image = data[at].as_py()
        return read_file(paths[at].as_py()) if image is None else image

    def __getstate__(self) -> dict:
        # The copy belongs to the process that made it.
        left = ("_batches", "_copy")
        return {name: value for name, value in vars(self).items() if name not in left}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _batches=None, _copy=None)

    def _take(self, found: list[tuple], split: str, prefix: str) -> Iterator[tuple | None]:
        """The key, size, stamp, label and split of each row of a split; None if it is refused."""
        paths = [tidy(path or "") for size, _, path, _ in found if size is not None or path]
        named = all(paths) and len(set(paths)) == len(paths)
        for number, (size, stamp, path, label) in enumerate(found):
            key = prefix + tidy(path) if named and path else f"{split}/{number:08d}"
            try:
                if size is None and not path:
                    raise ValueError("the image is null")
                if path and is_sound_or_film(path):
                    raise ValueError(why_not(path))
                if size is None:
                    size, stamp = stat_file(path)
            except ValueError as error:
                self.refuse(key, str(error))
                yield None
            else:
                yield key, size, stamp, label, split

    def _copy_parquet(
        self, schemas: dict[pathlib.Path, pa.Schema], columns: list[str]
    ) -> "_Copy | None":
        """Copies columns of the Parquet files to streams of Arrow; None if there are none."""
        files = [file for file in schemas if file.suffix == ".parquet"]
        if not files:
            return None
        # A fork knows the copies of its parent, which may remove them.
        key = os.getpid(), self.identity, *columns
        copy = _copies.get(key)
        if copy is not None and all(stream.exists() for stream in copy.streams.values()):
            return copy
        _remove_abandoned()
        needed = sum(_size_in_memory(pq.read_metadata(file), columns[0]) for file in files)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > free:
            raise ValueError(
                f"{self.name}: rows of Parquet cannot be read alone, and a copy as Arrow needs "
                f"{needed / 1e9:.2f} GB in {tempfile.gettempdir()}, where {free / 1e9:.2f} GB are "
                "free: set the environment variable TMPDIR to a directory with more"
            )
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-"))
        streams = {file: folder / f"{number:05d}.arrow" for number, file in enumerate(files)}
        copy = _Copy(folder, streams)
        _log.info(
            "%s: rows of Parquet cannot be read alone: copying the images to %s (%.2f GB), for "
            "as long as they are used; `python -m kt_jax.data prepare` does it once for all",
            *(self.name, folder, needed / 1e9),
        )
        for file, stream in streams.items():
            wanted = [field for field in schemas[file] if field.name in columns]
            names = [field.name for field in wanted]
            try:
                with (
                    pq.ParquetFile(file, memory_map=True) as table,
                    pa.ipc.new_stream(str(stream), pa.schema(wanted)) as writer,
                ):
                    for batch in table.iter_batches(_ROWS_PER_BATCH, columns=names):
                        writer.write_batch(batch)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} cannot be copied to {folder}: {error}") from error
        _copies[key] = copy
        return copy


class _Copy:
    """A temporary directory with a stream of Arrow for each file, there as long as this object."""

    def __init__(self, folder: pathlib.Path, streams: dict[pathlib.Path, pathlib.Path]) -> None:
        self.streams = streams
        weakref.finalize(self, _remove, folder, os.getpid())


# By process, files and columns: what the sources of this process have copied.
_copies: weakref.WeakValueDictionary[tuple, _Copy] = weakref.WeakValueDictionary()


def _prefix() -> str:
    """How the names of all copies begin that processes of this machine make."""
    # A process is alive or dead on its own machine alone, but others may see the same disk.
    return f"kt_jax-{re.sub('[^0-9A-Za-z.]', '_', socket.gethostname())}-"


def _remove_abandoned() -> None:
    """Removes the copies of processes of this user that were killed."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_prefix()}*-*"):
        process = folder.name.removeprefix(_prefix()).split("-")[0]
        try:
            if process.isdecimal() and folder.stat().st_uid == os.getuid():
                os.kill(int(process), 0)
        except ProcessLookupError:
            _log.info("%s: removed, its process was killed", folder)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # of another user, or just removed by another process


def _read_batches(stream: pathlib.Path, *columns: str) -> list[pa.RecordBatch]:
    """The columns that are there of all batches, which stay on the disk, mapped to memory."""
    try:
        with pa.memory_map(str(stream)) as source:
            reader = pa.ipc.open_stream(source)
            there = [name for name in columns if name in reader.schema.names]
            batches = [batch.select(there) for batch in reader]
            source.seek(source.size() - len(_END_OF_STREAM))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("its end is missing")
        for batch in batches:
            # Offsets that lead out of a damaged file would end this process.
            batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{stream} cannot be read ({error}): {COPY}") from error
    return batches


def _fields(images: pa.StructArray) -> tuple[pa.Array, pa.Array]:
    """The bytes and the paths, null where the whole image is."""
    fields = dict(zip((field.name for field in images.type), images.flatten(), strict=True))
    return fields["bytes"], pc.cast(fields.get("path", pa.nulls(len(images))), pa.string())


def _labels(batch: pa.RecordBatch, column: str, names: tuple[str, ...]) -> list[str | None]:
    if not is_labelled(batch.schema, column):
        return [None] * len(batch)
    if not names:
        return pc.cast(batch[column], pa.string()).to_pylist()
    # -1, as in test splits whose labels are secret, is no class.
    numbers = pc.fill_null(batch[column], -1).to_pylist()
    return [names[number] if 0 <= number < len(names) else None for number in numbers]


def _size_in_memory(metadata: pq.FileMetaData, column: str) -> int:
    """The bytes of a column and of those nested in it when they are not compressed."""
    return sum(
        chunk.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] == column
    )


def _remove(folder: pathlib.Path, process: int) -> None:
    # A fork inherits what is to be done when the object dies.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
