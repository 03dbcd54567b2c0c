"""Plans and scores of the stages of evaluations that train."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kt_jax import data, training
from kt_jax.evaluation import backbones, protocol, scores, starts, transfer
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training import learning

_SELECTION = "nothing was chosen: the last training step counts; no test image was used to choose"


def check_labels(inputs: Inputs, *, several: bool) -> None:
    """Refuses images without the labels that an evaluation needs.

    Args:
      inputs: with train_images and test_images.
      several: whether an image may have several classes.

    Raises:
      ValueError: there are no labels, labels of the wrong sort, only one class, or other classes in
        the test set.
    """
    for option in ("train_images", "test_images"):
        images, why = inputs.images[option], ""
        if images.labels is None:
            why = "has no labels"
        elif several and images.single_labels is not None:
            why = "has one class per image: the kinds fine_tune and nonlinear measure accuracy"
        elif not several and images.single_labels is None:
            why = "is multi-label: the kind voc07_classification measures average precision"
        elif len(images.class_names) < 2 and not several:
            why = "has only one class: there is nothing to classify"
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
    """Checks options and inputs, and describes the stage.

    Args:
      chosen: the options.
      inputs: the inputs, whose labels are checked.
      layers: the layers up to which a network is frozen, one training for each.
      crop: makes the training crops.
      loss_fn: the loss of the training.
      label_shape: the shape of the label of an image.

    Raises:
      ValueError: there are no networks, images are too small, a network has no such layer or
        option, or the devices cannot share the batch evenly.
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
        f"{', '.join(names)} on {len(seen)} training and {len(tested)} test images of {classes} "
        f"classes, seeds {list(chosen.seeds)}",
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
    stage: Stage, name: str, version: int, rows: Sequence[Mapping[str, Any]]
) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores and leaks; see `scores.write`.

    Args:
      stage: the stage of the scores.
      name: the name of the protocol.
      version: the version of the protocol. Another version gives other values for the same network.
      rows: with subject, layer, seed, details, metric, value, n, interval and predictions.
    """
    seen, tested = (stage.inputs.images[option] for option in ("train_images", "test_images"))
    given = stage.inputs.artifacts["backbones"]
    roles = {each.name: "random" if each.is_random else "network" for each in given}
    found, unknown = protocol.find_leakage(stage)
    common = {**protocol.describe_rows(stage, name, version), "selection": _SELECTION}
    shown = [{**common, "role": roles[row["subject"]], **row} for row in rows]
    others = {"leakage": found, "unknown": unknown, "skipped": ""}
    scores.write(stage.directory, shown, tested.single_labels, **others)
    about = artifacts.Scores(subjects=tuple(roles))
    return about, {"rows": len(seen), "test_rows": len(tested)}
