"""Writes labels or features of any images: the work of `kt-jax assign` and `kt-jax embed`."""

import os
from pathlib import Path
from typing import Any, cast

from kt_jax.evaluation import backbones, image_rows, labelling
from kt_jax.results import alone, tables
from kt_jax.runs import artifacts


def write_assignment(
    clusters: artifacts.Artifact[artifacts.Clusters],
    source: dict[str, Any],
    out: Path,
    *,
    form: str = "",
) -> None:
    """Labels the images of a source, and writes the labels; see `opened.Clusters.assign`.

    Args:
      clusters: the artifact with the centroids.
      source: the options of `data.open_images`, without the size.
      out: the file or directory to write.
      form: the content of a directory.

    Raises:
      ValueError, FileNotFoundError: as `opened.Clusters.assign`.
    """
    features = labelling.check_features(clusters)
    out = out.expanduser()
    write = tables.find_writer(out, form)
    _check_source(source)
    if form in tables.OF_FILES:
        tables.check_files(source)
    source = {**source, "size": features.image_size or features.size}
    stage = {"kind": "label", "clusters": str(clusters.directory)}
    with alone.run("labels", stage, source, out) as made:
        write(made, clusters.directory, source)


def write_features(
    origin: artifacts.Artifact[artifacts.Backbone | artifacts.Features | artifacts.Clusters],
    source: dict[str, Any],
    out: Path,
    *,
    layer: str = "",
    grid: int = 0,
    size: int = 0,
    image_size: int = 0,
    views: int = 0,
) -> None:
    """Computes the features of the images of a source, and writes a Features artifact.

    After a kill, the same call resumes. For `source` and `out` see `write_assignment`; for the
    others see `opened.Backbone.embed`, where 0 and "" mean the default. If `origin` is Features or
    Clusters, features are computed in the same way as its own, and no other argument may be given.

    Raises:
      ValueError: unknown layer, `out` exists, `origin` has given features, or an argument is given
        that `origin` determines.
    """
    _check_source(source)
    out = out.expanduser()
    if isinstance(origin.about, artifacts.Clusters):
        labelling.check_features(cast(artifacts.Artifact[artifacts.Clusters], origin))
    asked = {"layer": layer, "grid": grid, "size": size, "image_size": image_size, "views": views}
    stage: dict[str, Any] = {"kind": "features", "backbone": str(origin.directory)}
    about = origin.about
    if isinstance(about, artifacts.Backbone):
        size = size or about.size
        if not layer:
            names = ", ".join(backbones.layer_shapes(about, size))
            raise ValueError(f"--layer is missing: choose from {names}")
        layers = image_rows.split_layers(layer)
        backbones.check_layers("--layer", layers, about, size)
        stage |= {"layer": layer, "grid": grid or 4, "size": size}
        stage |= {"views": views} if views else {}
        image_size = image_size or size
    else:
        for name, value in asked.items():
            if value:
                raise ValueError(
                    f"--{name}={value}: {origin.directory} determines this option: leave it out"
                )
        like = about if isinstance(about, artifacts.Features) else about.features
        image_size = (like.image_size or like.size) if like is not None else 0
    source = {**source, "size": image_size}
    with alone.run("features", stage, source, out) as made:
        os.replace(made, out)


def _check_source(source: dict[str, Any]) -> None:
    """Checks that the options of the source have no size: the artifact determines it."""
    if "size" in source:
        raise ValueError(
            f"--option size={source['size']}: the artifact says how images are decoded"
        )
