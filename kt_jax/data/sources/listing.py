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

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

# Key of a scanned manifest's metadata for its Note.
SCANNED = b"kt_jax.scanned"

# Headings of columns that may have classes.
_LABELS = ("labels", "class", "classes", "class_name", "label_name", "category", "target")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """Facts about the scan that wrote a manifest.

    Attributes:
      source: name of the source that opens the same entries again.
      options: options of this source; for a "folder", only its root.
      asked: options of the scan. They differ if the scan read a subfolder of the root.
      ignored: number of files that the scan ignored, by kind.
    """

    source: str
    options: dict[str, Any]
    asked: dict[str, Any]
    ignored: Mapping[str, int] = field(default_factory=dict, compare=False)


class Listing(Source):
    """The files that a .csv, .tsv or .parquet lists, one per row.

    Paths are absolute, or relative to the folder of the table. A path is first used as written. If
    there is no such file, it is tried without outer spaces, then with backslashes as slashes.
    Headings are compared without case and outer spaces. Without a column `path`, the column
    file_name is used (the name in Hugging Face data sets).

    A column `split` ("train", "test", "val", ...) gives the subset of each row. A column "train" or
    "is_train" may have truth values. An unknown value stays in the subset, for messages.
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
        """Returns the key, bytes and stamp of a listed file. ValueError if it does not exist."""
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
    """Returns the manifest of a scan, from which `read_scanned` opens the set without a listing.

    Args:
      scanned: one row per entry, from `scan`.
      opened: the scanned source. Its refused files get rows at the end.
      source: name of the source that opens the same entries again.
      options: options of this source; for a "folder", only its root.
      asked: options of the scan, if they differ.
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
    """Returns the note in a manifest that a scan wrote; None for other tables."""
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
    """Returns the rows of entries in a manifest that a scan wrote, and the refused files."""
    names = [name for name in pq.read_schema(path).names if name != "path"]
    # One chunk: several chunks share buffers, and pickle copies the whole buffers for each.
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
    """Finds the heading of a column of paths, labels or splits; None if a default is missing.

    Raises:
      ValueError: the column is missing. The message says how to name another.
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
    # Suggest a column whose first value is an image, or whose name is similar.
    near = fit or difflib.get_close_matches(wanted, headings, 1, 0.3) or headings
    raise ValueError(
        f"{path} has no column {wanted!r}, only {', '.join(headings)}: name the column of the "
        f"{kind}s with {to_give(f'{kind}_column', near[0])}"
    )


def _texts(path: pathlib.Path, table: pa.Table, name: str | None) -> list[str]:
    """Returns the texts of a column, with null as empty text."""
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
    """Returns the texts of a column in NFC, without outer spaces; None for blank ones."""
    return [normalise(text).strip() or None for text in _texts(path, table, column)]
