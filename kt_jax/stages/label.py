"""Pseudo-labels: each image gets its nearest centroid as label (paper, step c)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, extraction, labelling
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Labels
_DONE = "checkpoints"
_ROWS_PER_SHARD = 8_192  # an interrupted run resumes after a whole shard


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of pseudo-labels."""

    clusters: str = options.reads(artifacts.Clusters)
    """The clusters to assign. Their own backbone computes the features of the images."""
    images: str = options.images("train")
    """The images that get labels. They need not be those that were clustered."""
    nearest: int = 2
    """The number of centroids whose distances are kept, or all k if there are fewer. Soft targets
    of the kind classify are made from them. More than two are kept in a separate file. On features
    of Imagenette, two of 100 centroids had 69 % of softmax(-d^2 / 0.05), and ten had 92 %."""
    batch_size: int = options.incidental(256)
    """The number of images in a batch, over all devices."""

    def __post_init__(self) -> None:
        """Refuses a count below 2."""
        if self.nearest < 2:
            raise ValueError(f"nearest = {self.nearest}: give 2 or more")


def run(stage: Stage) -> tuple[artifacts.Labels, dict[str, Any]]:
    """Writes labels.parquet: index, key, cluster, distance, second_cluster, margin.

    It also writes images.parquet: the images that the teacher and the clusters learned from. Layer,
    pooling, size, normalisation and backbone are those of the clusters. An interrupted run resumes
    after its last 8,192 images. Images that were clustered get the labels that k-means gave them:
    no network sees them again.
    """
    clusters, images = stage.inputs["clusters"], stage.inputs.images["images"]
    path = stage.directory / labelling.LABELS
    if _are_known(stage.options, clusters, images) and partition.decided_by_first(
        (clusters / labelling.LABELS).exists  # older versions wrote it for given features only
    ):
        files.copy(clusters / labelling.LABELS, path)
        cluster = files.read_table(clusters / labelling.LABELS)["cluster"]
    else:
        columns = _see(stage, clusters, images)
        ranked = {name: columns.pop(name) for name in labelling.RANKED if name in columns}
        if ranked:
            files.write_tensors(stage.directory / labelling.NEAREST, ranked)
        names = {"index": np.arange(len(images)), "key": list(images.keys)}
        files.write_table(path, names | columns)
        cluster = columns["cluster"]
        files.delete(stage.directory / _DONE)
    if (clusters / backbones.IMAGES).exists():
        files.copy(clusters / backbones.IMAGES, stage.directory / backbones.IMAGES)
    about = _describe(stage.options, clusters.about, images)
    return about, {
        "rows": len(images),
        "images": images.origin,
        "clusters_used": len(np.unique(cluster)),
    }


def _are_known(
    chosen: Options, clusters: artifacts.Artifact[artifacts.Clusters], images: data.Images
) -> bool:
    """Whether the clusters have the labels of these images."""
    return chosen.nearest == 2 and labelling.covers(clusters, images)


def _see(
    stage: Stage, clusters: artifacts.Artifact[artifacts.Clusters], images: data.Images
) -> dict[str, np.ndarray]:
    """The columns of labels.parquet, computed with the clusters' own backbone."""
    labeller = labelling.load_labeller(clusters)
    done = stage.directory / _DONE

    def path(number: int, count: int) -> Path:
        return done / f"labels-{number:05d}-of-{count:05d}.parquet"

    missing = [*extraction.unwritten_shards(images, _ROWS_PER_SHARD, path)]
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
                nearest=stage.options.nearest,
                on_batch=count.add,
            )
            # The table is written last: it marks the shard as finished.
            ranked = {name: columns.pop(name) for name in labelling.RANKED if name in columns}
            if ranked:
                files.write_tensors(file.with_suffix(".safetensors"), ranked)
            files.write_table(file, columns)
    partition.wait_for_all("the labels")
    shards = []
    for file in sorted(done.glob("labels-*.parquet")):
        ranked = file.with_suffix(".safetensors")
        more = files.read_tensors(ranked) if stage.options.nearest > 2 else {}
        shards.append(files.read_table(file) | more)
    columns = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    partition.wait_for_all("the reading of the labels")
    return columns


def _describe(
    chosen: Options, clusters: artifacts.Clusters, images: data.Images
) -> artifacts.Labels:
    return artifacts.Labels(
        rows=len(images),
        classes=clusters.k,
        images=images.fingerprint,
        origin=images.origin,
        # Labels of balanced clusters do not follow from distances alone.
        nearest=0 if clusters.balanced else min(chosen.nearest, clusters.k),
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: images are too small for the teacher's view, or features were given for other
        images.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    clusters, images = inputs["clusters"], inputs.images["images"]
    line = f"labels for {len(images)} images of {images.origin}"
    about = _describe(chosen, clusters.about, images)
    features = clusters.about.features
    given = features is not None and features.backbone is None
    if given and chosen.nearest > 2 and labelling.covers(clusters, images):
        raise ValueError(
            f"{inputs.origin}.nearest = {chosen.nearest}: the features of these images were "
            f"given, and {clusters.name!r} keeps their distances to two centroids only: give 2"
        )
    if _are_known(chosen, clusters, images):
        return Plan(about, (f"{line}, which were clustered: their features are known",))
    if chosen.nearest > 2 and clusters.about.balanced:
        raise ValueError(
            f"{inputs.origin}.nearest = {chosen.nearest}, but {clusters.name!r} are balanced: "
            "labels are not the nearest centroids. Give 2"
        )
    if chosen.nearest > 2:
        line += f", with their {about.nearest} nearest centroids"
    try:
        features = labelling.check_features(clusters)
    except ValueError as error:
        raise ValueError(f"{inputs.origin}.clusters: {error}") from None
    data.check_size(images, f"{inputs.origin}.images", features.size)
    # A row has a name and five numbers. Its clusters and distances are on disk twice: shards keep
    # them, too.
    size = (28 + (16 * about.nearest if about.nearest > 2 else 0)) * len(images)
    return Plan(
        about,
        (line,),
        disk=lambda: size + sum(map(len, images.keys)),
    )
