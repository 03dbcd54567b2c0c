"""The cluster, distance and margin of each image: read from a run, or computed again."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32

from kt_jax import data
from kt_jax.runs import artifacts, files, marks
from kt_jax.runs.artifacts import Artifact

_log = logging.getLogger(__name__)

READER = "atlas"
_BATCH = 64  # images per device and step, when features are computed again


@dataclass(frozen=True)
class Run:
    """The run that an artifact lies in."""

    directory: Path
    config: Mapping[str, Any]
    stage: str
    """The name of the artifact's stage."""

    @property
    def section(self) -> Mapping[str, Any]:
        """The options of the artifact's stage."""
        return self.config[self.stage]


@dataclass(frozen=True, eq=False)
class Members:
    """The cluster of every image of a set, with the distances of k-means."""

    keys: tuple[str, ...]
    cluster: Int32[np.ndarray, " n"]
    distance: Float32[np.ndarray, " n"]
    second_cluster: Int32[np.ndarray, " n"]  # -1 if there is only one cluster
    margin: Float32[np.ndarray, " n"]  # distance of the second minus that of the first
    origin: str
    """Where the distances come from, as text for people."""


def open_clustering(directory: Path) -> Artifact[Any]:
    """Opens Clusters or Labels.

    Raises:
      FileNotFoundError: the artifact is not finished, or files are missing.
      ValueError: the artifact has another type, or its files have changed.
    """
    place = Path(os.path.abspath(directory.expanduser()))
    if not place.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    artifact = artifacts.open_artifact(place, name=str(directory), reader=READER)
    if not isinstance(artifact.about, artifacts.Clusters | artifacts.Labels):
        kind = type(artifact.about).__name__
        raise ValueError(f"{directory} holds {kind}, but an atlas shows Clusters or Labels")
    return artifact


def find_run(artifact: Artifact[Any]) -> Run | None:
    """The run that an artifact lies in; None for an artifact that was copied elsewhere."""
    path = artifact.directory.parent / "config.json"
    config = files.read_json(path) if path.exists() else {}
    name = artifact.directory.name
    return Run(path.parent, config, name) if isinstance(config.get(name), Mapping) else None


def find_input(artifact: Artifact[Any], option: str) -> Artifact[Any] | None:
    """The artifact that an option of the stage named, if it still exists and has not changed.

    Its files are not read: their hashes were checked when the stage read them.
    """
    run = find_run(artifact)
    if run is None or not isinstance(run.section.get(option), str):
        return None
    name = run.section[option]
    place = run.directory / name if name in run.config else Path(name)
    if not marks.is_finished(place):
        return None
    manifest = artifacts.read_manifest(place, name=name, reader=READER)
    if manifest["outputs"] != _made_from(artifact, option):
        return None
    return Artifact(name, place, artifacts.describe(manifest), manifest)


def _made_from(artifact: Artifact[Any], option: str) -> str | None:
    """The hash of the artifact that an option named when the stage ran."""
    inputs = artifact.manifest["fingerprint"].get("inputs", {})
    return inputs.get(option, {}).get("artifact")


def find_members(artifact: Artifact[Any]) -> tuple[Members, Artifact[Any]] | None:
    """Reads the members from a run. Also returns the artifact that has the same images.

    Labels have their own table. For Clusters, the sources are, in this order: Labels that the run
    made of the clustered images, a table in the artifact itself, and the clustered features, whose
    distances are computed again. None if none of these exists.

    Raises:
      ValueError: a file is broken.
    """
    if isinstance(artifact.about, artifacts.Labels):
        return _read_labels(artifact), artifact
    assignment = np.load(artifact / "assignment.npy", allow_pickle=False)
    features = find_input(artifact, "features")
    for labels in _labels_of(artifact):
        if not _are_of_clustered(labels, artifact, features):
            continue
        found = _read_labels(labels)
        # They may differ: another device may break a tie in another way.
        if np.array_equal(found.cluster, assignment):
            return found, labels
    if (artifact / "labels.parquet").exists():
        return _read_labels(artifact), features or artifact
    if features is None or not (features / "index.parquet").exists():
        return None
    return _measure(artifact, features, assignment), features


def _labels_of(clusters: Artifact[Any]) -> Iterator[Artifact[Any]]:
    """The finished Labels of the same run that were made with these clusters."""
    run = find_run(clusters)
    for name, section in ({} if run is None else run.config).items():
        if run is None or not isinstance(section, Mapping) or section.get("clusters") != run.stage:
            continue
        if not marks.is_finished(run.directory / name):
            continue
        labels = artifacts.open_artifact(run.directory / name, name=name, reader=READER)
        is_made_from = _made_from(labels, "clusters") == clusters.manifest["outputs"]
        if isinstance(labels.about, artifacts.Labels) and is_made_from:
            yield labels


