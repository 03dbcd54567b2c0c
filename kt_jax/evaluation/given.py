"""Given features: rows in a file of another program, and the keys of their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from kt_jax import data
from kt_jax.models import torch_files
from kt_jax.runs import artifacts

_NAMED = 3  # of each kind of key, in messages
_NO_FEATURES = ("label", "index", "class")  # other columns of `index.parquet` than the keys
_PANDAS_INDEX = "__index_level_"
_TENSORS = (".safetensors", ".pth", ".pt")


def describe(images: data.Images, *, dims: int, layer: str) -> artifacts.Features:
    """Features of these images in their order, that no network of ours gave."""
    return artifacts.Features(
        rows=len(images),
        dims=dims,
        layer=layer,
        grid=0,
        size=0,
        backbone=None,
        image_size=images.size,
        keys=data.hash_keys(images),
        images=images.fingerprint,
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """The features in a file."""

    values: Shaped[np.ndarray, "n d"]
    """The numbers; a memory map if the file is .npy."""
    keys: tuple[str, ...] | None
    """The key of each row, if the file has keys."""
    columns: tuple[str, ...] = ()
    """The columns of a .parquet file that the numbers come from."""


def read_rows(
    path: Path, *, column: str = "", key_column: str = "key", needs_keys: bool = False
) -> Rows:
    """The rows of a file.

    Args:
      path: .npy [n, d]; .safetensors, .pth or .pt with a tensor [n, d]; or .parquet with a column
        of lists of d numbers, or d columns of numbers. The columns label, index, class and a pandas
        index (`__index_level_0__`) are skipped.
      column: the tensor or the column of lists; "" if there is only one.
      key_column: the column of the keys in a .parquet file.
      needs_keys: whether a .parquet file must have that column.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is of another kind, has no keys, or does not have exactly one matrix of
        numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    keys, columns = None, ()
    if path.suffix == ".npy":
        values = _open_npy(path)
    elif path.suffix in _TENSORS:
        values = _choose_tensor(path, torch_files.read(path), column)
    elif path.suffix == ".parquet":
        table = _open_table(path)
        if key_column in table.column_names:
            keys = tuple(map(str, table[key_column].to_pylist()))
            table = table.drop_columns(key_column)
        elif needs_keys:
            raise ValueError(
                f"{path} has no column {key_column!r}{_among(table.column_names)}: set "
                "`key_column` to the column of the keys, or `keys` to a file of them; if there are "
                "no keys, set `order` to the set of images in whose order the rows are"
            )
        values, columns = _choose_columns(path, table, column)
    else:
        kinds = ", ".join((".npy", ".parquet", *_TENSORS))
        raise ValueError(f"{path} is not a file of features: give one of {kinds}")
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has {values.dtype} of shape {values.shape}: numbers of shape [rows, d] are "
            "needed"
        )
    return Rows(values, keys, columns)


def read_keys(path: Path, *, key_column: str = "key") -> tuple[str, ...]:
    """The keys in a file: one key a line, or a column of a .parquet file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file has no such column, or is not text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".parquet":
        table = _open_table(path)
        if key_column not in table.column_names:
            names = ", ".join(table.column_names)
            raise ValueError(f"{path} has no column {key_column!r}: it has {names}")
        return tuple(map(str, table[key_column].to_pylist()))
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not a text file: give one key per line, or a .parquet file"
        ) from None


def match(
    keys: Sequence[str], wanted: Sequence[str], *, origin: str, images: str
) -> Int[np.ndarray, " n"]:
    """The number of the row of each of the `wanted` keys.

    Args:
      keys: the keys of the rows.
      wanted: the keys of the images.
      origin: where the keys come from, for the message.
      images: the name of the images in the message.

    Raises:
      ValueError: a key is there twice, or an image has no row.
    """
    place = {key: row for row, key in enumerate(keys)}
    if len(place) < len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))
        raise ValueError(f"{origin} has several rows of {twice!r}: each image has one")
    lacking = [key for key in wanted if key not in place]
    if lacking:
        raise ValueError(
            f"{origin} has no rows for {len(lacking)} of the {len(wanted)} images of {images}, "
            f"such as {', '.join(lacking[:_NAMED])}; its keys look like {', '.join(keys[:_NAMED])}"
        )
    return np.array([place[key] for key in wanted])


def _open_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ValueError(
                f"{path} is an archive of arrays (.npz): save one of them alone, by numpy.save"
            )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):  # NumPy says how to unpickle it
        raise ValueError(f"{path} is no .npy file of numbers") from None


def _open_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as .parquet: {first}") from None


def _choose_tensor(path: Path, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    if not name:
        matrices = [each for each, x in tensors.items() if x.ndim == 2]
        if len(matrices) != 1:
            raise ValueError(
                f"{path} has {len(matrices)} matrices{_among(matrices)}: choose one by `column`"
            )
        (name,) = matrices
    if name not in tensors:
        raise ValueError(f"{path} has no tensor {name!r}{_among(list(tensors))}")
    return tensors[name].astype(np.float32)  # NumPy has no bfloat16


def _choose_columns(path: Path, table: pa.Table, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers, and the columns that they come from."""
    lists = [each.name for each in table.schema if _is_list(each.type)]
    if name and name not in lists:
        raise ValueError(f"{path} has no column of lists {name!r}{_among(lists)}")
    if not name and len(lists) > 1:
        raise ValueError(f"{path} has {len(lists)} columns{_among(lists)}: choose one by `column`")
    if lists:
        name = name or lists[0]
        column = table[name].combine_chunks()
        values = column.flatten()
        dims = len(values) // max(len(column), 1)
        lengths = set(column.value_lengths().to_pylist())
        if lengths != {dims} or values.null_count:
            raise ValueError(f"{path}: {name!r} has rows of several lengths, or gaps")
        return values.to_numpy(zero_copy_only=False).reshape(len(column), dims), (name,)
    numbers = [each.name for each in table.schema if _is_number(each.type)]
    numbers = [
        each for each in numbers if each not in _NO_FEATURES and not each.startswith(_PANDAS_INDEX)
    ]
    if any(table[each].null_count for each in numbers):
        raise ValueError(f"{path} has gaps in its columns of numbers")
    if not numbers:
        raise ValueError(f"{path} has neither a column of lists nor columns of numbers")
    return np.stack([table[each].to_numpy() for each in numbers], axis=1), tuple(numbers)


def _is_list(kind: Any) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )


def _is_number(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _among(names: Sequence[str]) -> str:
    more = ", ..." * (len(names) > _NAMED)
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""
