"""Finished artifacts in Python: label images with clusters, compute features with a network.

    clusters = kt_jax.open("runs/mine/clusters")
    clusters.assign("photos/")                       # a table: key, cluster, distance, ...
    clusters.assign("photos/", out="labels.parquet")  # the same in a file; resumes after a kill
    kt_jax.open("runs/mine/student").embed(pixels, layer="conv5")
    kt_jax.open("runs/mine/features").embed(pixels)   # in the same way as those features

Nothing is ever written into the directory that is opened.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Float16

from kt_jax import data
from kt_jax.evaluation import backbones, extraction, image_rows, labelling
from kt_jax.kmeans.checks import whole_number
from kt_jax.machine import partition, signals
from kt_jax.models import views as fixed
from kt_jax.results import given, tables, writing
from kt_jax.runs import artifacts, marks

_BATCH = 256  # at most this many images at a time


def open(path: str | Path) -> "Clusters | Backbone | Features | artifacts.Artifact[Any]":
    """Opens a finished artifact, and checks its files by their SHA-256.

    Args:
      path: the directory of the artifact, such as "runs/mine/clusters".

    Returns:
      A `Clusters`, a `Backbone` or a `Features`. For other types an `Artifact`, with `directory`,
      `about` (a description of the content) and `manifest`.

    Raises:
      FileNotFoundError: the artifact is not finished, or files are missing.
      ValueError: `path` is a run, another version of kt_jax made the artifact, or files have
        changed.
    """
    artifact = open_artifact(path)
    kinds = {artifacts.Clusters: Clusters, artifacts.Backbone: Backbone}
    if isinstance(artifact.about, artifacts.Features):
        return Features(artifact.name, artifact.directory, artifact.about, artifact.manifest)
    return kinds[type(artifact.about)](artifact) if type(artifact.about) in kinds else artifact


def open_artifact(
    path: str | Path, *wanted: type[artifacts.Description]
) -> artifacts.Artifact[Any]:
    """Opens a finished artifact of one of the types `wanted`; none given: of any type.

    Raises:
      FileNotFoundError, ValueError: as `open`.
      ValueError: the artifact has another type.
    """
    directory = Path(os.path.abspath(os.path.expanduser(path)))
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {path}")
    if marks.is_run(directory):
        raise ValueError(f"{path} is a run: name an artifact in it, such as {path}/clusters")
    artifact = artifacts.open_artifact(directory, name=str(directory), reader="kt_jax")
    if wanted and not isinstance(artifact.about, wanted):
        names = " or ".join(each.__name__ for each in wanted)
        raise ValueError(f"{path} is a {type(artifact.about).__name__}, but a {names} is needed")
    return artifact


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids, with the network that computes the features of other images."""

    artifact: artifacts.Artifact[artifacts.Clusters]

    def assign(
        self,
        images: given.Given,
        *,
        out: str | Path | None = None,
        form: str = "",
    ) -> pa.Table | None:
        """Finds the nearest centroid of each image.

        Args:
          images: one or more paths (as PATH of `kt-jax images scan`), a set that
            `kt_jax.data.open_images` returns, or pixels: uint8 [n, h, w, 3] or a list of
            [h, w, 3] of any sizes, as arrays of NumPy, JAX or PIL. They are resized in the same way
            as the clustered images. Any number of images uses one of a few compiled programs.
          out: a file (.parquet or .csv) or a directory, which must not exist. Then `images` must be
            paths, and after a kill the same call resumes. None: the table is returned.
          form: the content of a directory `out`, one of `kt_jax.results.tables.FORMS`.

        Returns:
          None with `out`. Else a table with one row for each image: key, cluster, distance
          (Euclidean, in the space of the features), second_cluster and margin (its distance minus
          `distance`). If the classes of the clustered images are known, also class (the most
          frequent class of the cluster) and share (the share of the cluster's images in that
          class).

        Raises:
          ValueError: the clusters were made from given features, `out` exists or has no known
            form, or `images` are not images.
          FileNotFoundError: a path does not exist.
        """
        if out is not None:
            source = {"source": "auto", "path": given.check_paths(images)}
            writing.write_assignment(self.artifact, source, Path(out), form=form)
            return None
        if form:
            raise ValueError(f"form = {form!r} is the content of a directory: give `out`, too")
        labeller = self._labeller
        size = labeller.features.image_size or labeller.features.size
        opened = given.open_given(images, size)
        columns = labelling.label(labeller, opened, **_pass(opened))
        table = pa.table({"key": list(opened.keys), **columns})
        return tables.add_classes(table, self.artifact.directory)

    def embed(self, images: given.Given) -> Float16[np.ndarray, "n d"]:
        """Computes features in the same way as those that were clustered; see `Features.embed`."""
        labeller = self._labeller
        return _embed(labeller.backbone, labeller.features, images)

    @functools.cached_property
    def _labeller(self) -> labelling.Labeller:
        return labelling.load_labeller(self.artifact)


