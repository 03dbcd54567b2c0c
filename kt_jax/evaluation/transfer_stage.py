"""What the stages of evaluations that train share: plans that refuse, and scores on disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import data, training
from kt_jax.evaluation import backbones, leakage, starts, transfer
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training import learning

_log = logging.getLogger(__name__)
_SELECTION = "nothing was chosen: the last step counts"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure, as `scores.json` has it."""

    subject: str
    layer: str
    seed: int
    details: str
    """How it was measured, in a sentence."""
    metric: str
    value: float
    """A share from 0 to 1."""
    interval: tuple[float, float]
    """95 %, by resampling the test images."""
    predictions: Mapping[str, np.ndarray]
    """Columns of predictions.parquet: "" is the predicted class, others are scores by class."""
    more: Mapping[str, Any]
    """Other fields."""


def check_labels(inputs: Inputs, *, several: bool) -> None:
    """Refuses images that have not the labels that an evaluation needs.

    Args:
      inputs: with train_images and test_images.
      several: whether an image may show several classes.

    Raises:
      ValueError: no labels, labels of the other sort, one class, or a test set of other classes.
    """
    for option in ("train_images", "test_images"):
        images, why = inputs.images[option], ""
        if images.labels is None:
            why = "has no labels"
        elif several and images.single_labels is not None:
            why = "has one class an image: the kinds fine_tune and nonlinear measure accuracy"
        elif not several and images.single_labels is None:
            why = "is multi-label: the kind voc07_classification measures average precision"
        elif len(images.class_names) < 2 and not several:
            why = "has one class alone: there is nothing to tell apart"
        if why:
            raise ValueError(f"{inputs.origin}.{option}: {images.origin} {why}")
    seen, tested = inputs.images["train_images"], inputs.images["test_images"]
    if seen.class_names != tested.class_names:
        raise ValueError(
            f"{inputs.origin}.train_images ({seen.origin}) has the classes "
            f"{seen.class_names[:5]}..., test_images ({tested.origin}) has "
            f"{tested.class_names[:5]}...: they must agree."
        )


def plan(
    chosen: transfer.Protocol,
    inputs: Inputs,
    *,
    layers: Callable[[artifacts.Backbone], Sequence[str]],
    crop: transfer.Crop,
    loss_fn: training.LossFn = training.cross_entropy,
    label_shape: tuple[int, ...] = (),
) -> Plan:
    """What a stage would do.

    Args:
      chosen: its options.
      inputs: its inputs, whose labels are checked.
      layers: those up to which a network is frozen, a training each.
      crop: what training shows.
      loss_fn: what training minimises.
      label_shape: of the label of an image.

    Raises:
      ValueError: no networks, images that are too small, a layer or an option that a network does
        not have, or a batch that the devices cannot share.
    """
    chosen.check(inputs.origin)
    given = inputs.artifacts["backbones"]
    if not given:
        raise ValueError(f"{inputs.origin}.backbones is empty: name one or more")
    for option, images in inputs.images.items():
        data.check_size(images, f"{inputs.origin}.{option}", chosen.size)
    seen, tested = inputs.images["train_images"], inputs.images["test_images"]
    classes, trials, count = len(seen.class_names), [], 0
    for each in given:
        try:
            about = starts.override(each.about, chosen.backbone or {})
        except ValueError as error:
            raise ValueError(f"{inputs.origin}: {each.name!r}: {error}") from None
        own = [layer for layer in layers(about) if layer and not layer.startswith("fc")]
        backbones.check_layers(f"{inputs.origin} ({each.name!r})", own, about, chosen.size)
        count += len(layers(about)) * len(chosen.seeds)
        network, _ = transfer.make_partly_frozen(
            about, chosen.head, own[0] if own else "", size=chosen.size, classes=classes
        )
        shape = chosen.batch_size, seen.size, seen.size, 3
        trials.append(
            learning.Trial(
                options=chosen,
                make_model=network,
                make_examples=transfer.make_examples(about, crop),
                shapes={
                    "image": (shape, np.uint8),
                    "label": ((chosen.batch_size, *label_shape), np.int32),
                },
                loss_fn=loss_fn,
            )
        )
    names = tuple(each.name for each in given)
    lines = (
        f"{', '.join(names)} on {len(seen)} + {len(tested)} images of {classes} classes, seeds "
        f"{list(chosen.seeds)}",
        f"{count} trainings of {chosen.steps} steps, batch {chosen.batch_size} of {chosen.size} x "
        f"{chosen.size} x 3; the first has "
        f"{backbones.parameter_count(trials[0].make_model):,} parameters to train",
    )
    return Plan(
        artifacts.Scores(subjects=names),
        lines,
        warnings=data.find_shortage(seen, chosen.batch_size),
        describe_step=trials[0].describe,
        disk=lambda: max(trial.disk() for trial in trials) + 8 * count * len(tested) * classes,
    )


def write_scores(
    stage: Stage, protocol: str, version: int, rows: Sequence[Row]
) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet, with the leaks that there are."""
    train_images, test_images = (
        stage.inputs.images[option] for option in ("train_images", "test_images")
    )
    given = stage.inputs.artifacts["backbones"]
    learned = {
        each.name: each / backbones.IMAGES
        for each in given
        if not each.is_random and (each / backbones.IMAGES).exists()
    }
    unknown = [each.name for each in given if not each.is_random and each.name not in learned]
    for name in unknown:
        _log.warning("%s: it is not known which images %s learned from", stage.name, name)
    random = {each.name for each in given if each.is_random}
    found, predictions = [], {}
    if test_images.single_labels is not None:
        predictions["label"] = test_images.single_labels
    for row in rows:
        place = "/".join((row.subject, row.layer, str(row.seed)))
        columns = {f"{place}/{name}" if name else place: x for name, x in row.predictions.items()}
        predictions |= columns
        found.append(
            {
                "subject": row.subject,
                "role": "random" if row.subject in random else "network",
                "layer": row.layer,
                "protocol": protocol,
                "version": version,
                "details": row.details,
                "metric": row.metric,
                "value": row.value,
                "n": len(test_images),
                "seed": row.seed,
                "split": f"train: {train_images.origin} ({len(train_images)} images); "
                f"test: {test_images.origin} ({len(test_images)} images)",
                "selection": _SELECTION,
                "interval": list(row.interval),
                "columns": list(columns),
                **row.more,
            }
        )
    leaks = leakage.find_leakage(learned, train_images, test_images)
    scores = {"rows": found, "leakage": leaks, "unknown": unknown, "skipped": ""}
    files.write_table(stage.directory / "predictions.parquet", predictions)
    files.write_json(stage.directory / "scores.json", scores)
    about = artifacts.Scores(subjects=tuple(each.name for each in given))
    return about, {"rows": len(train_images), "test_rows": len(test_images)}