def _are_of_clustered(
    labels: Artifact[artifacts.Labels],
    clusters: Artifact[artifacts.Clusters],
    features: Artifact[Any] | None,
) -> bool:
    """Whether Labels are of the clustered images. Equal clusters alone do not prove this."""
    if features is not None:
        return has_same_images(features, labels)
    # The features were deleted: the run's config still names their set of images.
    run = find_run(clusters)
    if run is None:
        return False
    gone = run.config.get(run.section["features"], {})
    first, second = (each.get("images") for each in (gone, run.config[labels.directory.name]))
    return first is not None and first == second


def has_same_images(features: Artifact[Any], labels: Artifact[Any]) -> bool:
    """Whether Features and Labels are of the same images."""
    first, second = (
        each.manifest["fingerprint"].get("images", {}).get("images") for each in (features, labels)
    )
    return first is not None and first == second and features.about.rows == labels.about.rows


def _read_labels(labels: Artifact[Any]) -> Members:
    table = files.read_table(labels / "labels.parquet")
    return Members(
        keys=tuple(table["key"].tolist()),
        cluster=table["cluster"].astype(np.int32),
        distance=table["distance"].astype(np.float32),
        second_cluster=table["second_cluster"].astype(np.int32),
        margin=table["margin"].astype(np.float32),
        origin=f"{labels.name}/labels.parquet",
    )


def _measure(
    clusters: Artifact[artifacts.Clusters],
    features: Artifact[artifacts.Features],
    assignment: Int32[np.ndarray, " n"],
) -> Members:
    """Computes the distances of the clustered features again."""
    from kt_jax.kmeans import result  # imports JAX, which is not needed if there are Labels

    _log.info("atlas: computing the distances of %s features", f"{len(assignment):,}")
    found = result.read(clusters).assign(shards(features))
    return Members(
        keys=tuple(files.read_table(features / "index.parquet")["key"].tolist()),
        # The assignment of the run: another device may break a tie in another way.
        cluster=assignment.astype(np.int32),
        distance=found.distance,
        second_cluster=found.second_cluster,
        margin=found.margin,
        origin=f"{features.name}, the features that were clustered",
    )


def shards(features: Artifact[Any]) -> list[Path]:
    """The .npy files of features, in the order of their rows."""
    return sorted(features.directory.glob("features-*-of-*.npy"))


def carries_backbone(clusters: Artifact[Any]) -> bool:
    """Whether an artifact can label other images: Clusters that contain their backbone."""
    return isinstance(clusters.about, artifacts.Clusters) and (clusters / "backbone").is_dir()


def image_size(clusters: Artifact[artifacts.Clusters]) -> int:
    """The side in pixels that the clustered images were decoded to."""
    features = clusters.about.features
    assert features is not None
    return features.image_size or features.size


def assign_anew(
    clusters: Artifact[artifacts.Clusters], images: data.Images
) -> Iterator[tuple[Float[np.ndarray, "rows d"], Members]]:
    """Finds the nearest centroids of any images, with the backbone that the clusters contain.

    Yields (features, members) batch by batch, in the order of the images.

    Raises:
      ValueError: the images are smaller than the backbone's view.
    """
    # Imported here: only this way needs JAX and flax.
    from kt_jax.evaluation import image_rows, labelling
    from kt_jax.machine import partition, signals

    labeller = labelling.load_labeller(clusters)
    data.check_size(images, "PATH", labeller.features.size)
    partition.configure_xla()
    mesh = partition.make_mesh()
    with signals.Notice() as notice:
        for indices, rows in image_rows.extract(
            labeller.backbone,
            images,
            labeller.features,
            batch_size=_BATCH * mesh.size,
            mesh=mesh,
            reading=data.Reading(),
            notice=notice,
        ):
            found = labeller.clusters.assign(rows, mesh=mesh)
            keys = tuple(images.keys[index] for index in indices.tolist())
            parts = found.cluster, found.distance, found.second_cluster, found.margin
            yield rows, Members(keys, *parts, origin="the backbone, computed again")


def join(parts: list[Members]) -> Members:
    """Joins consecutive members."""
    names = ("cluster", "distance", "second_cluster", "margin")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    keys = tuple(key for part in parts for key in part.keys)
    return Members(keys=keys, **arrays, origin=parts[0].origin)
