"""Features without a network: pixels, or HOG with colours (paper, Table 5, "CC+HOG").

They are a baseline for a network's features. k-means clusters them like any given features.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kt_jax import data
from kt_jax.evaluation import descriptors, given, leakage, subjects
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Features


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of descriptors."""

    images: str = options.images("train")
    of: str = "hog_colour"
    """"pixels" (resized to side x side) or "hog_colour"; see `evaluation.descriptors`."""
    size: int
    """The side of the central view, in pixels."""
    side: int = 16
    """The side of the small image that gives the pixels."""
    batch_size: int = options.incidental(256)
    """The number of images in a batch, over all devices."""

    def __post_init__(self) -> None:
        """Refuses an unknown descriptor, and lengths below 1."""
        if self.of not in subjects.BASELINES:
            raise ValueError(f"of = {self.of!r}: choose from {', '.join(subjects.BASELINES)}")
        for name in ("size", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")


def run(stage: Stage) -> tuple[artifacts.Features, dict[str, Any]]:
    """Writes features-00000-of-00001.npy [n, d] float16, index.parquet and images.parquet."""
    chosen, images = stage.options, stage.inputs.images["images"]
    program, parts = jax.jit(_make_program(chosen)), []
    with stage.count(len(images), "images seen") as count:
        for batch in data.eval_batches(images, chosen.batch_size, reading=stage.reading):
            stage.notice.check()
            on_devices = partition.put_batch(
                {name: batch[name] for name in ("image", "mask")}, stage.mesh
            )
            rows, mask = partition.fetch((program(on_devices["image"]), on_devices["mask"]))
            parts.append(rows[mask].astype(np.float16))
            count.add(int(mask.sum()))
    files.write_array(stage.directory / "features-00000-of-00001.npy", np.concatenate(parts))
    files.write_table(stage.directory / "index.parquet", data.index_columns(images))
    leakage.write_images(stage.directory, images)
    about = _describe(chosen, images)
    return about, {"rows": about.rows, "dims": about.dims, "of": chosen.of}


def _make_program(chosen: Options) -> Callable[[jax.Array], jax.Array]:
    describe = {
        subjects.PIXELS: functools.partial(descriptors.small_pixels, side=chosen.side),
        subjects.HOG: descriptors.hog_and_colour,
    }[chosen.of]

    def program(pixels: jax.Array) -> jax.Array:
        return describe(views.central_square(pixels, chosen.size).astype(np.float32))

    return program


def _describe(chosen: Options, images: data.Images) -> artifacts.Features:
    batch = jax.ShapeDtypeStruct((1, images.size, images.size, 3), np.uint8)
    dims = jax.eval_shape(_make_program(chosen), batch).shape[1]
    return given.describe(images, dims=dims, layer=chosen.of)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks the images, and describes the stage.

    Raises:
      ValueError: images are too small.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    images = inputs.images["images"]
    data.check_size(images, f"{inputs.origin}.images", chosen.size)
    about = _describe(chosen, images)
    line = f"{chosen.of}: {about.rows} x {about.dims} float16"
    return Plan(about, (line,), disk=lambda: 2 * about.rows * about.dims)
