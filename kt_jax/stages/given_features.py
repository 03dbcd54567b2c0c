"""Features from a file, computed by another program instead of a teacher of kt_jax."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kt_jax import data
from kt_jax.evaluation import given, leakage
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Features
LAYER = "given"
_KEY = "key"
_NAMED = 8  # column names in the plan
_LARGEST = np.finfo(np.float16).max


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of given features."""

    features: str = options.file()
    """A file with a row of numbers for each image: .npy, .safetensors, .pth or .parquet; see
    `evaluation.given.read_rows`."""
    images: str = options.images("train")
    """The images of the features. Each must have a row. Rows of other images are ignored."""
    keys: str = options.file()
    """A file with the key of each row: one key a line, or a .parquet file. Without it the keys are
    a column of `features`. Without that column the rows are in the order of `order`. A .parquet
    file without the column is refused, unless `order` is named and `key_column` is not."""
    order: str = options.images("")
    """The set of images that gives the order of the rows, one row per image. The default is
    `images`."""
    column: str = ""
    """The tensor or the column of `features`, if the file has several."""
    key_column: str = _KEY
    """The column of the keys."""
    rows_per_shard: int = 65_536
    """The number of rows in each file."""

    def __post_init__(self) -> None:
        """Refuses a count below 1."""
        if self.rows_per_shard < 1:
            raise ValueError(f"rows_per_shard = {self.rows_per_shard}: give 1 or more")


def run(stage: Stage) -> tuple[artifacts.Features, dict[str, Any]]:
    """Writes features-IIIII-of-NNNNN.npy, rows in the order of the images, and index.parquet.

    It also writes images.parquet, which lists these images. The training images of the network that
    gave the features are not known.

    Raises:
      ValueError: a value exceeds the range of float16, or a row that is not zero would become zero.
    """
    chosen, images = stage.options, stage.inputs.images["images"]
    rows, places = _open(chosen, stage.inputs)
    starts = range(0, len(images), chosen.rows_per_shard)
    with stage.count(len(images), "rows copied") as count:
        for number, begin in enumerate(starts):
            stage.notice.check()
            path = stage.directory / f"features-{number:05d}-of-{len(starts):05d}.npy"
            shard = places[begin : begin + chosen.rows_per_shard]
            if not partition.decided_by_first(path.exists):
                given_values = rows.values[shard]
                values = np.asarray(given_values, np.float32)
                bad = np.flatnonzero(~(np.abs(values) <= _LARGEST).all(1))  # also true for NaN
                if len(bad):
                    raise ValueError(
                        f"{stage.inputs.origin}.features = {chosen.features}: row {shard[bad[0]]} "
                        f"exceeds the range of float16 ({_LARGEST:.0f}) or is not finite"
                    )
                half = values.astype(np.float16)
                lost = np.flatnonzero(given_values.any(1) & ~half.any(1))
                if len(lost):
                    largest = np.abs(given_values[lost[0]]).max()
                    raise ValueError(
                        f"{stage.inputs.origin}.features = {chosen.features}: row {shard[lost[0]]} "
                        f"would be zero in float16, its largest number is {largest:.1e}: multiply "
                        "all features by the same number, so that the largest are near 1"
                    )
                files.write_array(path, half)
            count.add(len(shard))
    files.write_table(stage.directory / "index.parquet", data.index_columns(images))
    leakage.write_images(stage.directory, images)
    about = _describe(rows, images)
    return about, {
        "rows": about.rows,
        "dims": about.dims,
        "features": Path(chosen.features).name,
        "rows_left_out": len(rows.values) - about.rows,
    }


def _describe(rows: given.Rows, images: data.Images) -> artifacts.Features:
    return given.describe(images, dims=rows.values.shape[1], layer=LAYER)


def _open(chosen: Options, inputs: Inputs) -> tuple[given.Rows, Int[np.ndarray, " n"]]:
    """The rows, and the number of each image's row.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the file has no features, or an image has no row.
    """
    origin, images = inputs.origin, inputs.images["images"]
    if not chosen.features:
        raise ValueError(
            f"{origin}.features is missing: name a file, .npy, .parquet or .safetensors"
        )
    try:
        names = {"key_column": chosen.key_column}
        in_order = "order" in inputs.images and chosen.key_column == _KEY
        rows = given.read_rows(
            Path(chosen.features),
            column=chosen.column,
            needs_keys=not (chosen.keys or in_order),
            **names,
        )
        keys = given.read_keys(Path(chosen.keys), **names) if chosen.keys else rows.keys
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{origin}: {error}") from None
    said = f"{origin}.{f'keys = {chosen.keys}' if chosen.keys else f'features = {chosen.features}'}"
    count = len(rows.values)
    if keys is None:
        order = inputs.images.get("order", images)
        if len(order) != count:
            left_out = f" ({len(order.excluded)} of its files were excluded)" * bool(order.excluded)
            raise ValueError(
                f"{said} has {count} rows without keys, but {order.origin} has {len(order)} "
                f"images{left_out}: set `order` to the set in whose order they are, or give `keys`"
            )
        keys = order.keys
    if len(keys) != count:
        raise ValueError(f"{said} has {len(keys)} keys, but {chosen.features} has {count} rows")
    return rows, given.match(keys, images.keys, origin=said, images=images.origin)


def _shorten(columns: tuple[str, ...]) -> tuple[str, ...]:
    return columns if len(columns) <= _NAMED else (*columns[: _NAMED - 1], "...", columns[-1])


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks the files, and describes the stage.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the file has no features, or an image has no row.
    """
    rows, _ = _open(chosen, inputs)
    about = _describe(rows, inputs.images["images"])
    others = len(rows.values) - about.rows
    left_out = f", {others} rows of other images are ignored" * bool(others)
    line = f"{about.rows} x {about.dims} of {chosen.features} as float16{left_out}"
    if rows.columns:
        line += f", from the columns {', '.join(_shorten(rows.columns))}"
    size = about.rows * about.dims * 2
    return Plan(about, (line,), disk=lambda: size)
