"""Labels and features of any images, written from finished artifacts: what the commands do."""

import os
from pathlib import Path
from typing import Any

from kt_jax.evaluation import backbones, image_rows, labelling
from kt_jax.results import alone, tables
from kt_jax.runs import artifacts


def write_assignment(
    clusters: artifacts.Artifact[artifacts.Clusters],
    source: dict[str, Any],
    out: Path,
    *,
    form: str = "",
    workers: int = 0,
) -> None:
    """Labels the images of a source, and writes them in a form; see `opened.Clusters.assign`.

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
    origin: artifacts.Artifact[artifacts.Backbone | artifacts.Features | artifacts.Clusters],
    source: dict[str, Any],
    out: Path,
    *,
    layer: str = "",
    grid: int = 0,
    size: int = 0,
    image_size: int = 0,
    views: int = 0,
    workers: int = 0,
) -> None:
    """Writes the features of the images of a source: a Features artifact, as of a stage.

    The same call resumes after a kill. Arguments as of `write_assignment`, and of
    `opened.Backbone.embed`, whose defaults 0 and "" stand for. Features, or Clusters of such, give
    rows like their own, and decide all but `workers` themselves.

    Raises:
      ValueError: no such layer, `out` exists, the features of `origin` were given, or an argument
        that they say themselves.
    """
    _check_source(source)
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
                    f"--{name}={value}: rows are as those of {origin.directory}: leave --{name} out"
                )
        like = about if isinstance(about, artifacts.Features) else about.features
        image_size = (like.image_size or like.size) if like is not None else 0
    source = {**source, "size": image_size}
    with alone.run("features", stage, source, out, workers=workers) as made:
        os.replace(made, out)


def _check_source(source: dict[str, Any]) -> None:
    """Refuses a size among the options of the source, which is not the caller's to choose."""
    if "size" in source:
        raise ValueError(
            f"--option size={source['size']}: the artifact says how images are decoded"
        )
