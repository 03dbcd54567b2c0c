"""Labels for control experiments: the true classes, or random labels.

A student of the true classes is an upper bound for students of clusters, in the same number of
steps. A student of random labels shows what training on these images gives without a teacher.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Labels
_CALLED = {"classes": "true labels", "random": "random labels"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of control labels."""

    of: str = "classes"
    """"classes": the true labels of the images. "random": each image gets one of `k` labels with
    equal probability. Students at conv5 on Imagenette (48 px, ten epochs) had 65 % with true
    labels, 50 % with clusters, 42 % with random labels, and 41 % with random weights."""
    k: int = 0
    """The number of random labels; 0 with "classes"."""
    images: str = options.images("train")
    """The images that get labels."""

    def __post_init__(self) -> None:
        """Refuses an unknown control, or a `k` that does not fit it."""
        if self.of not in _CALLED:
            raise ValueError(f"of = {self.of!r}: choose one of {', '.join(_CALLED)}")
        if self.of == "random" and self.k < 2:
            raise ValueError(f"k = {self.k}: give the number of random labels, 2 or more")
        if self.of == "classes" and self.k:
            raise ValueError(f"k = {self.k} with of = 'classes': k is for random labels, give 0")


def run(stage: Stage) -> tuple[artifacts.Labels, dict[str, Any]]:
    """Writes labels.parquet as the kind `label` does, with distances and margins of NaN.

    A random label depends only on the stage's seed and the position of the image.
    """
    chosen, images = stage.options, stage.inputs.images["images"]
    about = _describe(chosen, stage.inputs)
    labels = _draw(len(images), chosen.k, stage.seed)
    if chosen.of == "classes":
        labels = _classes(stage.inputs)
    nowhere = np.full(len(labels), np.nan, np.float32)
    columns = {
        "index": np.arange(len(labels)),
        "key": list(images.keys),
        "cluster": labels,
        "distance": nowhere,
        "second_cluster": np.full_like(labels, -1),
        "margin": nowhere,
    }
    files.write_table(stage.directory / "labels.parquet", columns)
    return about, {"rows": about.rows, "labels": _CALLED[chosen.of], "classes": about.classes}


def _draw(count: int, k: int, seed: int) -> Int32[np.ndarray, " n"]:
    return np.random.default_rng(seed).integers(0, max(k, 1), count).astype(np.int32)


def _classes(inputs: Inputs) -> Int32[np.ndarray, " n"]:
    """The class of each image.

    Raises:
      ValueError: the images have no labels, several labels each, or all the same label.
    """
    images = inputs.images["images"]
    labels = images.single_labels
    if labels is None:
        why = "has no labels" if images.labels is None else "has several labels per image"
    elif len(images.class_names) < 2:
        why = "has only one class"
    else:
        return labels.astype(np.int32)
    raise ValueError(
        f"{inputs.origin}.images: {images.origin} {why}: a student of true labels needs two or "
        "more classes, and exactly one for every image. Name another set, or say of = 'random'"
    )


def _describe(chosen: Options, inputs: Inputs) -> artifacts.Labels:
    images = inputs.images["images"]
    return artifacts.Labels(
        rows=len(images),
        classes=len(images.class_names) if chosen.of == "classes" else chosen.k,
        images=images.fingerprint,
        origin=f"{images.origin} ({_CALLED[chosen.of]})",
        nearest=0,
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks the images, and describes the stage.

    Raises:
      ValueError: the images do not have exactly one class each, or all have the same.
    """
    if chosen.of == "classes":
        _classes(inputs)
    about = _describe(chosen, inputs)
    return Plan(about, (f"{_CALLED[chosen.of]}: {about.rows} images, {about.classes} classes",))
