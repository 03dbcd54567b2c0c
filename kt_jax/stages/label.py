"""Pseudo-labels: any images get the nearest centroid as label (paper, step c)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, labelling
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Labels
_DONE = "checkpoints"
_ROWS_PER_SHARD = 8_192  # between two points to resume from


@dataclass(frozen=True, kw_only=True)
class Options:
    """Labels for images."""

    clusters: str = options.reads(artifacts.Clusters)
    """Whose centroids the labels are, and whose backbone sees the images."""
    images: str = options.images("train")
    """Those that get labels: any, not only those that were clustered."""
    batch_size: int = options.incidental(256)
    """Images at a time, over all devices."""


def run(stage: Stage) -> tuple[artifacts.Labels, dict[str, Any]]:
    """Writes labels.parquet: index, key, cluster, distance, second_cluster, margin.

    And images.parquet: of which the teacher and the clusters learned. Images are seen as those that
    were clustered: layer, pooling, size, normalisation and the backbone itself are the clusters'.
    An interrupted run resumes after its last 8,192 images. Images whose features were given have
    the labels that these have.
    """
    clusters, images = stage.inputs["clusters"], stage.inputs.images["images"]
    path = stage.directory / labelling.LABELS
    if labelling.covers(clusters, images):
        files.copy(clusters / labelling.LABELS, path)
        cluster = files.read_table(clusters / labelling.LABELS)["cluster"]
    else:
        columns = _see(stage, clusters, images)
        names = {"index": np.arange(len(images)), "key": list(images.keys)}
        files.write_table(path, names | columns)
        cluster = columns["cluster"]
        files.delete(stage.directory / _DONE)
    if (clusters / backbones.IMAGES).exists():
        files.copy(clusters / backbones.IMAGES, stage.directory / backbones.IMAGES)
    about = _describe(clusters.about, images)
    return about, {
        "rows": len(images),
        "images": images.origin,
        "clusters_used": len(np.unique(cluster)),
    }


def _see(
    stage: Stage, clusters: artifacts.Artifact[artifacts.Clusters], images: data.Images
) -> dict[str, np.ndarray]:
    """The columns of images as the clusters' backbone sees them."""
    labeller = labelling.load_labeller(clusters)
    done = stage.directory / _DONE

    def path(number: int, count: int) -> Path:
        return done / f"labels-{number:05d}-of-{count:05d}.parquet"

    missing = [*backbones.unwritten_shards(images, _ROWS_PER_SHARD, path)]
    before = len(images) - sum(len(shard) for _, shard in missing)
    with stage.count(len(images), "images labelled", done=before) as count:
        for file, shard in missing:
            columns = labelling.label(
                labeller,
                shard,
                batch_size=stage.options.batch_size,
                mesh=stage.mesh,
                reading=stage.reading,
                notice=stage.notice,
                on_batch=count.add,
            )
            files.write_table(file, columns)
    partition.wait_for_all("the labels")
    shards = [files.read_table(file) for file in sorted(done.glob("labels-*.parquet"))]
    columns = {
        name: np.concatenate([shard[name] for shard in shards]) for name in labelling.COLUMNS
    }
    partition.wait_for_all("the reading of the labels")
    return columns


def _describe(clusters: artifacts.Clusters, images: data.Images) -> artifacts.Labels:
    return artifacts.Labels(
        rows=len(images), classes=clusters.k, images=images.fingerprint, origin=images.origin
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for images that are too small for the teacher's view, or other images than those
        whose features were given.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    clusters, images = inputs["clusters"], inputs.images["images"]
    line = f"labels for {len(images)} images of {images.origin}"
    if labelling.covers(clusters, images):
        return Plan(_describe(clusters.about, images), (f"{line}, whose features were given",))
    try:
        features = labelling.check_features(clusters)
    except ValueError as error:
        raise ValueError(f"{inputs.origin}.clusters: {error}") from None
    data.check_size(images, f"{inputs.origin}.images", features.size)
    # A name and five numbers a row.
    size = 28 * len(images)
    return Plan(
        _describe(clusters.about, images),
        (line,),
        disk=lambda: size + sum(map(len, images.keys)),
    )
