"""Manifest files: tables of paths, made by the user or by `python -m kt_jax.data scan`."""

import contextlib
import difflib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from kt_jax.data.sources import split_columns
from kt_jax.data.sources.names import (
    find_file,
    find_heading,
    is_image,
    is_sound_or_film,
    normalise,
    tidy,
    why_not,
)
from kt_jax.data.sources.source import (
    SUBSET,
    Excluded,
    PathLike,
    Source,
    existing,
    make_entries,
    plain_options,
    stat_image,
    to_choose,
    to_give,
)
from kt_jax.data.sources.tables import read_parquet_schema, read_table

# Its functions are made at run time, where no type checker sees them.
pc: Any = pyarrow.compute

# The key of a scanned manifest's metadata, which holds its Note.
SCANNED = b"kt_jax.scanned"

# Headings of columns that may say classes.
_LABELS = ("labels", "class", "classes", "class_name", "label_name", "category", "target")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """What a manifest says of its scan.

    Attributes:
      source: the name of the source that opens the same entries again.
      options: what it is opened with; those of a "folder" are its root alone.
      asked: the options of the scan: a part of a folder may have the root of the whole.
      ignored: how many files the scan ignored, by what they are.
    """

    source: str
    options: dict[str, Any]
    asked: dict[str, Any]
    ignored: Mapping[str, int] = field(default_factory=dict, compare=False)


class Listing(Source):
    """The files that a .csv, .tsv or .parquet lists, one a row.

    Paths are absolute, or relative to the table's folder. A path is taken as it is written; where
    there is no such file, without the spaces around it, then with the backslashes of Windows as
    slashes. Headings are compared without case and outer spaces; without a column `path`, one that
    is called file_name is taken, as Hugging Face calls it.

    A column `split` ("train", "test", "val", ...) says which rows are for training; one that is
    called "train" or "is_train" may hold truth values. A value that is not known is kept as the
    subset, so that it can be named.
    """

    def __init__(
        self,
        path: PathLike,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
    ) -> None:
        super().__init__()
        path = existing(path).absolute()
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a table: {to_choose('folder')}")
        self.root, self.name = path.parent, path.name
        self.identity = f"manifest:{path}"
        table = read_table(path)
        heading = _find_column(path, table, "path", path_column)
        label_heading = _find_column(path, table, "label", label_column)
        split_heading = _find_column(path, table, "split", split_column)
        if len(table) == 0:
            raise ValueError(f"{path} has a header, but lists no file")
        labels = subsets = None
        others = (find_heading(table.column_names, name) for name in _LABELS)
        if label_heading is not None:
            labels = _names(path, table, label_heading)
        elif other := next(filter(None, others), None):
            _log.warning(
                "%s: it has no column 'label', and %r is not read: if it says the classes, read it "
                "with %s",
                *(self.name, other, to_give("label_column", other)),
            )
        if split_heading is not None:
            subsets = split_columns.read_subsets(split_heading, _names(path, table, split_heading))
        else:
            self.unsplit = split_columns.why_unused(table, (heading, label_heading))
        rows: dict[str, int] = {}
        stats: list[tuple[int, int]] = []
        for row, written in enumerate(_texts(path, table, heading)):
            stripped = written.strip()
            try:
                if not stripped:
                    raise ValueError("an empty path")
                if is_sound_or_film(stripped):
                    raise ValueError(why_not(stripped))
                key, stat = self._find(written)
                if key in rows:
                    raise ValueError(f"row {row} repeats row {rows[key]}")
                rows[key] = row
                stats.append(stat)
            except ValueError as error:
                self.refuse(normalise(stripped) or f"row {row} of {path.name}", str(error))
        self.entries = make_entries(
            list(rows),
            [size for size, _ in stats],
            [stamp for _, stamp in stats],
            label=labels and [labels[row] for row in rows.values()],
            subset=subsets and [subsets[row] for row in rows.values()],
        )

    def _find(self, written: str) -> tuple[str, tuple[int, int]]:
        """The key, bytes and stamp of a listed file; ValueError if it is not there."""
        stripped = written.strip()
        first, *others = dict.fromkeys(map(tidy, (written, stripped, stripped.replace("\\", "/"))))
        try:
            return first, stat_image(find_file(self.root, first))
        except ValueError:
            for key in others:
                with contextlib.suppress(ValueError):
                    return key, stat_image(find_file(self.root, key))
            raise


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
        paths = [find_file(options["path"], key) for key in table["key"].to_pylist()]
    table = table.add_column(1, "path", pa.array(paths, pa.string()))
    table = pa.concat_tables([table, pa.Table.from_pylist(refused, schema=table.schema)])
    asked = options if asked is None else plain_options(asked)
    said = {"source": source, "options": options, "asked": asked, "ignored": opened.ignored}
    note = json.dumps(said)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), SCANNED: note})


def read_note(path: str | os.PathLike) -> Note | None:
    """Returns what a manifest that a scan wrote says of it, None if it is another table."""
    path = existing(path)
    if path.suffix.lower() != ".parquet":
        return None
    written = (read_parquet_schema(path).metadata or {}).get(SCANNED)
    if written is None:
        return None
    note = json.loads(written)
    asked = note.get("asked", note["options"])
    return Note(note["source"], note["options"], asked, note.get("ignored", {}))


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


def _find_column(path: pathlib.Path, table: pa.Table, kind: str, wanted: str) -> str | None:
    """The heading of the column of paths, labels or splits; None if a default one is not there.

    Raises:
      ValueError: it is not there; saying how to name another.
    """
    headings = table.column_names
    heading = find_heading(headings, wanted)
    if heading is None and wanted == kind == "path":
        heading = find_heading(headings, "file_name")
    if heading is not None or (wanted == kind and kind != "path"):
        return heading
    fit = []
    if kind == "path":
        if any(map(is_image, headings)):
            raise ValueError(
                f"{path} has no headings, but begins with {', '.join(headings)}: write a first "
                "line that names the columns, such as path,label"
            )
        first = table[:1].to_pylist()
        fit = [name for row in first for name, value in row.items() if is_image(str(value))]
    # One whose first value is an image, or whose name is like the one that is wanted.
    near = fit or difflib.get_close_matches(wanted, headings, 1, 0.3) or headings
    raise ValueError(
        f"{path} has no column {wanted!r}, only {', '.join(headings)}: name the column of the "
        f"{kind}s with {to_give(f'{kind}_column', near[0])}"
    )


def _texts(path: pathlib.Path, table: pa.Table, name: str | None) -> list[str]:
    """The texts of a column; null is empty."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    try:
        return pc.fill_null(pc.cast(column, pa.string()), "").to_pylist()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"column {name!r} of {path} holds {column.type}, but must hold texts: write the table "
            "again with texts in it"
        ) from error


def _names(path: pathlib.Path, table: pa.Table, column: str) -> list[str | None]:
    """The texts of a column in NFC, without outer spaces; a blank one names nothing."""
    return [normalise(text).strip() or None for text in _texts(path, table, column)]
