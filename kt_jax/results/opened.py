"""Finished artifacts in Python: label images with clusters, get features from a network.

    clusters = kt_jax.open("runs/mine/clusters")
    clusters.assign("photos/")                       # a table: key, cluster, distance, ...
    clusters.assign("photos/", out="labels.parquet")  # the same in a file; resumes after a kill
    kt_jax.open("runs/mine/student").embed(pixels, layer="conv5")

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
from kt_jax.evaluation import backbones, labelling
from kt_jax.machine import partition, signals
from kt_jax.results import alone, given, tables
from kt_jax.runs import artifacts, marks

_BATCH = 256  # images at a time, at most


def open(path: str | Path) -> "Clusters | Backbone | artifacts.Artifact[Any]":
    """Opens a finished artifact, and compares its files with their SHA-256.

    Returns:
      A `Clusters` or a `Backbone`; of other types, the artifact: its directory, what it holds
      (`about`) and its manifest.

    Raises:
      FileNotFoundError: it is not finished, or files of it have gone.
      ValueError: another version of kt_jax made it, or its files are not what was written.
    """
    artifact = open_artifact(path)
    kinds = {artifacts.Clusters: Clusters, artifacts.Backbone: Backbone}
    return kinds[type(artifact.about)](artifact) if type(artifact.about) in kinds else artifact


def open_artifact(
    path: str | Path, wanted: type[artifacts.Description] | None = None
) -> artifacts.Artifact[Any]:
    """The finished artifact in a directory, of the type that is wanted.

    Raises:
      FileNotFoundError, ValueError: as `open`, and if it is of another type.
    """
    directory = Path(os.path.abspath(os.path.expanduser(path)))
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {path}")
    if marks.is_run(directory):
        raise ValueError(f"{path} is a run: name an artifact in it, such as {path}/clusters")
    artifact = artifacts.open_artifact(directory, name=str(directory), reader="kt_jax")
    if wanted is not None and not isinstance(artifact.about, wanted):
        raise ValueError(
            f"{path} is a {type(artifact.about).__name__}, but a {wanted.__name__} is needed"
        )
    return artifact


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids, with the network that gives the features of other images."""

    artifact: artifacts.Artifact[artifacts.Clusters]

    def assign(
        self,
        images: given.Given,
        *,
        out: str | Path | None = None,
        form: str = "",
        workers: int = 0,
    ) -> pa.Table | None:
        """The nearest centroid of each image.

        Args:
          images: where they are, as PATH of `kt-jax images scan` (or a list of such), what
            `kt_jax.data.open_images` returns, or pixels: uint8 [n, h, w, 3], or a list of
            [h, w, 3] of any sizes. They are resized as those that were clustered. Batches of any
            size share a handful of compiled programs.
          out: a file (.parquet or .csv) or a directory, which must not exist; None: the table is
            returned. With a file the same call resumes after a kill, and `images` must be paths.
          form: of a directory; see `kt_jax.results.tables.FORMS`.
          workers: processes that decode; with 0 threads do.

        Returns:
          The columns key, cluster, distance (Euclidean, in the space of the features),
          second_cluster and margin (how much farther that is). And class and share, if the classes
          of the clustered images are known: the most frequent class of the cluster, and how
          many of its images have it.

        Raises:
          ValueError: the clusters are of given features; `out` exists or has no known form; the
            images are no images.
          FileNotFoundError: there is no such path.
        """
        if out is not None:
            source = {"source": "auto", "path": given.check_paths(images)}
            write_assignment(self.artifact, source, Path(out), form=form, workers=workers)
            return None
        labeller = self._labeller
        size = labeller.features.image_size or labeller.features.size
        opened = given.open_given(images, size)
        columns = labelling.label(labeller, opened, **_pass(opened, workers))
        table = pa.table({"key": list(opened.keys), **columns})
        return tables.add_classes(table, self.artifact.directory)

    @functools.cached_property
    def _labeller(self) -> labelling.Labeller:
        return labelling.load_labeller(self.artifact)


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
        workers: int = 0,
    ) -> Float16[np.ndarray, "n d"]:
        """The features of images: one activation, max-pooled to grid x grid and flattened.

        Args:
          images: as of `Clusters.assign`.
          layer: the name of the activation.
          grid: to which maps are pooled; vectors stay as they are.
          size: the side of the view that the network sees, in pixels; 0: that of training.
          image_size: the side that images are decoded to, whose centre the view is; 0: `size`.
          workers: processes that decode; with 0 threads do.

        Raises:
          ValueError: no such layer, images that are no images, or activations beyond float16.
          FileNotFoundError: there is no such path.
        """
        about = self.artifact.about
        size = size or about.size
        backbones.check_layers("layer", [layer], about, size)
        opened = given.open_given(images, image_size or size)
        data.check_size(opened, "image_size", size)
        parts = backbones.extract(
            self._backbone, opened, {layer: grid}, size=size, **_pass(opened, workers)
        )
        return np.concatenate([rows[layer] for _, rows in parts])

    @functools.cached_property
    def _backbone(self) -> backbones.FrozenBackbone:
        return backbones.load_backbone(self.artifact.directory, self.artifact.about)