@dataclass(frozen=True, eq=False)
class Features(artifacts.Artifact[artifacts.Features]):
    """A matrix of features, with the network that computes features of other images."""

    def embed(self, images: given.Given) -> Float16[np.ndarray, "n d"]:
        """Computes features of other images, with the same network, layers, views and scales.

        Args:
          images: paths, a set of images or pixels, as in `Clusters.assign`.

        Returns:
          One row for each image, in the order of the images.

        Raises:
          ValueError: these features were given, without a network, or `images` are not images.
          FileNotFoundError: a path does not exist.
        """
        return _embed(self._backbone, self.about, images)

    @functools.cached_property
    def _backbone(self) -> backbones.FrozenBackbone:
        if self.about.backbone is None:
            raise ValueError(
                f"{self.name} are given features: no backbone is known that could compute features "
                "of other images"
            )
        return backbones.load_backbone(self / backbones.CARRIED, self.about.backbone)


def _embed(
    backbone: backbones.FrozenBackbone,
    about: artifacts.Features,
    images: given.Given,
) -> Float16[np.ndarray, "n d"]:
    opened = given.open_given(images, about.image_size or about.size)
    parts = image_rows.extract(backbone, opened, about, **_pass(opened))
    return np.concatenate([rows for _, rows in parts])


@dataclass(frozen=True, eq=False)
class Backbone:
    """A trained network."""

    artifact: artifacts.Artifact[artifacts.Backbone]

    def embed(
        self,
        images: given.Given,
        *,
        layer: str,
        grid: int = 4,
        size: int = 0,
        image_size: int = 0,
        views: int = 1,
    ) -> Float16[np.ndarray, "n d"]:
        """Computes features of images: one activation, max-pooled to grid x grid and flattened.

        Args:
          images: paths, a set of images or pixels, as in `Clusters.assign`.
          layer: the name of the activation.
          grid: activation maps are max-pooled to grid x grid; vectors are not pooled.
          size: the side of the view that the network sees, in pixels; 0: as in training.
          image_size: the side that images are decoded to, in pixels; the view is cut from the
            centre. 0: `size`.
          views: average over 1, 2 or 10 views; see `kt_jax.models.views.fixed_views`.

        Returns:
          One row for each image, in the order of the images.

        Raises:
          ValueError: unknown `layer` or number of views, `grid` or a size is too small or no whole
            number, `images` are not images, or activations exceed the range of float16.
          FileNotFoundError: a path does not exist.
        """
        for name, value, least in (
            ("grid", grid, 1),
            ("size", size, 0),
            ("image_size", image_size, 0),
        ):
            if whole_number(name, value) < least:
                raise ValueError(f"{name} = {value}: give {least} or more")
        about = self.artifact.about
        size = size or about.size
        if image_size and image_size < size:
            raise ValueError(f"image_size = {image_size} is below size = {size}: give that or more")
        backbones.check_layers("layer", [layer], about, size)
        opened = given.open_given(images, image_size or size)
        shown = fixed.fixed_views(views)
        how = _pass(opened)
        parts = extraction.extract(
            self._backbone, opened, {layer: grid}, size=size, shown=shown, **how
        )
        return np.concatenate([rows[layer] for _, rows in parts])

    @functools.cached_property
    def _backbone(self) -> backbones.FrozenBackbone:
        return backbones.load_backbone(self.artifact.directory, self.artifact.about)


def _pass(images: data.Images) -> dict[str, Any]:
    """Arguments for passing images through a network, with one of a few batch sizes."""
    mesh = partition.make_mesh()
    batch = mesh.size
    while batch < min(len(images), _BATCH):
        batch *= 2
    reading = data.Reading(process_index=jax.process_index(), process_count=jax.process_count())
    return {"batch_size": batch, "mesh": mesh, "reading": reading, "notice": signals.Notice()}
