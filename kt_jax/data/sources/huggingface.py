"""Hugging Face image data sets on the local disk, read without the library `datasets`."""

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

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

_log = logging.getLogger(__name__)

# The end of an Arrow stream: a stream truncated between two batches does not have it.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_ROWS_PER_BATCH = 64


class HuggingFace(Source):
    """The images of a directory from `save_to_disk`, or of Parquet files as on the Hub.

    Arrow files are read in place. Single rows of Parquet cannot be read, so the images are copied
    to a temporary directory. Sources of the same files share the copy, also in processes that they
    are sent to. The copy is removed with the last source. If the process was killed, the next
    process that makes a copy removes it.

    Keys are the paths of images in the data set, if they are unique in every split, else numbers.
    The splits "train" and "test" (or "validation") are the subsets if both exist. Without a column
    "image", images come from "img" or the only image column. Without a column "label", labels come
    from "labels", "fine_label" or the only ClassLabel.
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
        # One for each row of the files; None for refused rows.
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
        """Returns the bytes of an image file. ValueError with the reason if it is unreadable."""
        if self._batches is None:
            # Threads that are here at the same time do the same work.
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
        # The copy belongs to the process that made it, so do not pickle it.
        left = ("_batches", "_copy")
        return {name: value for name, value in vars(self).items() if name not in left}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _batches=None, _copy=None)

    def _take(self, found: list[tuple], split: str, prefix: str) -> Iterator[tuple | None]:
        """Yields the key, size, stamp, label and split of each row; None for refused rows."""
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
        """Copies columns of the Parquet files to Arrow streams; None without Parquet files."""
        files = [file for file in schemas if file.suffix == ".parquet"]
        if not files:
            return None
        # A forked process must not use its parent's copies, which the parent may remove.
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
    """A temporary directory with an Arrow stream for each file. It lives as long as this object."""

    def __init__(self, folder: pathlib.Path, streams: dict[pathlib.Path, pathlib.Path]) -> None:
        self.streams = streams
        weakref.finalize(self, _remove, folder, os.getpid())


# Copies of this process's sources, by process, files and columns.
_copies: weakref.WeakValueDictionary[tuple, _Copy] = weakref.WeakValueDictionary()


def _prefix() -> str:
    """Returns the prefix of the names of all copies on this machine."""
    # The host name, because other machines may share the disk, but not the process ids.
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
            continue  # it is another user's, or another process just removed it


def _read_batches(stream: pathlib.Path, *columns: str) -> list[pa.RecordBatch]:
    """Returns all batches with the existing columns, mapped from the disk to memory."""
    try:
        with pa.memory_map(str(stream)) as source:
            reader = pa.ipc.open_stream(source)
            there = [name for name in columns if name in reader.schema.names]
            batches = [batch.select(there) for batch in reader]
            source.seek(source.size() - len(_END_OF_STREAM))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("its end is missing")
        for batch in batches:
            # Offsets outside a damaged file would crash this process.
            batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{stream} cannot be read ({error}): {COPY}") from error
    return batches


def _fields(images: pa.StructArray) -> tuple[pa.Array, pa.Array]:
    """Returns the bytes and the paths, null if the image is null."""
    fields = dict(zip((field.name for field in images.type), images.flatten(), strict=True))
    return fields["bytes"], pc.cast(fields.get("path", pa.nulls(len(images))), pa.string())


def _labels(batch: pa.RecordBatch, column: str, names: tuple[str, ...]) -> list[str | None]:
    if not is_labelled(batch.schema, column):
        return [None] * len(batch)
    if not names:
        return pc.cast(batch[column], pa.string()).to_pylist()
    # -1 is not a class: test splits with secret labels have it.
    numbers = pc.fill_null(batch[column], -1).to_pylist()
    return [names[number] if 0 <= number < len(names) else None for number in numbers]


def _size_in_memory(metadata: pq.FileMetaData, column: str) -> int:
    """Returns the uncompressed bytes of a column, with its nested columns."""
    return sum(
        chunk.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] == column
    )


def _remove(folder: pathlib.Path, process: int) -> None:
    # A forked process inherits the finalizer, but must not remove the copy.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
