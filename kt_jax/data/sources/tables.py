"""Reads tables of texts, .csv, .tsv or .parquet, with any common separator and encoding."""

import codecs
import contextlib
import csv
import io
import pathlib
import re
import shlex
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from kt_jax.data.sources.names import fold_heading
from kt_jax.data.sources.unread import explain

TEXTS = (".csv", ".tsv", ".tab")
# Separators of values. If two give the same number of columns, the first is used.
_SEPARATORS = ",;\t|"
# Byte order marks, longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PARQUET = b"PAR1"


def read_table(path: pathlib.Path) -> pa.Table:
    """Reads a table. All columns of a .csv are texts, so that a class "007" does not become 7.

    Separators may be commas, semicolons, tabs or bars. Line ends may be those of any system. The
    encoding may be UTF-8 or UTF-16.

    Raises:
      ValueError: it is not a table, or two headings differ only in case and spaces. One line.
    """
    with path.open("rb") as file:
        is_parquet = file.read(len(_PARQUET)) == _PARQUET or path.suffix.lower() == ".parquet"
    if is_parquet:
        with _open_parquet(path) as opened:
            table = opened.read()
    else:
        table = _read_text(path)
    seen: dict[str, str] = {}
    for name in table.column_names:
        folded = fold_heading(name)
        if folded in seen:
            raise ValueError(
                f"{path} has the headings {seen[folded]!r} and {name!r}, which are compared "
                "without case and outer spaces: rename or delete one of them"
            )
        if folded:  # a column without a heading is never used
            seen[folded] = name
    return table


def read_parquet_schema(path: pathlib.Path) -> pa.Schema:
    """Returns the schema of a .parquet.

    Raises:
      ValueError: it is not a .parquet.
    """
    with _open_parquet(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def _open_parquet(path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    try:
        # Not read_table: its error for two columns of one name is hard to understand.
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            explain(path)
            or f"{path} cannot be read as a table: {first}. Was it copied to its end? A table of "
            "text is named .csv"
        ) from error


def _read_text(path: pathlib.Path) -> pa.Table:
    text = _decode(path)
    separator, text = _separator(path, text)
    # `a.png, "cat, small"`: quotes count even after a space.
    spaced = re.search(f'{re.escape(separator)} +"', text) is not None
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True
    )
    headings: list[str] = []
    rows: list[list[str]] = []
    try:
        for row in lines:
            if len(row) < 2 and not "".join(row).strip():
                continue
            if not headings:
                headings = row
                continue
            if len(row) != len(headings):
                row = _cut(row, len(headings), f"{path}, line {lines.line_num}")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {lines.line_num}: {error}. A value in double quotes ends with one, and "
            "those inside it are doubled"
        ) from error
    if not headings:
        raise ValueError(f"{path} is empty: its first line must name the columns, such as path")
    columns = list(zip(*rows, strict=True)) or [()] * len(headings)
    return pa.Table.from_arrays([pa.array(c, pa.string()) for c in columns], headings)


def _cut(row: list[str], count: int, where: str) -> list[str]:
    """Returns a row without empty values at the end. ValueError if it is still too long."""
    if len(row) < count or any(value.strip() for value in row[count:]):
        raise ValueError(
            f"{where} has {len(row)} values, but the first line names {count} columns: put a value "
            "that holds the separator into double quotes, and give each column a value"
        )
    return row[:count]


def _separator(path: pathlib.Path, text: str) -> tuple[str, str]:
    """Returns the separator, and the text without the line in which Excel declares it."""
    if match := re.match(r"sep=(.)\r?\n?", text):
        return match[1], text[match.end() :]

    def count(separator: str) -> int:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            return len(next(filter(None, rows), []))
        except csv.Error:
            return 0

    if path.suffix.lower() != ".csv" and count("\t") > 1:
        return "\t", text
    return max(_SEPARATORS, key=count), text


def _encoding_of(head: bytes) -> str | None:
    """Recognises UTF-16 without a byte order mark: every other byte is zero."""
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros = head[first::2]
        if zeros and not zeros.strip(b"\0") and head.strip(b"\0"):
            return encoding
    return None


def _decode(path: pathlib.Path) -> str:
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if encoding is None:
        encoding = _encoding_of(data[:200])
    if encoding is None and (why := explain(path)):
        raise ValueError(why)
    if data.startswith(b"PK\3\4"):
        raise ValueError(f"{path} is a zip, no text: save a spreadsheet as .csv")
    try:
        text = data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        better = path.with_name(f"{path.stem}.utf8{path.suffix}")
        raise ValueError(
            f"{path}, line {line}, is not {encoding or 'UTF-8'}: convert it once, iconv -f "
            f"WINDOWS-1252 -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(better))}, and "
            "name the result as PATH; if its tool wrote another encoding, such as GBK, put that "
            "after -f"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path}, line {line}, holds a zero byte, which no text does: write the table anew"
        )
    return text
