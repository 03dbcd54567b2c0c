"""Pseudo-labels: any images get the nearest centroid as label (paper, step c)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import data, kmeans
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Labels


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
    """
    clusters, images = stage.inputs["clusters"], stage.inputs.images["images"]
    features = clusters.about.features
    carried = clusters / backbones.CARRIED
    backbone = backbones.load_backbone(carried, features.backbone)
    tensors = files.read_tensors(clusters / "centroids.safetensors")

    parts = []
    for _, rows in backbones.extract(
        backbone,
        images,
        {features.layer: features.grid},
        size=features.size,
        batch_size=stage.options.batch_size,
        mesh=stage.mesh,
        reading=stage.reading,
        notice=stage.notice,
    ):
        parts.append(
            kmeans.assign(
                rows[features.layer],
                tensors["centroids"],
                mean=tensors["mean"],
                l2=clusters.about.l2,
                mesh=stage.mesh,
            )
        )

    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("cluster", "distance", "second_cluster", "margin")
    }
    files.write_table(
        stage.directory / "labels.parquet",
        {"index": np.arange(len(images)), "key": list(images.keys), **columns},
    )
    if (clusters / backbones.IMAGES).exists():
        files.copy(clusters / backbones.IMAGES, stage.directory / backbones.IMAGES)
    about = _describe(clusters.about, images)
    return about, {
        "rows": len(images),
        "images": images.origin,
        "clusters_used": len(np.unique(columns["cluster"])),
    }


def _describe(clusters: artifacts.Clusters, images: data.Images) -> artifacts.Labels:
    return artifacts.Labels(
        rows=len(images), classes=clusters.k, images=images.fingerprint, origin=images.origin
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for images that are too small for the teacher's view, or clusters of features
        that no backbone of ours gave.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    clusters, images = inputs["clusters"], inputs.images["images"]
    features = clusters.about.features
    if features is None:
        raise ValueError(
            f"{inputs.origin}.clusters = {clusters.name!r} are clusters of given features: no "
            "backbone is known that would give those of other images"
        )
    data.check_size(images, f"{inputs.origin}.images", features.size)
    line = f"labels for {len(images)} images of {images.origin}"
    return Plan(_describe(clusters.about, images), (line,))
