"""Pseudo-labels of images: the nearest centroid of the features of a frozen backbone."""

from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from kt_jax import data, kmeans
from kt_jax.evaluation import backbones
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Notice

COLUMNS = ("cluster", "distance", "second_cluster", "margin")


@dataclass(frozen=True, eq=False)
class Labeller:
    """Centroids, and the backbone whose features they are centroids of."""

    features: artifacts.Features
    """How an image becomes a row."""
    backbone: backbones.FrozenBackbone
    centroids: Float32[np.ndarray, "k d"]
    mean: Float32[np.ndarray, " d"]
    l2: bool


def check_features(clusters: artifacts.Artifact[artifacts.Clusters]) -> artifacts.Features:
    """The features that clusters are of.

    Raises:
      ValueError: they were given, so that nobody knows those of other images.
    """
    if clusters.about.features is None:
        raise ValueError(
            f"{clusters.name!r} are clusters of given features: no backbone is known that would "
            "give those of other images"
        )
    return clusters.about.features


def load_labeller(clusters: artifacts.Artifact[artifacts.Clusters]) -> Labeller:
    """The labeller of clusters that carry their backbone.

    Raises:
      ValueError: as `check_features`.
    """
    features = check_features(clusters)
    tensors = files.read_tensors(clusters / "centroids.safetensors")
    backbone = backbones.load_backbone(clusters / backbones.CARRIED, features.backbone)
    return Labeller(features, backbone, tensors["centroids"], tensors["mean"], clusters.about.l2)


def label(
    labeller: Labeller,
    images: data.Images,
    *,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
) -> dict[str, np.ndarray]:
    """The columns COLUMNS of images, in their order; see `kmeans.Assignment`.

    Images are seen as those that were clustered: layer, pooling, view and normalisation.
    """
    features = labeller.features
    parts = [
        kmeans.assign(
            rows[features.layer],
            labeller.centroids,
            mean=labeller.mean,
            l2=labeller.l2,
            mesh=mesh,
        )
        for _, rows in backbones.extract(
            labeller.backbone,
            images,
            {features.layer: features.grid},
            size=features.size,
            batch_size=batch_size,
            mesh=mesh,
            reading=reading,
            notice=notice,
        )
    ]
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
