"""Finds what a page shows: the members of clusters, their images and their places."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.atlas import members as groups
from kt_jax.atlas import pictures, places, sheets, summary
from kt_jax.atlas.members import Members, Run
from kt_jax.runs import artifacts, files, progress
from kt_jax.runs.artifacts import Artifact

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, eq=False)
class Gathered:
    """A clustering, its images and its map."""

    members: Members
    images: data.Images
    rows: np.ndarray
    k: int
    layer: str
    axes: places.Axes | None
    places: np.ndarray | None
    centres: np.ndarray | None


def gather(artifact: Artifact[Any], images: str | None) -> Gathered:
    """The clusters of the images that were clustered or labelled, or of those at `images`.

    Raises:
      FileNotFoundError, ValueError: as `write_atlas`.
    """
    run = groups.find_run(artifact)
    is_labels = isinstance(artifact.about, artifacts.Labels)
    if images is not None and not is_labels and artifact.about.features is not None:
        return _gather_anew(artifact, _open_any(artifact, run, images))
    found = groups.find_members(artifact)
    if found is None:
        raise ValueError(_explain_unknown(artifact, run))
    members, owner = found
    opened = _open_known(members, owner, images)
    rows = pictures.find_rows(members, opened, artifact.name)
    pictures.check_contents(owner, opened, rows)
    clusters = groups.find_input(artifact, "clusters") if is_labels else artifact
    k = artifact.about.classes if is_labels else artifact.about.k
    gathered = Gathered(members, opened, rows, k, "", None, None, None)
    return gathered if clusters is None else _place(gathered, clusters, owner)


def _explain_unknown(artifact: Artifact[Any], run: Run | None) -> str:
    name = artifact.name
    if artifact.about.features is None:
        return (
            f"{name} are clusters of rows without names, so no images are known: an atlas needs a "
            "run's Clusters, or Labels"
        )
    reason = (
        "lies in no run, so that its images are not known"
        if run is None
        else f"lies in {run.directory}, which has neither the features nor labels of its images"
    )
    return f"{name} {reason}: name the images behind it, and they get their clusters anew"


def _open_any(clusters: Artifact[Any], run: Run | None, images: str) -> data.Images:
    """A set of the run's config by its name, or else a place, decoded as the clustered images."""
    if run is not None and images in run.config.get("images", {}):
        return pictures.open_set(run, images)
    size = clusters.about.features.size
    features = groups.find_input(clusters, "features")
    source = None if features is None else groups.find_run(features)
    if source is not None and "images" in source.section:
        size = source.config["images"][source.section["images"]]["size"]
    return pictures.open_place(run, images, size=size)


def _open_known(members: Members, owner: Artifact[Any], place: str | None) -> data.Images:
    """The images of members that are known by name: where the run says, or in another place."""
    run = groups.find_run(owner)
    sets = {} if run is None else run.config.get("images", {})
    if run is not None and (place is None or place in sets):
        if "images" not in run.section:
            raise ValueError(
                f"{owner.name} does not say where its images are: name the place behind the "
                "clusters"
            )
        name = place or run.section["images"]
        images = pictures.open_set(run, name)
        if name == run.section["images"]:
            pictures.check_same(run, name, images, owner, "images")
        return images
    if place is None:
        raise ValueError(
            f"{owner.name} lies in no run, so that its {len(members.keys):,} images, such as "
            f"{members.keys[0]}, are not known: name the place that has them behind it"
        )
    return pictures.open_place(run, place, size=sheets.SIDES[0])


def _place(found: Gathered, clusters: Artifact[Any], owner: Artifact[Any]) -> Gathered:
    """Adds the map: of the features of the same images, or else of their distances."""
    tensors = files.read_tensors(clusters / "centroids.safetensors")
    centroids, members = tensors["centroids"], found.members
    axes = _find_axes(clusters, tensors)
    features = groups.find_input(clusters, "features")
    if features is not None and _has_same_images(features, owner, members):
        spots = places.place_shards(axes, groups.shards(features))
    else:
        parts = members.cluster, members.second_cluster, members.distance, members.margin
        spots = places.place_between(axes, centroids, *parts)
    return dataclasses.replace(
        found,
        layer=_layer(clusters),
        axes=axes,
        places=spots,
        centres=places.place_centroids(axes, centroids),
    )


def _find_axes(clusters: Artifact[Any], tensors: Mapping[str, np.ndarray]) -> places.Axes:
    sizes = np.array(files.read_json(clusters / "clusters.json")["sizes"])
    return places.find_axes(tensors["centroids"], sizes, mean=tensors["mean"], l2=clusters.about.l2)


def _layer(clusters: Artifact[Any]) -> str:
    return files.read_json(clusters / "clusters.json").get("layer", "")


def _has_same_images(features: Artifact[Any], owner: Artifact[Any], members: Members) -> bool:
    if features.directory == owner.directory:
        return True
    images = [each.manifest["fingerprint"].get("images") for each in (features, owner)]
    return bool(images[0]) and images[0] == images[1] and features.about.rows == len(members.keys)


def _gather_anew(clusters: Artifact[Any], images: data.Images) -> Gathered:
    """Labels any images through the backbone of the clusters."""
    tensors = files.read_tensors(clusters / "centroids.safetensors")
    axes = _find_axes(clusters, tensors)
    parts, spots = [], []
    begun = spoken = time.monotonic()
    for rows, part in groups.assign_anew(clusters, images):
        parts.append(part)
        spots.append(places.place_rows(axes, rows))
        done = sum(len(each.keys) for each in parts)
        if time.monotonic() - spoken > _SECONDS_BETWEEN_LINES:
            spoken = time.monotonic()
            eta = progress.eta(spoken - begun, done, len(images))
            _log.info("atlas: %s of %s images labelled | %s", f"{done:,}", f"{len(images):,}", eta)
    return Gathered(
        groups.join(parts),
        images,
        np.arange(len(images)),
        clusters.about.k,
        _layer(clusters),
        axes,
        np.concatenate(spots),
        places.place_centroids(axes, tensors["centroids"]),
    )


def compare(other: Artifact[Any], found: Gathered, name: str) -> summary.Comparison:
    """The clusters of another clustering that the same images are in.

    Raises:
      ValueError: it is of other images, or it is not known of which.
    """
    known = groups.find_members(other)
    is_labels = isinstance(other.about, artifacts.Labels)
    if known is not None:
        members, owner = known
        pictures.check_contents(owner, found.images, found.rows)
    elif other.about.features is not None:
        members = groups.join([part for _, part in groups.assign_anew(other, found.images)])
    else:
        raise ValueError(f"--compare: {_explain_unknown(other, groups.find_run(other))}")
    k = other.about.classes if is_labels else other.about.k
    return summary.compare(found.members, members, name=name, k=k)
