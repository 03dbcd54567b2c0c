"""Features of whole images: activations of a backbone, [n, d] float16 in shards."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, calibration, extraction, image_rows, leakage
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Features
_SCRATCH = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of features."""

    backbone: str = options.reads(artifacts.Backbone, artifacts.Features, artifacts.Clusters)
    """The network that computes the features. Features or Clusters may be named instead: these
    images then get features of the same backbone, layers, views and scales, and the options from
    `layer` to `calibrate` come from there."""
    images: str = options.images("train")
    layer: str = ""
    """The activation to use; `kt-jax show` lists those of a network. "+" joins several
    ("conv2_2+conv3_2"): each is divided by its root mean square over these images, so that all have
    the same weight. The paper clusters one layer. Measured at 48 px with whitened rows
    (docs/features.md): clusters' majority vote 32.8 -> 35.3 %, kNN 54.3 -> 57.7 %."""
    grid: int = 4
    """Activations are max-pooled to grid x grid (paper: 4)."""
    size: int = 0
    """The side of the central view, in pixels."""
    views: int = 1
    """The number of views whose features are averaged: 1, 2 (with the mirror image) or 10 (with the
    four corners as well; Krizhevsky et al. 2012, section 4.1). See `models.views.fixed_views`. Ten
    views take ten times as long. Measured at 48 px with `calibrate` (docs/features.md): kNN 52.0 ->
    55.0 % with two views, 54.7 % with ten; with whitened rows 59.0 and 63.3 %."""
    calibrate: bool = False
    """Whether the statistics of batch norms are measured again on these images, without labels. A
    puzzle solver's own statistics are of tiles. Adaptive batch normalisation does the same for
    another domain (Li et al. 2016, section 3). Measured at 48 px (docs/features.md): the clusters'
    majority vote 34.2 -> 36.5 %, kNN 49.3 -> 52.0 %; with another teacher 35.7 -> 35.3 and 50.2 ->
    51.4 %. The calibrated network is saved with the features."""
    batch_size: int = options.incidental(256)
    """The number of images in a batch, over all devices."""
    rows_per_shard: int = 65_536
    """The number of rows in each file."""

    def __post_init__(self) -> None:
        """Refuses counts below 1, other numbers of views, and a layer that is named twice."""
        for name in ("grid", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")
        if self.size < 0:
            raise ValueError(f"size = {self.size}: give 1 or more")
        views.fixed_views(self.views)
        layers = image_rows.split_layers(self.layer)
        if len(set(layers)) < len(layers):
            raise ValueError(f"layer = {self.layer!r} names a layer twice: name each once")


def run(stage: Stage) -> tuple[artifacts.Features, dict[str, Any]]:
    """Writes features-IIIII-of-NNNNN.npy, rows in the order of the images, and index.parquet.

    It also writes backbone/ and images.parquet, which lists these images and those that the
    backbone learned from. A resumed run keeps the finished shards.
    """
    chosen, images = stage.options, stage.inputs.images["images"]
    origin = stage.inputs["backbone"]
    backbone = _open_backbone(stage)
    about = _describe(chosen, origin.about, images)
    widths = _widths(about)
    # The scales of joined layers are known only after all images.
    is_joined = len(widths) > 1 and not about.scales
    place = stage.directory / _SCRATCH if is_joined else stage.directory

    def path(number: int, count: int) -> Path:
        return place / f"features-{number:05d}-of-{count:05d}.npy"

    shards = [*extraction.unwritten_shards(images, chosen.rows_per_shard, path)]
    done = len(images) - sum(len(shard) for _, shard in shards)
    with stage.count(len(images), "images seen", done=done) as count:
        for file, shard in shards:
            parts = []
            for index, rows in image_rows.extract(
                backbone,
                shard,
                about,
                batch_size=chosen.batch_size,
                mesh=stage.mesh,
                reading=stage.reading,
                notice=stage.notice,
            ):
                parts.append(rows)
                count.add(len(index))
            files.write_array(file, np.concatenate(parts))
    if is_joined:
        about = _write_scaled(stage, about, widths)
    files.write_table(stage.directory / "index.parquet", data.index_columns(images))
    if isinstance(origin.about, artifacts.Backbone):
        backbones.carry_backbone(stage.directory, backbone, origin)
    # Clusters and labels made from these features depend on these images too.
    learned = [] if origin.is_random else [origin / backbones.IMAGES]
    leakage.write_images(
        stage.directory, images, and_those_in=[path for path in learned if path.exists()]
    )
    partition.wait_for_all("the features")
    files.delete(stage.directory / _SCRATCH)
    return about, {name: getattr(about, name) for name in ("rows", "dims", "layer", "grid", "size")}


def _open_backbone(stage: Stage) -> backbones.FrozenBackbone:
    """The network that computes these features, saved in backbone/ unless it is the input."""
    origin = stage.inputs["backbone"]
    carried = stage.directory / backbones.CARRIED
    if not isinstance(origin.about, artifacts.Backbone):
        about = _like(origin.about)
        assert about is not None  # checked by the plan
        assert about.backbone is not None
        files.copy(origin / backbones.CARRIED, carried)
        return backbones.load_backbone(origin / backbones.CARRIED, about.backbone)
    # A resumed run reads what was measured: other devices may give other last digits.
    if stage.options.calibrate and partition.decided_by_first(
        (carried / backbones.DESCRIPTION).exists
    ):
        return backbones.load_backbone(carried, origin.about)
    backbone = backbones.open_backbone(origin, seed=stage.seed)
    if stage.options.calibrate:
        backbone = calibration.calibrate(
            backbone,
            stage.inputs.images["images"],
            size=stage.options.size,
            seed=stage.seed,
            mesh=stage.mesh,
            reading=stage.reading,
            notice=stage.notice,
        )
        backbones.carry_backbone(stage.directory, backbone, origin)
    return backbone


def _write_scaled(
    stage: Stage, about: artifacts.Features, widths: tuple[int, ...]
) -> artifacts.Features:
    """Divides the rows of joined layers by the layers' scales; the result has the scales."""
    place = stage.directory / _SCRATCH
    partition.wait_for_all("the undivided features")
    shards = sorted(place.glob("features-*-of-*.npy"))
    scales = image_rows.find_scales(shards, image_rows.split_layers(about.layer), widths)
    for shard in shards:
        files.write_array(
            stage.directory / shard.name, image_rows.divide(np.load(shard), widths, scales)
        )
    return dataclasses.replace(about, scales=scales)


def _like(origin: artifacts.Description) -> artifacts.Features | None:
    """The features whose settings apply here; None for a Backbone."""
    found = origin.features if isinstance(origin, artifacts.Clusters) else origin
    return found if isinstance(found, artifacts.Features) else None


def _widths(about: artifacts.Features) -> tuple[int, ...]:
    """The number of dimensions of each layer in a row."""
    assert about.backbone is not None  # this stage's features have one
    shapes = backbones.layer_shapes(about.backbone, about.size)
    found = []
    for layer in image_rows.split_layers(about.layer):
        *sides, channels = shapes[layer]
        found.append(math.prod(min(side, about.grid) for side in sides) * channels)
    return tuple(found)


def _describe(
    chosen: Options, origin: artifacts.Description, images: data.Images
) -> artifacts.Features:
    like = _like(origin)
    if like is not None:
        of_images = {"rows": len(images), "image_size": images.size}
        return dataclasses.replace(like, **of_images, images=images.fingerprint)
    assert isinstance(origin, artifacts.Backbone)
    about = artifacts.Features(
        rows=len(images),
        dims=0,
        layer=chosen.layer,
        grid=chosen.grid,
        size=chosen.size,
        backbone=origin,
        image_size=images.size,
        views=chosen.views,
        images=images.fingerprint,
    )
    return dataclasses.replace(about, dims=sum(_widths(about)))


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: the backbone has no such layer, images are too small, or an option is already
        decided by the Features or Clusters named as `backbone`.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    images, origin = inputs.images["images"], inputs["backbone"].about
    if isinstance(origin, artifacts.Backbone):
        _check_own(chosen, inputs, origin)
    else:
        _check_like(chosen, inputs)
    about = _describe(chosen, origin, images)
    assert about.backbone is not None
    data.check_size(images, f"{inputs.origin}.images", about.size)
    size = about.rows * about.dims * 2
    views_of = f", the mean over {about.views} views" * (about.views > 1)
    statistics = ", batch statistics measured on these images" * chosen.calibrate
    line = (
        f"layer {about.layer} pooled to {about.grid} x {about.grid}{views_of}{statistics}: "
        f"{about.rows} x {about.dims} float16 = {size / 1e6:,.1f} MB on disk"
    )
    copies = 2 if "+" in about.layer and not about.scales else 1
    parameters = about.backbone.parameters
    return Plan(about, (line,), disk=lambda: copies * size + 4 * parameters)


def _check_own(chosen: Options, inputs: Inputs, backbone: artifacts.Backbone) -> None:
    for name, kind in (("layer", "a text"), ("size", "a whole number")):
        if not getattr(chosen, name):
            raise ValueError(f"{inputs.origin}.{name} is missing: {kind} is needed")
    layers = image_rows.split_layers(chosen.layer)
    backbones.check_layers(f"{inputs.origin}.layer", layers, backbone, chosen.size)


def _check_like(chosen: Options, inputs: Inputs) -> None:
    origin = inputs["backbone"]
    like = _like(origin.about)
    if like is None or like.backbone is None:
        raise ValueError(
            f"{inputs.origin}.backbone: {origin.name!r} are given features, or clusters of such: "
            "no backbone is known that could compute those of other images"
        )
    for name in ("layer", "grid", "size", "views", "calibrate"):
        if getattr(chosen, name) != getattr(Options, name):
            raise ValueError(
                f"{inputs.origin}.{name} = {getattr(chosen, name)!r}, but {origin.name!r} "
                f"decides this option: remove {name}, or name a Backbone"
            )
