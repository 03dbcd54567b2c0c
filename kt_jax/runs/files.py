"""Writes files so that they are complete or absent: to a temporary name, then renamed.

Arrays are stored as .npy, .safetensors and .parquet; nothing is pickled. In a run of several
processes only process 0 writes: in the others, functions that write or delete do nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kt_jax.machine import processes


def remove(directory: Path) -> None:
    """Deletes the directory of a stage. Renames it first, so that a kill leaves no half of it."""
    if not processes.writes():
        return
    doomed = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(directory, doomed)
    shutil.rmtree(doomed)


def delete(directory: Path) -> None:
    """Deletes a directory of temporary files, if it exists."""
    if processes.writes():
        shutil.rmtree(directory, ignore_errors=True)


def make_error(words: str, cause: BaseException) -> OSError:
    """An OSError with a new message and the errno of its cause (`errors.explain` reads it)."""
    error = OSError(words)
    error.errno = cause.errno if isinstance(cause, OSError) else None
    return error


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary path in the same directory, then renames the file to `path`.

    Raises:
      OSError: the file cannot be written, as on a full disk. An older file at `path` is kept.
    """
    if not processes.writes():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The dot hides a file that a kill may leave; the next attempt replaces it.
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:  # their messages do not name the file
        raise make_error(f"{path} could not be written: {error}", error) from error
    finally:
        partial.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copies a file, or all files of a directory."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                copy(path, target / path.relative_to(source))
        return
    write_file(target, lambda partial: shutil.copyfile(source, partial))


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_file(path, lambda partial: partial.write_text(text))


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
      ValueError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}. Delete it, or bring it back") from None


def to_plain(value: Any) -> Any:
    """A ConfigDict or any JSON value, as plain dicts and lists."""
    text = value.to_json() if hasattr(value, "to_json") else json.dumps(value)
    return json.loads(text)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file."""
    write_file(path, lambda partial: np.save(partial, array, allow_pickle=False))


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes a .parquet file. All columns must have the same length."""
    table = pa.table(dict(columns))
    write_file(path, lambda partial: pyarrow.parquet.write_table(table, partial))


def read_table(path: Path) -> dict[str, np.ndarray]:
    """The columns of a .parquet file."""
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def write_tensors(
    path: Path, tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes nested dicts of arrays as .safetensors, with names joined by "/".

    Args:
      path: the file.
      tree: the arrays.
      metadata: texts for the header of the file.
    """
    flat = {name: np.asarray(array, order="C") for name, array in _flatten(tree, "")}

    def save(partial: Path) -> None:
        partial.touch()
        mode = partial.stat().st_mode
        # save_file restricts the file to its owner: restore the usual mode.
        save_file(flat, partial, None if metadata is None else dict(metadata))
        partial.chmod(mode)

    write_file(path, save)


def read_tensors(path: Path) -> dict[Any, Any]:
    """Reads a .safetensors file as nested dicts of arrays. Numbers in names become ints."""
    tree: dict[Any, Any] = {}
    for name, array in load_file(path).items():
        *parents, leaf = (int(part) if part.isdigit() else part for part in name.split("/"))
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _flatten(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", np.asarray(value)
