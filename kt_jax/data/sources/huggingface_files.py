"""Finds the files of a Hugging Face image data set, and reads their schemas."""

import os
import pathlib
import re

import pyarrow as pa
import pyarrow.parquet as pq

from kt_jax.data.sources.array_record import MANIFEST_NAME, PREPARED
from kt_jax.data.sources.huggingface_columns import COPY, INFO, is_image_type, read_json
from kt_jax.data.sources.listing import SCANNED
from kt_jax.data.sources.names import is_image
from kt_jax.data.splits import read_name

# `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write these next to the data.
_STATE, _DICT = "state.json", "dataset_dict.json"
_SHARD = re.compile(r"([^/]+?)-\d{5}-of-\d{5}[^/]*$")


def is_huggingface(path: pathlib.Path) -> bool:
    """Whether a path is such a data set. Reads only the schemas of Parquet files."""
    if path.is_file():
        return path.suffix == ".parquet" and _holds_images(path)
    if (path / _DICT).is_file() or ((path / _STATE).is_file() and (path / INFO).is_file()):
        return True
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in sorted(files) if not name.startswith(".")]
        tables = [pathlib.Path(folder, name) for name in names if name.endswith(".parquet")]
        if any(map(_holds_images, tables)):
            return True
        if not all(map(_is_own, tables)):
            return False
        # Stop early in a folder of images. On the Hub, an image at the root belongs to the
        # data set card.
        if folder != str(path) and any(is_image(name) for name in files):
            return False
    return False


def find_files(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Returns the data files of every split, .parquet or Arrow streams.

    Raises:
      ValueError: there are none, or there are several data sets.
    """
    if (path / _DICT).is_file():
        return {split: _listed(path / split) for split in read_json(path / _DICT, "splits")}
    if (path / _STATE).is_file():
        return {read_json(path / _STATE, "_split") or "train": _listed(path)}
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    splits: dict[str, list[pathlib.Path]] = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        hidden = path.is_dir() and (name.startswith(".") or "/." in name)
        if file.suffix == ".parquet" and not hidden and not _is_own(file):
            splits.setdefault(_split_of(name), []).append(file)
    if not splits:
        raise ValueError(
            f"{path} is no data set of Hugging Face: it is neither a directory that save_to_disk "
            f"wrote ({_STATE} or {_DICT}), nor a .parquet, nor a directory that holds some. Out of "
            "its cache, save it once: datasets.load_dataset(...).save_to_disk(...)"
        )
    for split, files in splits.items():
        folders = sorted({str(file.parent) for file in files})
        if len(folders) > 1:
            raise ValueError(
                f"{path} holds several data sets, or one several times: files of the split "
                f"{split!r} lie in {', '.join(folders[:3])}. Give the folder of one"
            )
    return splits


def read_schema(file: pathlib.Path) -> pa.Schema:
    """Returns the schema of a data file. ValueError if it cannot be read."""
    try:
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_stream(source).schema
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): {COPY}") from error


def _holds_images(file: pathlib.Path) -> bool:
    return any(is_image_type(field.type) for field in _peek(file))


def _is_own(file: pathlib.Path) -> bool:
    """Whether a table is one of kt_jax's, from a scan or in the directory of `prepare`."""
    own, manifest = _peek(file).metadata, _peek(file.with_name(MANIFEST_NAME)).metadata
    return SCANNED in (own or ()) or PREPARED in (manifest or ())


def _peek(file: pathlib.Path) -> pa.Schema:
    """Returns the schema of a .parquet, or an empty one if it cannot be read."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return pa.schema([])


def _split_of(name: str) -> str:
    """Returns the split in the name of a file, or in that of its folder."""
    if match := _SHARD.search(name):
        return match[1]
    for part in reversed(name.removesuffix(".parquet").split("/")):
        if said := read_name(part):
            return said.split
    return "train"


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / each["filename"] for each in read_json(folder / _STATE, "_data_files")]
