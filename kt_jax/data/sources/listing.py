"""Manifest files: tables of paths, made by the user or by `python -m kt_jax.data scan`."""

import csv
import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources import split_columns
from kt_jax.data.sources.source import (
    SUBSET,
    Excluded,
    Source,
    existing,
    make_entries,
    plain_options,
    read_file,
    stat_file,
)

# Its functions are made at run time, where no type checker sees them.
pc: Any = pyarrow.compute

# The key of a scanned manifest's metadata, which holds its Note.
SCANNED = b"kt_jax.scanned"


@dataclass(frozen=True)
class Note:
    """What a manifest says of its scan.

    Attributes:
      source: the name of the source that opens the same entries again.
      options: what it is opened with; those of a "folder" are its root alone.
      asked: the options of the scan: a part of a folder may have the root of the whole.
    """

    source: str
    options: dict[str, Any]
    asked: dict[str, Any]


class Listing(Source):
    """The files that a .csv or .parquet lists, one a row.

    Paths are absolute, or relative to the table's folder; keys are the paths as they are written.
    A column `split` ("train", "test", "val", ...) says which rows are for training; one that is
    called "train" or "is_train" may hold truth values. A value that is not known is kept as the
    subset, so that it can be named.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
    ) -> None:
        path = existing(path).absolute()
        self.root, self.name = path.parent, path.name
        self.identity = f"manifest:{path}"
        table = _read(path)
        if path_column not in table.column_names:
            raise ValueError(
                f"{path} has no column {path_column!r}, only {', '.join(table.column_names)}: "
                "name the column of the paths with the option path_column"
            )
        if len(table) == 0:
            raise ValueError(f"{path} has a header, but lists no file")
        paths = _texts(table, path_column)
        labels = _names(table, label_column) if label_column in table.column_names else None
        if labels is None and label_column != "label":
            raise ValueError(
                f"{path} has no column {label_column!r}, only {', '.join(table.column_names)}: "
                "name the column of the labels with the option label_column"
            )
        subsets = None
        if split_column in table.column_names:
            subsets = split_columns.read_subsets(split_column, _names(table, split_column))
        elif split_column != "split":
            raise ValueError(
                f"{path} has no column {split_column!r}, only {', '.join(table.column_names)}: "
                "name the column of the splits with the option split_column"
            )
        else:
            self.unsplit = split_columns.why_unused(table, (path_column, label_column))
        self.refused = []
        found: dict[str, tuple[int, int, int]] = {}
        for row, key in enumerate(paths):
            try:
                if not key:
                    raise ValueError("an empty path")
                if key in found:
                    raise ValueError(f"row {row} repeats row {found[key][0]}")
                size, stamp = stat_file(self.root / key)
                if reason := why_too_large(size):
                    raise ValueError(reason)
                found[key] = row, size, stamp
            except ValueError as error:
                self.refused.append(Excluded(key or f"row {row} of {path.name}", str(error)))
        rows = [row for row, _, _ in found.values()]
        columns = {"label": labels, "subset": subsets}
        self.entries = make_entries(
            list(found),
            [size for _, size, _ in found.values()],
            [stamp for _, _, stamp in found.values()],
            **{name: [c[row] for row in rows] for name, c in columns.items() if c is not None},
        )

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file; ValueError with the reason if it is unreadable."""
        return read_file(os.path.join(self.root, self.entries["key"][row].as_py()))


def make_scanned(
    scanned: pa.Table,
    opened: Source,
    source: str,
    options: dict[str, Any],
    asked: dict[str, Any] | None = None,
) -> pa.Table:
    """Returns the manifest to keep of a scan, so that `read_scanned` needs no other listing.

    Args:
      scanned: a row an entry, as `scan` returns it.
      opened: the source that was scanned; what it refused gets rows of its own, at the end.
      source: the name of the source that opens the same entries again.
      options: what it is opened with; those of a "folder" are its root alone.
      asked: the options of the scan, where they are others.
    """
    table, options = scanned, plain_options(options)
    if "subset" in opened.entries.column_names:
        table = table.append_column(SUBSET, opened.entries["subset"])
    refused = [
        {"key": each.key, "bytes": 0, "stamp": 0, "reason": each.reason} for each in opened.refused
    ]
    paths = pa.nulls(len(table), pa.string())
    if source == "folder":
        keys = table["key"]
        below = pc.binary_join_element_wise(options["path"].rstrip("/"), keys, "/")
        paths = pc.if_else(pc.starts_with(keys, "/"), keys, below)
    table = table.add_column(1, "path", paths)
    table = pa.concat_tables([table, pa.Table.from_pylist(refused, schema=table.schema)])
    asked = options if asked is None else plain_options(asked)
    note = json.dumps({"source": source, "options": options, "asked": asked})
    return table.replace_schema_metadata({SCANNED: note})


def read_note(path: str | os.PathLike) -> Note | None:
    """Returns what a manifest that a scan wrote says of it, None if it is another table."""
    path = existing(path)
    if path.suffix.lower() != ".parquet":
        return None
    try:
        written = (pq.read_schema(path).metadata or {}).get(SCANNED)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    if written is None:
        return None
    note = json.loads(written)
    return Note(note["source"], note["options"], note.get("asked", note["options"]))


def read_scanned(path: str | os.PathLike) -> tuple[pa.Table, list[Excluded]]:
    """Returns the rows of the entries in a manifest that a scan wrote, and what was refused."""
    names = [name for name in pq.read_schema(path).names if name != "path"]
    # In one piece: the chunks that were read share buffers, and each would be pickled whole.
    table = pq.read_table(path, columns=names).combine_chunks()
    refused = pc.and_(
        pc.is_null(table["sha256"]),
        pc.and_(pc.equal(table["bytes"], 0), pc.equal(table["stamp"], 0)),
    )
    if not pc.any(refused).as_py():
        return table, []
    rows = table.select(["key", "reason"]).filter(refused).to_pylist()
    return table.filter(pc.invert(refused)), [Excluded(**row) for row in rows]


def _read(path: pathlib.Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        # All columns as text: a class "007" is no 7.
        with path.open("rb") as file:
            names = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        )
        return pyarrow.csv.read_csv(path, convert_options=convert)
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _texts(table: pa.Table, name: str) -> list[str | None]:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    try:
        return pc.cast(column, pa.string()).to_pylist()
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"column {name!r} holds {column.type}, but must hold texts") from error


def _names(table: pa.Table, column: str) -> list[str | None]:
    """The texts of a column; a blank one names nothing."""
    return [text if text and text.strip() else None for text in _texts(table, column)]
