"""Stage 4: any images get the nearest centroid as label (paper, step c)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kt_jax import data, kmeans
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.runs import artifacts

READS = ("pretext", "clusters")


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes labels.parquet: index, key, cluster, distance, second_cluster, margin.

    Images are seen as the clusters' own were: layer, pooling, size and normalisation come
    from the clusters' artifact, not from this stage's config.
    """
    section = stage.section
    backbone = backbones.load_backbone(stage.open("pretext"))
    clusters = stage.open("clusters")
    how = artifacts.read_json(clusters / "clusters.json")
    tensors = artifacts.read_tensors(clusters / "centroids.safetensors")
    images = stage.images[section.images]

    parts = []
    for _, rows in backbones.extract(
        backbone,
        images,
        {how["layer"]: how["grid"]},
        size=how["size"],
        batch_size=section.batch_size,
        mesh=stage.mesh,
        reading=stage.reading,
        notice=stage.notice,
    ):
        parts.append(
            kmeans.assign(
                rows[how["layer"]],
                tensors["centroids"],
                mean=tensors["mean"],
                l2=how["l2"] or how["spherical"],
                mesh=stage.mesh,
            )
        )

    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("cluster", "distance", "second_cluster", "margin")
    }
    artifacts.write_table(
        stage.directory / "labels.parquet",
        {"index": np.arange(len(images)), "key": list(images.keys), **columns},
    )
    return {
        "rows": len(images),
        "images": images.origin,
        "clusters_used": len(np.unique(columns["cluster"])),
    }


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for images that are too small for the teacher's view.
    """
    section = config.pseudo_labels
    partition.check_batch_size("config.pseudo_labels.batch_size", section.batch_size)
    data.check_size(images[section.images], "config.pseudo_labels.images", config.features.size)
    return [f"labels for {len(images[section.images])} images of {section.images!r}"]
