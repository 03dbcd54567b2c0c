"""Training targets of a student: one cluster per image, shares of several, or a direction."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float32, Int, Int32

from kt_jax import data, training
from kt_jax.evaluation import labelling
from kt_jax.kmeans import metrics, whitening
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs, Stage
from kt_jax.training import losses

_log = logging.getLogger(__name__)

HARD, SOFT, REGRESSION = NAMES = ("hard", "soft", "regression")
CACHE = "cache"
_TARGETS = "targets.npy"


@dataclass(frozen=True)
class Form:
    """The form of the targets, known before they are computed."""

    outputs: int
    """The number of outputs of the network's last layer."""
    shape: tuple[int, ...]
    """The shape of the target of one image."""
    dtype: type[np.generic]
    loss_fn: training.LossFn
    words: str
    """A description for people."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of a set of images."""

    take: Callable[[Int[np.ndarray, " b"]], np.ndarray]
    """Gives the targets [b, ...] of the images with these numbers [b]."""
    clusters: Int32[np.ndarray, " n"] | None
    """The cluster of each image; None if no labels are read."""
    chance: float
    """The loss of the best guess that ignores the images."""


def plan(name: str, inputs: Inputs, *, temperature: float, dims: int) -> Form:
    """The form of the targets called `name`.

    Args:
      name: one of NAMES.
      inputs: inputs of the stage, with `labels`, `features` or both.
      temperature: the temperature of soft targets.
      dims: the largest number of dimensions of a direction.

    Raises:
      ValueError: labels or features are of other images, or labels have no distances.
    """
    images = inputs.images["images"]
    for option in ("labels", "features"):
        for given in inputs.artifacts.get(option, ()):
            _check_images(inputs.origin, given, images)
    if name == REGRESSION:
        features = inputs["features"].about
        length = _length(features, dims)
        words = (
            f"directions in {length} whitened components of {inputs['features'].name!r} "
            f"({features.dims} numbers)"
        )
        return Form(length, (length,), np.float32, losses.cosine_distance, words)
    labels = inputs["labels"].about
    if name == HARD:
        words = f"{labels.classes} pseudo-labels"
        return Form(labels.classes, (), np.int32, training.cross_entropy, words)
    if not labels.nearest:
        raise _no_distances(inputs)
    words = (
        f"shares of the {labels.nearest} nearest of {labels.classes} pseudo-labels, "
        f"softmax(-d^2 / {temperature})"
    )
    return Form(labels.classes, (labels.classes,), np.float32, losses.soft_cross_entropy, words)


def load(
    name: str, stage: Stage, *, temperature: float, dims: int, uniform_over_clusters: bool
) -> Targets:
    """The targets called `name`. `plan` has already compared the images.

    The targets of a regression are computed once, and kept in the stage's cache.

    Raises:
      ValueError: rows of features are not those of the images, or distances are not known.
    """
    inputs = stage.inputs
    clusters, rows = None, np.ones(len(inputs.images["images"]))
    if inputs.artifacts.get("labels"):
        table = files.read_table(inputs["labels"] / labelling.LABELS)
        clusters = table["cluster"].astype(np.int32)
        if uniform_over_clusters:
            rows = 1 / np.bincount(clusters)[clusters]  # how often each image is drawn
    if name == REGRESSION:
        return _load_directions(stage, clusters, rows, dims)
    assert clusters is not None  # checked with the options
    if name == HARD:
        # A guess that knows only the frequencies of the labels has their entropy as its loss.
        chance = metrics.entropy(np.bincount(clusters, rows))
        return Targets(clusters.__getitem__, clusters, chance)
    classes = inputs["labels"].about.classes
    nearest, distances = _read_distances(inputs)
    shares = soften(distances, temperature)

    def take(index: Int[np.ndarray, " b"]) -> Float32[np.ndarray, "b k"]:
        wide = np.zeros((len(index), classes), np.float32)
        np.put_along_axis(wide, nearest[index], shares[index], axis=1)
        return wide

    weights = (shares * rows[:, None]).ravel()
    mean = np.bincount(nearest.ravel(), weights, minlength=classes)
    return Targets(take, clusters, metrics.entropy(mean))


