"""Collects the data of a page: members of clusters, their images, and their places on the map."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.results.atlas import members as groups
from kt_jax.results.atlas import pictures, places, sheets, summary
from kt_jax.results.atlas.members import Members, Run
from kt_jax.results.atlas.pictures import Given
from kt_jax.runs import artifacts, files, progress
from kt_jax.runs.artifacts import Artifact


@dataclass(frozen=True, eq=False)
class Gathered:
    """A clustering, its images and its map."""

    members: Members
    images: data.Images
    rows: np.ndarray
    k: int
    layer: str
    axes: places.Axes | None
    places: np.ndarray | None  # [n, count], see `gather`
    centres: np.ndarray | None  # [k, count]


def gather(artifact: Artifact[Any], images: Given | None, *, count: int) -> Gathered:
    """Collects the clusters, images and places of an atlas.

    Args:
      artifact: Clusters or Labels.
      images: where the images are; None: those that were clustered or labelled.
      count: the number of principal components of the places.

    Raises:
      FileNotFoundError, ValueError: as `write_atlas`.
    """
    run = groups.find_run(artifact)
    is_labels = isinstance(artifact.about, artifacts.Labels)
    if images is not None and groups.carries_backbone(artifact):
        opened = pictures.open_given(run, images, size=groups.image_size(artifact))
        return _gather_anew(artifact, opened, count)
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
    return gathered if clusters is None else _place(gathered, clusters, owner, count)


def _explain_unknown(artifact: Artifact[Any], run: Run | None) -> str:
    name = artifact.name
    if not groups.carries_backbone(artifact):
        return (
            f"{name} are clusters of rows without names, so their images are not known: an atlas "
            "needs Clusters of a run, or Labels"
        )
    reason = (
        "lies in no run, so its images are not known"
        if run is None
        else f"lies in {run.directory}, which has neither the features nor labels of its images"
    )
    return f"{name} {reason}: give the images as PATH after it, to find their clusters again"


def _open_known(members: Members, owner: Artifact[Any], given: Given | None) -> data.Images:
    """Opens the images of members that are known by name: at `given`, or where the run says."""
    run = groups.find_run(owner)
    if given is not None:
        return pictures.open_given(run, given, size=sheets.SIDES[0])
    if run is None or "images" not in run.section:
        raise ValueError(
            f"{owner.name} lies in no run that says where its {len(members.keys):,} images are, "
            f"such as {members.keys[0]}: give their place as PATH after it"
        )
    name = run.section["images"]
    images = pictures.open_set(run, name)
    pictures.check_same(run, name, images, owner, "images")
    return images


def _place(found: Gathered, clusters: Artifact[Any], owner: Artifact[Any], count: int) -> Gathered:
    """Adds the map, from the features of the same images if available, else from distances."""
    tensors = files.read_tensors(clusters / "centroids.safetensors")
    centroids, members = tensors["centroids"], found.members
    axes = _find_axes(clusters, tensors, count)
    features = groups.find_input(clusters, "features")
    if features is not None and groups.has_same_images(features, owner):
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


def _find_axes(
    clusters: Artifact[Any], tensors: Mapping[str, np.ndarray], count: int
) -> places.Axes:
    sizes = np.array(files.read_json(clusters / "clusters.json")["sizes"])
    return places.find_axes(
        tensors["centroids"],
        sizes,
        mean=tensors["mean"],
        components=tensors.get("components"),
        l2=clusters.about.l2,
        count=count,
    )


def _layer(clusters: Artifact[Any]) -> str:
    return files.read_json(clusters / "clusters.json").get("layer", "")


def _gather_anew(clusters: Artifact[Any], images: data.Images, count: int) -> Gathered:
    """Labels any images with the backbone of the clusters."""
    tensors = files.read_tensors(clusters / "centroids.safetensors")
    axes = _find_axes(clusters, tensors, count)
    parts, spots = [], []
    with progress.Count("atlas", len(images), "images labelled") as counted:
        for rows, part in groups.assign_anew(clusters, images):
            parts.append(part)
            spots.append(places.place_rows(axes, rows))
            counted.add(len(part.keys))
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
    """Finds the clusters of the same images in another clustering.

    Args:
      other: Clusters or Labels.
      found: the data of the page.
      name: the name of `other` on the page.

    Raises:
      ValueError: `other` is of other images, or its images are not known.
    """
    known = groups.find_members(other)
    is_labels = isinstance(other.about, artifacts.Labels)
    if known is not None:
        members, owner = known
        pictures.check_contents(owner, found.images, found.rows)
    elif groups.carries_backbone(other):
        members = groups.join([part for _, part in groups.assign_anew(other, found.images)])
    else:
        raise ValueError(f"--compare: {_explain_unknown(other, groups.find_run(other))}")
    k = other.about.classes if is_labels else other.about.k
    return summary.compare(found.members, members, name=name, k=k)
