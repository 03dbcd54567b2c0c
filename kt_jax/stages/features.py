"""Features of whole images: layers of a backbone, [n, d] float16 in shards."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, calibration, image_rows, leakage
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Features
_SCRATCH = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Features of images."""

    backbone: str = options.reads(artifacts.Backbone, artifacts.Features, artifacts.Clusters)
    """The network that sees them. Or Features, or Clusters of such: these images then get rows as
    those have, of the same backbone, layers, views and scales; `layer` to `calibrate` are theirs.
    """
    images: str = options.images("train")
    layer: str = ""
    """The activation that is taken; `kt-jax show` lists those of a network. Several are joined by
    "+" ("conv2_2+conv3_2"), each divided by its root mean square over these images, so that none
    outweighs another; the paper clusters one layer. Measured at 48 px with whitened rows
    (docs/features.md): clusters' majority vote 32.8 -> 35.3 %, kNN 54.3 -> 57.7 %."""
    grid: int = 4
    """A layer's activation is max-pooled to grid x grid (paper: 4)."""
    size: int = 0
    """The side of the central view, in pixels."""
    views: int = 1
    """A row is the mean over 1, 2 (and its mirror image) or 10 (and four corners) views: see
    `models.views.fixed_views`; ten cost ten times the time. Ten are those of Krizhevsky et al.
    2012, section 4.1. Measured at 48 px, with `calibrate` (docs/features.md): kNN 52.0 -> 55.0 %
    with two and 54.7 % with ten; with whitened rows 59.0 and 63.3 %."""
    calibrate: bool = False
    """Whether the batch norms' statistics are measured again on these images, without their labels.
    Those of a puzzle solver are of tiles. As adaptive batch normalisation (Li et al. 2016, section
    3) does for another domain. Measured at 48 px (docs/features.md): the clusters' majority vote
    34.2 -> 36.5 %, kNN 49.3 -> 52.0 %; with another teacher 35.7 -> 35.3 and 50.2 -> 51.4 %. The
    features carry the calibrated network."""
    batch_size: int = options.incidental(256)
    """Images at a time, over all devices."""
    rows_per_shard: int = 65_536
    """Of each file."""

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

    And backbone/, and images.parquet: which images these are, and the backbone learned from. Shards
    that an interrupted run finished are kept.
    """
    chosen, images = stage.options, stage.inputs.images["images"]
    origin = stage.inputs["backbone"]
    backbone = _open_backbone(stage)
    about = _describe(chosen, origin.about, images)
    widths = _widths(about)
    # Joined layers wait for scales, which take all images.
    is_joined = len(widths) > 1 and not about.scales
    place = stage.directory / _SCRATCH if is_joined else stage.directory

    def path(number: int, count: int) -> Path:
        return place / f"features-{number:05d}-of-{count:05d}.npy"

    shards = [*backbones.unwritten_shards(images, chosen.rows_per_shard, path)]
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
    # Clusters and their labels come from these images, too.
    learned = [] if origin.is_random else [origin / backbones.IMAGES]
    leakage.write_images(
        stage.directory, images, and_those_in=[path for path in learned if path.exists()]
    )
    partition.wait_for_all("the features")
    files.delete(stage.directory / _SCRATCH)
    return about, {name: getattr(about, name) for name in ("rows", "dims", "layer", "grid", "size")}


def _open_backbone(stage: Stage) -> backbones.FrozenBackbone:
    """The network as these features have it, in backbone/ where it is not the input as it is."""
    origin = stage.inputs["backbone"]
    carried = stage.directory / backbones.CARRIED
    if not isinstance(origin.about, artifacts.Backbone):
        about = _like(origin.about)
        assert about is not None  # the plan has checked both
        assert about.backbone is not None
        files.copy(origin / backbones.CARRIED, carried)
        return backbones.load_backbone(origin / backbones.CARRIED, about.backbone)
    # A resumed run takes what was measured: on other devices the last digits may differ.
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
    """Divides the rows of several layers by the layers' scales, which the result says."""
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
    """The features that other images' are to be like; None of a Backbone."""
    found = origin.features if isinstance(origin, artifacts.Clusters) else origin
    return found if isinstance(found, artifacts.Features) else None


def _widths(about: artifacts.Features) -> tuple[int, ...]:
    """How many numbers of a row each layer has."""
    assert about.backbone is not None  # what this stage makes has one
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
    """What the stage would do.

    Raises:
      ValueError: for layers that the backbone does not have, images that are too small, or options
        that the Features named as `backbone` have already decided.
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
            "no backbone is known that would give those of other images"
        )
    for name in ("layer", "grid", "size", "views", "calibrate"):
        if getattr(chosen, name) != getattr(Options, name):
            raise ValueError(
                f"{inputs.origin}.{name} = {getattr(chosen, name)!r}, but rows are as those of "
                f"{origin.name!r}: leave {name} out, or name a Backbone"
            )