def write_assignment(
    clusters: artifacts.Artifact[artifacts.Clusters],
    source: dict[str, Any],
    out: Path,
    *,
    form: str = "",
    workers: int = 0,
) -> None:
    """Labels the images of a source, and writes them in a form; see `Clusters.assign`.

    Args:
      clusters: whose centroids are the labels.
      source: the options of `data.open_images`, without the size.
      out: the file or directory.
      form: of a directory.
      workers: processes that decode.
    """
    features = labelling.check_features(clusters)
    write = tables.find_writer(out, form)
    _check_source(source)
    if form in tables.OF_FILES:
        tables.check_files(source)
    source = {**source, "size": features.image_size or features.size}
    stage = {"kind": "label", "clusters": str(clusters.directory)}
    with alone.run("labels", stage, source, out, workers=workers) as made:
        write(made, clusters.directory, source)


def write_features(
    backbone: artifacts.Artifact[artifacts.Backbone],
    source: dict[str, Any],
    out: Path,
    *,
    layer: str,
    grid: int = 4,
    size: int = 0,
    image_size: int = 0,
    workers: int = 0,
) -> None:
    """Writes the features of the images of a source: a Features artifact, as of a stage.

    The same call resumes after a kill. Arguments as of `write_assignment` and `Backbone.embed`.

    Raises:
      ValueError: no such layer, or `out` exists.
    """
    size = size or backbone.about.size
    _check_source(source)
    if not layer:
        names = ", ".join(backbones.layer_shapes(backbone.about, size))
        raise ValueError(f"--layer is missing: choose from {names}")
    backbones.check_layers("--layer", [layer], backbone.about, size)
    source = {**source, "size": image_size or size}
    stage = {"kind": "features", "backbone": str(backbone.directory), "layer": layer}
    stage |= {"grid": grid, "size": size}
    with alone.run("features", stage, source, out, workers=workers) as made:
        os.replace(made, out)


def _check_source(source: dict[str, Any]) -> None:
    """Refuses a size among the options of the source, which is not the caller's to choose."""
    if "size" in source:
        raise ValueError(
            f"--option size={source['size']}: the artifact says how images are decoded"
        )


def _pass(images: data.Images, workers: int) -> dict[str, Any]:
    """How images are passed through a network: in one of a few sizes of batches."""
    mesh = partition.make_mesh()
    batch = mesh.size
    while batch < min(len(images), _BATCH):
        batch *= 2
    reading = data.Reading(
        workers=workers, process_index=jax.process_index(), process_count=jax.process_count()
    )
    return {"batch_size": batch, "mesh": mesh, "reading": reading, "notice": signals.Notice()}
