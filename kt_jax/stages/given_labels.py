"""Labels from a file, such as the authors' lists of pseudo-labels for Caffe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from kt_jax import data
from kt_jax.evaluation import given
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Labels
_LARGEST = 10_000_000  # a student has an output for each label up to the largest


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of given labels."""

    labels: str = options.file()
    """A text file with a line "PATH LABEL" for each image and labels from 0 on, as Caffe's
    ImageData layer reads it. PATH is the key of the image, perhaps below one folder that all lines
    share. It may be the file name alone, if no PATH has a folder and no two images share a file
    name."""
    images: str = options.images("train")
    """The images that get the labels. Each must have a line. Lines of other images are ignored."""


def run(stage: Stage) -> tuple[artifacts.Labels, dict[str, Any]]:
    """Writes labels.parquet as the kind `label` does, with distances and margins of NaN.

    The distances to centroids are not known, and nor are the images that the labels were learned
    from.
    """
    images = stage.inputs.images["images"]
    labels = _read(stage.options, stage.inputs)
    nowhere = np.full(len(labels), np.nan, np.float32)
    columns = {
        "index": np.arange(len(labels)),
        "key": list(images.keys),
        "cluster": labels,
        "distance": nowhere,
        "second_cluster": np.full_like(labels, -1),
        "margin": nowhere,
    }
    files.write_table(stage.directory / "labels.parquet", columns)
    about = _describe(labels, images)
    return about, {"rows": about.rows, "labels": Path(stage.options.labels).name}


def _describe(labels: Int32[np.ndarray, " n"], images: data.Images) -> artifacts.Labels:
    return artifacts.Labels(
        rows=len(labels),
        classes=int(labels.max()) + 1,
        images=images.fingerprint,
        origin=images.origin,
        nearest=0,
    )


def _read(chosen: Options, inputs: Inputs) -> Int32[np.ndarray, " n"]:
    """The label of each image [n].

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line has no valid label, or an image has no line.
    """
    origin, images = f"{inputs.origin}.labels", inputs.images["images"]
    if not chosen.labels:
        raise ValueError(f'{origin} is missing: name a text file of lines "PATH LABEL"')
    origin += f" = {chosen.labels}"
    try:
        lines = given.read_keys(Path(chosen.labels))
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{inputs.origin}: {error}") from None
    keys, labels = [], []
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(maxsplit=1)
        if not parts:
            continue
        if len(parts) < 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise ValueError(
                f'{origin}, line {number}: {line!r} is not "PATH LABEL" with a label from 0 on'
            )
        digits = parts[1].lstrip("0") or "0"
        if len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST:
            raise ValueError(f"{origin}, line {number}: the label is above {_LARGEST}: {line!r}")
        keys.append(parts[0])
        labels.append(int(digits))
    if not keys:
        raise ValueError(f"{origin} has no lines")
    wanted: Sequence[str] = images.keys
    if not set(wanted) <= set(keys):
        keys, wanted = _shorten(keys, wanted)
    rows = given.match(keys, wanted, origin=origin, images=images.origin)
    return np.array(labels, np.int32)[rows]


def _shorten(keys: list[str], wanted: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Keys without a folder that all share, or file names of images if keys have no folders.

    Both are returned unchanged if that does not fit: a file name alone may belong to another image.
    """
    if not any("/" in key for key in keys):
        names = [PurePosixPath(key).name for key in wanted]
        return keys, names if len(set(names)) == len(names) else wanted
    for place, letter in enumerate(keys[0], 1):
        if letter == "/":
            if not all(key.startswith(keys[0][:place]) for key in keys):
                break
            short = [key[place:] for key in keys]
            if set(wanted) <= set(short):
                return short, wanted
    return keys, wanted


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks the file, and describes the stage.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line has no valid label, or an image has no line.
    """
    images = inputs.images["images"]
    about = _describe(_read(chosen, inputs), images)
    line = f"{about.rows} labels of {about.classes} classes from {chosen.labels}"
    return Plan(about, (line,))
