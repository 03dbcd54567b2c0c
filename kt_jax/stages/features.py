"""Features of whole images: one layer of a backbone, [n, d] float16 in shards."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, leakage
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Features


@dataclass(frozen=True, kw_only=True)
class Options:
    """Features of images."""

    backbone: str = options.reads(artifacts.Backbone)
    """The network that sees them."""
    images: str = options.images("train")
    layer: str
    """The activation that is taken; `kt-jax show` lists those of a network."""
    grid: int = 4
    """The layer's activation is max-pooled to grid x grid (paper: 4)."""
    size: int
    """The side of the central view, in pixels."""
    batch_size: int = options.incidental(256)
    """Images at a time, over all devices."""
    rows_per_shard: int = 65_536
    """Of each file."""

    def __post_init__(self) -> None:
        """Refuses counts and lengths below 1."""
        for name in ("grid", "size", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")


def run(stage: Stage) -> tuple[artifacts.Features, dict[str, Any]]:
    """Writes features-IIIII-of-NNNNN.npy, rows in the order of the images, and index.parquet.

    And backbone/, and images.parquet: which images these are, and the backbone learned from. Shards
    that an interrupted run finished are kept.
    """
    chosen, images = stage.options, stage.inputs.images["images"]
    backbone = backbones.open_backbone(stage.inputs["backbone"], seed=stage.seed)

    def path(number: int, count: int) -> Path:
        return stage.directory / f"features-{number:05d}-of-{count:05d}.npy"

    shards = [*backbones.unwritten_shards(images, chosen.rows_per_shard, path)]
    done = len(images) - sum(len(shard) for _, shard in shards)
    with stage.count(len(images), "images seen", done=done) as count:
        for file, shard in shards:
            parts = []
            for index, rows in backbones.extract(
                backbone,
                shard,
                {chosen.layer: chosen.grid},
                size=chosen.size,
                batch_size=chosen.batch_size,
                mesh=stage.mesh,
                reading=stage.reading,
                notice=stage.notice,
            ):
                parts.append(rows[chosen.layer])
                count.add(len(index))
            files.write_array(file, np.concatenate(parts))
    files.write_table(stage.directory / "index.parquet", data.index_columns(images))
    origin = stage.inputs["backbone"]
    backbones.carry_backbone(stage.directory, backbone, origin)
    # Clusters and their labels come from these images, too.
    learned = [] if origin.is_random else [origin / backbones.IMAGES]
    leakage.write_images(
        stage.directory, images, and_those_in=[path for path in learned if path.exists()]
    )
    about = _describe(chosen, backbone.about, images)
    return about, {name: getattr(about, name) for name in ("rows", "dims", "layer", "grid", "size")}


def _describe(
    chosen: Options, backbone: artifacts.Backbone, images: data.Images
) -> artifacts.Features:
    *sides, channels = backbones.layer_shapes(backbone, chosen.size)[chosen.layer]
    return artifacts.Features(
        rows=len(images),
        dims=math.prod(min(side, chosen.grid) for side in sides) * channels,
        layer=chosen.layer,
        grid=chosen.grid,
        size=chosen.size,
        backbone=backbone,
        image_size=images.size,
        images=images.fingerprint,
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for a layer that the backbone does not have, or images that are too small.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    images, backbone = inputs.images["images"], inputs["backbone"].about
    data.check_size(images, f"{inputs.origin}.images", chosen.size)
    backbones.check_layers(f"{inputs.origin}.layer", [chosen.layer], backbone, chosen.size)
    about = _describe(chosen, backbone, images)
    size = about.rows * about.dims * 2
    line = (
        f"layer {about.layer} pooled to {about.grid} x {about.grid}: {about.rows} x {about.dims} "
        f"float16 = {size / 1e6:,.1f} MB on disk"
    )
    return Plan(about, (line,), disk=lambda: size + 4 * backbone.parameters)
