"""A TensorFlow data set, read without TensorFlow."""

import json
import os
import pathlib
import shlex
from typing import Any

from google.protobuf.message import DecodeError

from kt_jax.data.sources.source import Source, make_entries


class Tfds(Source):
    """One split of a data set that was prepared as ArrayRecord. Keys are name/split/number.

    A feature `label` is ignored unless it is a ClassLabel.
    """

    def __init__(self, name: str, split: str, data_dir: str = "") -> None:
        import tensorflow_datasets as tfds

        super().__init__()
        skip: Any = {"image": tfds.decode.SkipDecoding()}
        try:
            records: Any = tfds.data_source(
                name, split=split, data_dir=data_dir or None, download=False, decoders=skip
            )
        except (AssertionError, KeyError, NotImplementedError, ValueError) as error:
            raise ValueError(_why_not_opened(name, split, data_dir, error)) from error
        self._records: Any = records
        info = records.dataset_info
        if "image" not in info.features:
            raise ValueError(
                f"TFDS data set {name!r} has no feature 'image', only {list(info.features)}"
            )
        count = len(records)
        self.identity = f"tfds:{info.full_name}:{split}:{count}:{data_dir}"
        self.name = f"TFDS {info.full_name}, {split}"
        keys = [f"{name}/{split}/{row:07d}" for row in range(count)]
        written = _root(data_dir) / info.full_name / "dataset_info.json"
        stamp = written.stat().st_mtime_ns if written.exists() else 0
        self.entries = make_entries(keys, [0] * count, [stamp] * count)
        if "label" in info.features and hasattr(info.features["label"], "names"):
            self.class_names = tuple(info.features["label"].names)

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file. ValueError with the reason if it is unreadable."""
        return bytes(self._record(row)["image"])

    def read_labelled(self, row: int) -> tuple[bytes, str | None]:
        """Returns the bytes and the class, both from the same record."""
        record = self._record(row)
        # -1 is not a class: test splits with secret labels have it.
        known = self.class_names and record["label"] >= 0
        return bytes(record["image"]), self.class_names[record["label"]] if known else None

    def _record(self, row: int) -> dict[str, Any]:
        try:
            record = self._records[row]
        except (RuntimeError, ValueError, DecodeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if record["image"] is None:
            raise ValueError("the record holds no image")
        return record


def _root(data_dir: str) -> pathlib.Path:
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(data_dir or default).expanduser()


def _why_not_opened(name: str, split: str, data_dir: str, error: Exception) -> str:
    """Returns the reason and the remedy, by looking at the files on disk."""
    root = _root(data_dir)
    formats = {}
    for path in sorted(root.glob(f"{name.split(':')[0]}/**/dataset_info.json")):
        info = json.loads(path.read_text("utf-8"))
        formats[path.parent] = [info.get("fileFormat"), *info.get("alternativeFileFormats", [])]
    held = ", ".join(
        f"{folder.relative_to(root)} ({' and '.join(map(str, each))})"
        for folder, each in formats.items()
    )
    # Only the first line: the rest lists all known data sets.
    reason = str(error.args[0]).splitlines()[0] if error.args else type(error).__name__
    if any("array_record" in each for each in formats.values()):
        return (
            f"TFDS data set {name!r}, split {split!r}, cannot be opened: {reason} There is {held} "
            f"in {root}; another version than the newest is named as NAME:VERSION"
        )
    where = f" --data_dir={shlex.quote(data_dir)}" if data_dir else ""
    build = f"tfds build {name} --file_format=array_record{where}"
    needs = (
        "(on any machine; tfds itself needs: pip install tensorflow apache-beam mlcroissant "
        "importlib_resources)"
    )
    if not formats:
        return (
            f"TFDS data set {name!r} is not prepared as ArrayRecord in {root}: there is none of "
            f"that name. Prepare it once with: {build} {needs}"
        )
    folder = next(reversed(formats))
    convert = (
        f"tfds convert_format --dataset_version_dir={shlex.quote(str(folder))} "
        "--out_file_format=array_record"
    )
    return (
        f"TFDS data set {name!r} is not prepared as ArrayRecord in {root}, only as {held}, which "
        f"has no random access. Convert it once with: {convert} {needs}; or delete {folder} and "
        f"prepare it again with: {build}"
    )
