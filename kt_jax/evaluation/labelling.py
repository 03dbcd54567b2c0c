"""Pseudo-labels of images: the nearest centroid of the features of a frozen backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from kt_jax import data, kmeans
from kt_jax.evaluation import backbones, image_rows
from kt_jax.kmeans import result
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Notice

COLUMNS = ("cluster", "distance", "second_cluster", "margin")
LABELS = "labels.parquet"
NEAREST = "nearest.safetensors"
RANKED = ("clusters", "distances")  # the arrays in NEAREST
_ROWS_AT_A_TIME = 4_096


@dataclass(frozen=True, eq=False)
class Labeller:
    """Centroids, and the backbone of the features that were clustered."""

    features: artifacts.Features
    """The settings of the features: layer, pooling, views."""
    backbone: backbones.FrozenBackbone
    clusters: kmeans.KMeans


def check_features(clusters: artifacts.Artifact[artifacts.Clusters]) -> artifacts.Features:
    """The features of the clusters.

    Raises:
      ValueError: the features were given, so no backbone can compute those of other images.
    """
    features = clusters.about.features
    if features is None or features.backbone is None:
        raise ValueError(
            f"{clusters.name!r} are clusters of given features: no backbone is known that could "
            "compute those of other images"
        )
    return features


def load_labeller(clusters: artifacts.Artifact[artifacts.Clusters]) -> Labeller:
    """The labeller of clusters, with the backbone that they contain.

    Raises:
      ValueError: as `check_features`.
    """
    features = check_features(clusters)
    assert features.backbone is not None  # has been checked
    backbone = backbones.load_backbone(clusters / backbones.CARRIED, features.backbone)
    return Labeller(features, backbone, result.read(clusters))


def covers(clusters: artifacts.Artifact[artifacts.Clusters], images: data.Images) -> bool:
    """Whether these images are those whose features were clustered.

    For given features this means the same keys. Other files with the same names are other images;
    see `data.hash_keys`.
    """
    features = clusters.about.features
    if features is None:
        return False
    if features.backbone is None:
        return features.keys == data.hash_keys(images)
    return features.images == images.fingerprint != ""


def write_labels(
    directory: Path,
    features: artifacts.Artifact[artifacts.Features],
    clusters: kmeans.KMeans,
    *,
    mesh: Mesh,
) -> None:
    """Writes labels.parquet for the images whose features were clustered, without a network."""
    index = files.read_table(features / "index.parquet")
    shards = sorted(features.directory.glob("features-*-of-*.npy"))
    found, assignment = clusters.assign(shards, mesh=mesh), clusters.assignment
    columns = {name: getattr(found, name) for name in COLUMNS}
    # If two centroids are equally near, the one that k-means chose.
    other = found.cluster != assignment
    columns["second_cluster"] = np.where(other, found.cluster, found.second_cluster)
    columns["cluster"] = assignment
    files.write_table(directory / LABELS, {x: index[x] for x in ("index", "key")} | columns)


def label(
    labeller: Labeller,
    images: data.Images,
    *,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
    nearest: int = 2,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> dict[str, np.ndarray]:
    """The columns COLUMNS of images, in their order, and RANKED [n, m]; see `kmeans.Assignment`.

    RANKED has the `nearest` centroids, if more than two are asked for. Layers, pooling, views and
    normalisation are those of the clustered images. After every batch, `on_batch` is called with
    the number of its images.
    """
    parts: list[kmeans.Assignment] = []
    waiting: list[np.ndarray] = []

    def assign() -> None:
        rows = np.concatenate(waiting)
        waiting.clear()
        parts.append(labeller.clusters.assign(rows, mesh=mesh, nearest=nearest))

    for index, rows in image_rows.extract(
        labeller.backbone,
        images,
        labeller.features,
        batch_size=batch_size,
        mesh=mesh,
        reading=reading,
        notice=notice,
    ):
        waiting.append(rows)
        # Every call reads all centroids, for any number of rows.
        if sum(map(len, waiting)) >= _ROWS_AT_A_TIME:
            assign()
        on_batch(len(index))
    if waiting:
        assign()
    names = COLUMNS if nearest <= 2 else COLUMNS + RANKED
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
