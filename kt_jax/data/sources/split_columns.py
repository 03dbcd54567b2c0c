"""Finds the column of a table that gives the split of its rows."""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from kt_jax.data.sources.source import to_give
from kt_jax.data.splits import choose_splits, divide, is_extra, read_name

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

# Headings of columns of splits, with any values. Spaces and signs do not count.
_HEADINGS = frozenset(
    "split splits splitset subset subsets set dataset partition fold folds phase usage".split()
)
_YES, _NO = ("1", "1.0", "true", "yes", "y", "t"), ("0", "0.0", "false", "no", "n", "f")
# Other words in the heading of a column of truth values: "is_train".
_RESTS = ("", "is", "in", "for", "for is", "is for")
# More distinct values are not splits, and would take long.
_MAX_VALUES = 100


def read_subsets(heading: str, values: Sequence[str | None]) -> list[str | None]:
    """Returns the subset of each row: "train", "test", None (neither), or the value if unknown.

    The values are names of splits, or truth values if the heading is like "is_train".
    """
    subsets = _known({value for value in values if value}, heading)
    return [value and subsets.get(value, value) for value in values]


def why_unused(table: pa.Table, others: Collection[str | None]) -> str:
    """Returns a message if a column not in `others` may have splits; it says how to name it."""
    # By position, because several columns may have no heading.
    for heading, column in zip(table.column_names, table.columns, strict=True):
        if not heading or heading in others:
            continue
        values = _few_values(column)
        subsets = _known(values, heading)
        named = "".join(filter(str.isalpha, heading.lower())) in _HEADINGS
        shown = ", ".join(sorted(values)[:3])
        if divide(subsets.values()) or (named and values and values <= set(subsets)):
            return (
                f"the column {heading!r} says splits ({shown}), but is not read, and a hash of "
                f"each name chooses the images for tests: read it with "
                f"{to_give('split_column', heading)}"
            )
        if named and values:
            return (
                f"the column {heading!r} may be of splits, but not all its values ({shown}) are "
                "names of splits, and a hash of each name chooses the images for tests: write a "
                "column 'split' with 'train' or 'test' in each row"
            )
    return ""


def _known(values: Collection[str], heading: str) -> dict[str, str | None]:
    """Maps the known values to their subsets."""
    said = read_name(heading)
    if said and said.rest in _RESTS and {value.lower() for value in values} <= {*_YES, *_NO}:
        yes, no = ("train", "test") if said.split == "train" else ("test", "train")
        return {value: yes if value.lower() in _YES else no for value in values}
    return choose_splits(values) | {value: None for value in values if is_extra(value)}


def _few_values(column: pa.ChunkedArray) -> set[str]:
    """Returns the distinct values of a column as texts; empty if many, or not texts."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_nested(column.type):
        return set()
    if pa.types.is_floating(column.type) and not _are_truth_values(column):
        return set()
    values = pc.unique(column)
    if len(values) > _MAX_VALUES:
        return set()
    texts = {str(value).strip() for value in values.to_pylist() if value is not None}
    return texts - {"", "nan"}


def _are_truth_values(column: pa.ChunkedArray) -> bool:
    """Whether numbers are 0, 1 or missing, as pandas writes truth values if one is missing."""
    if pa.types.is_float16(column.type):  # pyarrow cannot compare these
        return False
    fits = pc.or_(pc.equal(column, 0), pc.or_(pc.equal(column, 1), pc.is_nan(column)))
    return bool(pc.all(fits).as_py())