def soften(distances: Float32[np.ndarray, "n m"], temperature: float) -> Float32[np.ndarray, "n m"]:
    """softmax(-d^2 / temperature) over the distances of each row.

    >>> soften(np.array([[0.0, 0.5]], np.float32), 0.25).round(3).tolist()
    [[0.7310000061988831, 0.26899999380111694]]
    """
    scores = -np.square(distances, dtype=np.float64) / temperature
    return scipy.special.softmax(scores, axis=1).astype(np.float32)


def _read_distances(
    inputs: Inputs,
) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "n m"]]:
    """The nearest clusters of each image [n, m], and the distances to them [n, m]."""
    labels = inputs["labels"]
    if (labels / labelling.NEAREST).exists():
        found = files.read_tensors(labels / labelling.NEAREST)
        return found["clusters"], found["distances"]
    table = files.read_table(labels / labelling.LABELS)
    nearest = np.stack([table["cluster"], table["second_cluster"]], axis=1).astype(np.int32)
    distances = np.stack([table["distance"], table["distance"] + table["margin"]], axis=1)
    nearest, distances = (x[:, : labels.about.nearest] for x in (nearest, distances))
    if not np.isfinite(distances).all():
        raise _no_distances(inputs)
    return nearest, distances.astype(np.float32)


def _no_distances(inputs: Inputs) -> ValueError:
    return ValueError(
        f"{inputs.origin}.labels: {inputs['labels'].name!r} has labels that do not follow from "
        f"distances to centroids, which targets = {SOFT!r} needs: name a stage of the kind label "
        f"whose clusters are not balanced, or choose targets = {HARD!r}"
    )


def _length(features: artifacts.Features, dims: int) -> int:
    """The number of components: n rows vary in at most n - 1 directions."""
    return max(1, min(dims, features.dims, features.rows - 1))


def _load_directions(
    stage: Stage,
    clusters: Int32[np.ndarray, " n"] | None,
    rows: np.ndarray,
    dims: int,
) -> Targets:
    features, images = stage.inputs["features"], stage.inputs.images["images"]
    keys = files.read_table(features / "index.parquet")["key"]
    if tuple(keys) != tuple(images.keys):
        raise _other_images(stage.inputs.origin, features, "features of other images", images)
    path = stage.directory / CACHE / _TARGETS
    if not partition.decided_by_first(path.exists):
        _log.info(
            "%s: computing whitened components of %d dimensions", stage.name, features.about.dims
        )
        shards = sorted(features.directory.glob("features-*-of-*.npy"))
        basis = stage.directory / CACHE / "whitening.safetensors"
        # All processes use the result of the first: theirs may differ in the last digit.
        found = whitening.fit(shards, _length(features.about, dims), mesh=stage.mesh)
        files.write_tensors(basis, {"mean": found.mean, "components": found.components})
        partition.wait_for_all("the components of the features")
        found = whitening.Whitening(**files.read_tensors(basis), variances=found.variances)
        stage.notice.check()
        unit = whitening.apply(found, shards, l2=True, mesh=stage.mesh)
        files.write_array(path, unit.astype(np.float16))
        partition.wait_for_all("the targets of the regression")
    directions = np.load(path, mmap_mode="r", allow_pickle=False)
    # The best guess that ignores the images is the mean direction.
    mean = np.average(directions, axis=0, weights=rows)
    chance = 1 - float(np.linalg.norm(mean))
    return Targets(lambda index: directions[index].astype(np.float32), clusters, chance)


def _check_images(origin: str, given: artifacts.Artifact[Any], images: data.Images) -> None:
    if given.about.images == images.fingerprint:
        return
    if isinstance(given.about, artifacts.Labels):
        raise _other_images(origin, given, f"labels of {given.about.origin}", images)
    if given.about.images:  # if not, an older version wrote them, and `load` compares the keys
        raise _other_images(origin, given, "features of other images", images)


def _other_images(
    origin: str, given: artifacts.Artifact[Any], what: str, images: data.Images
) -> ValueError:
    return ValueError(
        f"{origin}.images are {images.origin}, but {given.name!r} holds the {what}: "
        "name the same source in both, in the same size and order."
    )
