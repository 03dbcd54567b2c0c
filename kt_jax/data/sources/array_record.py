"""ArrayRecord files of image files, such as those of `python -m kt_jax.data prepare`."""

import glob
import json
import logging
import os
import pathlib
import re
import shlex
from typing import Any

import pyarrow.parquet as pq
from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

from kt_jax.data.sources.source import (
    ENTRIES,
    PathLike,
    Source,
    existing,
    find_glob,
    is_glob,
    make_entries,
)

_log = logging.getLogger(__name__)

# In a prepared directory: the table, the table of excluded images, the key of the request in the
# metadata of the first table, and the folder that exists until the directory is finished.
MANIFEST_NAME = "manifest.parquet"
EXCLUDED_NAME = "excluded.parquet"
PREPARED = b"kt_jax.prepared"
UNFINISHED = ".unfinished"
REQUEST_NAME = "request.json"

_SUFFIX = re.compile(r"\.array_record(-\d+-of-\d+)?$")


class ArrayRecord(Source):
    """The records of a file, of the files in a directory, or of those of a glob.

    A key is the file's path below the common folder, and the number of the record. There are no
    labels, except in a prepared directory, which has the keys, classes and subsets of its source.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__()
        path = pathlib.Path(path).expanduser().absolute()
        prepared = read_prepared(path) if path.is_dir() else None
        files = _find_files(path)
        root = pathlib.Path(os.path.commonpath([file.parent for file in files]))
        self.identity = "array_record:" + ":".join(map(str, files))
        self.name = files[0].name if len(files) == 1 else root.name
        if path.is_dir():
            own = [path / MANIFEST_NAME, path / EXCLUDED_NAME] if prepared is not None else []
            self.account_for_others(path, {*files, *own})
        counts = [_count_records(file) for file in files]
        # With the ranges, no file is opened to count its records again.
        self._paths = [
            f"{file}[0:{count}]" for file, count in zip(files, counts, strict=True) if count
        ]
        self._records: Any = None
        if prepared is not None:
            self._open_prepared(path, sum(counts), prepared)
        else:
            keys, stamps = [], []
            for file, count in zip(files, counts, strict=True):
                name = file.relative_to(root).as_posix()
                keys += [f"{name}/{record:08d}" for record in range(count)]
                stamps += [file.stat().st_mtime_ns] * count
            # An empty column of labels, because files are not classes.
            self.entries = make_entries(keys, [0] * len(keys), stamps, label=[None] * len(keys))

    def _open_prepared(self, path: pathlib.Path, records: int, prepared: dict[str, Any]) -> None:
        table = pq.read_table(path / MANIFEST_NAME)
        if len(table) != records:
            raise ValueError(
                f"{path} holds {records} records, but its {MANIFEST_NAME} lists {len(table)}: a "
                "shard is missing or from another directory; copy the directory again, or prepare "
                "it again"
            )
        names = [name for name in (*ENTRIES.names, "label", "subset") if name in table.column_names]
        self.entries, self.manifest = table.select(names), table
        if "source_sha256" in table.column_names:
            self.originals = table["source_sha256"]
        self.class_names = tuple(prepared["class_names"])
        if "presence" in table.column_names:
            present = table["presence"].combine_chunks().flatten().to_numpy()
            self.presence = present.reshape(len(table), len(self.class_names))

    def __getstate__(self) -> dict:
        # Do not pickle readers: each process opens its own. (A forked process that reads crashes in
        # array_record in any case: spawn it.) Reading records does not need the manifest.
        left = ("_records", "manifest", "originals")
        return {name: value for name, value in vars(self).items() if name not in left}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _records=None)

    def read(self, row: int) -> bytes:
        """Returns a record. ValueError with the reason if it is unreadable."""
        if self._records is None:
            self._records = ArrayRecordDataSource(self._paths)
        try:
            return self._records[row]
        except RuntimeError as error:
            raise ValueError(f"RuntimeError: {error}") from error


def holds_records(path: Any) -> bool:
    """Whether a path is an ArrayRecord file, a glob of such files, or a directory of them."""
    if not isinstance(path, str | os.PathLike):
        return False
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        is_glob = glob.has_magic(path.name) and ".array_record" in path.name
        return is_glob or _SUFFIX.search(path.name) is not None
    with os.scandir(path) as entries:
        return (path / UNFINISHED).exists() or any(_is_record_file(e.name) for e in entries)


def read_prepared(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the request that a directory was prepared with; None for other directories.

    Raises:
      ValueError: the directory is not finished.
    """
    manifest = directory / MANIFEST_NAME
    if manifest.exists():
        note = (pq.read_schema(manifest).metadata or {}).get(PREPARED)
        return None if note is None else json.loads(note)
    begun = directory / UNFINISHED / REQUEST_NAME
    if not begun.exists():
        return None
    request = json.loads(begun.read_text())
    options = dict(request["options"])
    path = options.pop("path", [])
    paths = path if isinstance(path, list) else [path]
    command = ["python", "-m", "kt_jax.data", "prepare", *paths, f"--out={directory}"]
    quality = request["quality"]
    coding = "--uncompressed" if quality is None else f"--quality={quality}"
    command += [f"--source={request['source']}", f"--size={request['size']}", coding]
    command += [f"--shards={request['shards']}"]
    command += [f"--option={name}={value}" for name, value in options.items()]
    raise ValueError(f"{directory} is not finished: finish it with\n  {shlex.join(command)}")


def _is_record_file(name: str) -> bool:
    return not name.startswith(".") and _SUFFIX.search(name) is not None


def _find_files(path: pathlib.Path) -> list[pathlib.Path]:
    if is_glob(str(path)):
        return [pathlib.Path(name) for name in find_glob(str(path))]
    if not existing(path).is_dir():
        return [path]
    if (path / "features.json").exists():
        raise ValueError(
            f"{path} was prepared by TFDS, whose records are no image files: give no PATH, but "
            "--source=tfds --option name=NAME --option split=SPLIT --option data_dir=DIR; in a "
            "config, source, name, split and data_dir"
        )
    found = sorted(file for file in path.iterdir() if _is_record_file(file.name))
    if not found:
        raise ValueError(f"{path} holds no *.array_record file: name the folder that does")
    return found


def _count_records(path: pathlib.Path) -> int:
    """Returns the number of records in a file. Warns if the file is slow to read."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
        count, group = reader.num_records(), reader.writer_options_string() if reader.ok() else None
        reader.close()  # raises with the reason if it is not
    except RuntimeError as error:
        raise ValueError(
            f"{path} is no ArrayRecord file, or was not copied to its end: {error}"
        ) from error
    match = re.search(r"group_size:(\d+)", group or "")
    if match is not None and match[1] != "1":
        _log.warning(
            "%s was written with group_size:%s: reading one record decompresses as many. "
            "Write it with ArrayRecordWriter(path, 'group_size:1'), or let `python -m "
            "kt_jax.data prepare` do so",
            *(path, match[1]),
        )
    return count
