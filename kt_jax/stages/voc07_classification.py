"""Classification with several classes per image, by the protocol of PASCAL VOC 2007.

It follows Krahenbuhl et al. 2016 (philkr/voc-classification), which the paper's Tables 1 to 3 use:
a sigmoid for each class, and random squares at random scales in training and in testing.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from kt_jax.evaluation import (
    backbones,
    precision,
    scores,
    starts,
    transfer,
    transfer_classes,
    transfer_stage,
)
from kt_jax.models import crops
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training.learning import Head
from kt_jax.training.optimizers import Optimizer

GIVES = artifacts.Scores
_VERSION = 1
CLASS_SCORES = "class_scores.parquet"
_PARTS = ("all", "fc6-8", "fc8")


@dataclass(frozen=True, kw_only=True)
class Options(transfer.Protocol):
    """Options of training on images with several classes. The defaults are Krahenbuhl's."""

    train: str = "all"
    """The layers that learn. "all"; "fc6-8": a new head on a frozen backbone; or "fc8": a new last
    layer on the frozen backbone and the frozen hidden layers that the network was trained with."""
    steps: int = 80_000
    batch_size: int = 16
    optimizer: Optimizer = Optimizer(
        learning_rate=1e-3,
        weight_decay=1e-6,
        clip=10.0,
        warmup=0,
        schedule="step",
        drop_every=10_000,
        drop=0.5,
        bias_rate=2.0,
    )
    scales: tuple[float, float] = (0.5, 2.0)
    """The smallest and the largest factor by which an image is enlarged before a square of `size`
    px is cut out. An enlarged image that is smaller than the square is resized to it. Krahenbuhl
    enlarges whole images of about 500 x 375 px. Images here are squares: decoded to 375 px, they
    show objects at the same scale."""
    crops: int = 10
    """The number of random squares of each test image. They are drawn from the seed as in training,
    and their scores are added."""
    least_positives: int = 1
    """The number of positive test images that a class needs to count in the mean."""

    def __post_init__(self) -> None:
        """Refuses values that cannot be used."""
        super().__post_init__()
        if self.train not in _PARTS:
            raise ValueError(f"train = {self.train!r}: choose one of {', '.join(_PARTS)}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"scales = {self.scales}: give two factors, 0 < least <= most")
        for name in ("crops", "least_positives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json, class_scores.parquet and resampled.parquet.

    class_scores.parquet has the score of each test image for each class. resampled.parquet has the
    value of each row in 1,000 resamples of the test images.

    The value of a row is the mean over the classes of the area below the precision-recall curve, as
    Krahenbuhl measures it. `eleven_points` is the mean of eleven points of VOC 2007, and `classes`
    the average precision of each class. An interrupted run resumes in the training that was
    interrupted.

    Raises:
      ValueError: `train` is "fc8", and a network was trained without hidden layers.
    """
    chosen: Options = stage.options
    images, tested = (stage.inputs.images[name] for name in ("train_images", "test_images"))
    counted = _count_classes(chosen, stage.inputs)
    rows: list[dict[str, Any]] = []
    tables: dict[str, np.ndarray] = {}
    resampled: dict[str, np.ndarray] = {}
    for seed in chosen.seeds:
        for each in stage.inputs.artifacts["backbones"]:
            start = starts.open_start(
                stage,
                each,
                chosen.backbone or {},
                seed=stage.seed + seed,
                calibrated_on=None if chosen.train == "all" else images,
            )
            job = _make_job(chosen, start, seed, classes=len(images.class_names))
            found = transfer.learn_and_test(stage, job, images, tested)
            labels = np.asarray(tested.labels)[:, counted]
            area, eleven = (_measure(found[:, counted], labels, points) for points in (0, 11))
            resampled[f"row{len(rows)}"] = area.pop("resampled")
            del eleven["resampled"]
            names = [tested.class_names[number] for number in counted]
            columns = {
                f"row{len(rows)}.{name}": x
                for name, x in zip(tested.class_names, found.T, strict=True)
            }
            tables |= columns
            rows.append(
                {
                    "subject": each.name,
                    "layer": chosen.train,
                    "seed": seed,
                    "details": _describe(chosen, job, each),
                    "metric": "mAP",
                    "n": len(tested),
                    **area,
                    "classes": dict(zip(names, area["classes"], strict=True)),
                    "eleven_points": {
                        **eleven,
                        "classes": dict(zip(names, eleven["classes"], strict=True)),
                    },
                    "predictions": [],
                    "class_scores": list(columns),
                    "resampled": f"row{len(rows)}",
                }
            )
    files.write_table(stage.directory / CLASS_SCORES, tables)
    files.write_table(stage.directory / scores.RESAMPLED, resampled)
    return transfer_stage.write_scores(stage, "voc07_classification", _VERSION, rows)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: images have no labels of several classes, the test set has other classes or no
        images of them, images are too small, or the weights do not fit an option of the
        architecture.
    """
    transfer_stage.check_labels(inputs, several=True)
    _count_classes(chosen, inputs)

    def layers(about: artifacts.Backbone) -> tuple[str]:
        return ("" if chosen.train == "all" else _output(about, chosen.size),)

    return transfer_stage.plan(
        chosen,
        inputs,
        layers=layers,
        crop=_make_crop(chosen),
        loss_fn=loss,
        label_shape=(len(inputs.images["train_images"].class_names),),
    )


def loss(
    outputs: dict[str, Array], labels: Int[Array, "b classes"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The sigmoid cross entropy, summed over the classes and averaged over the images.

    Labels are 1 and -1. Classes with the label 0 ("difficult") add nothing.
    """
    logits = outputs["logits"]
    present = (labels > 0).astype(logits.dtype)
    each = jnp.where(labels == 0, 0.0, optax.sigmoid_binary_cross_entropy(logits, present))
    total = each.sum(-1).mean()
    return total, {"loss": total}


def _measure(
    ranked: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, "n classes"], points: int
) -> dict[str, Any]:
    """The mean average precision, its interval and resamples, and the value of each class."""
    classes = [
        float(precision.average_precision(*each, points=points))
        for each in zip(ranked.T, labels.T, strict=True)
    ]
    resampled = precision.resample(ranked, labels, points=points)
    return {
        "value": float(np.mean(classes)),
        "interval": np.percentile(resampled, [2.5, 97.5]).tolist(),
        "classes": classes,
        "resampled": resampled,
    }


def _count_classes(chosen: Options, inputs: Inputs) -> list[int]:
    """The classes whose average precision counts.

    Raises:
      ValueError: no class has enough test images.
    """
    images = inputs.images["test_images"]
    found = (np.asarray(images.labels) > 0).sum(0)
    counted = np.flatnonzero(found >= chosen.least_positives).tolist()
    if not counted:
        raise ValueError(
            f"{inputs.origin}.least_positives = {chosen.least_positives}, but no class of "
            f"{images.origin} has more than {found.max(initial=0)} test images"
        )
    return counted


def _output(about: artifacts.Backbone, size: int) -> str:
    """The layer that the new head reads."""
    return list(backbones.layer_shapes(about, size))[-1]


def _make_job(chosen: Options, start: starts.Start, seed: int, *, classes: int) -> transfer.Job:
    about, layer, head = start.about, "", chosen.head
    if chosen.train != "all":
        layer = _output(about, chosen.size)
    if chosen.train == "fc8":
        hidden = start.own_head.hidden or ()
        if hidden:
            layer = f"fc{5 + len(hidden)}"
            head = transfer_classes.choose_head(chosen, start, layer, origin="train")
        elif len(backbones.layer_shapes(about, chosen.size)[layer]) == 1:
            head = Head(hidden=())
        else:
            raise ValueError(
                f"train = 'fc8', but {start.name!r} was trained without fully connected layers "
                "that take one image: choose all or fc6-8"
            )
    crop = _make_crop(chosen)

    def view(keys: Array, images: Array, number: Array) -> Array:
        del number  # `keys` are already those of this view
        return transfer.preprocess(about, crop(keys, images))

    return transfer.Job(
        name=f"{start.name}-{chosen.train}-{seed}",
        start=start,
        head=dataclasses.replace(head, dropout=chosen.head.dropout),
        frozen_to=layer,
        seed=seed,
        classes=classes,
        loss_fn=loss,
        crop=crop,
        views=chosen.crops,
        view=view,
        add_up=lambda logits: logits,
        keep=lambda scores: scores,
    )


def _make_crop(chosen: Options) -> transfer.Crop:
    def crop(keys: Array, images: Array) -> Array:
        return crops.random_by_scale(keys, images, size=chosen.size, scales=chosen.scales)

    return crop


def _describe(chosen: Options, job: transfer.Job, given: backbones.Given) -> str:
    least, most = chosen.scales
    frozen = "all layers are trained"
    if job.frozen_to:
        frozen = f"layers up to {job.frozen_to} are frozen"
    parts = [
        f"{frozen}, with a new {'last layer' if chosen.train == 'fc8' else 'head'}",
        'a sigmoid for each class; objects marked "difficult" are ignored',
        f"{chosen.steps} steps of {chosen.batch_size} random square crops, from images scaled by "
        f"{least:g} to {most:g} and mirrored at random",
        f"testing on the sum of the logits of {chosen.crops} random crops of each image",
        starts.describe_changes(given.about, chosen.backbone or {}),
    ]
    if given.is_random and job.frozen_to:
        parts.append("batch norm statistics are measured on the training images")
    if chosen.least_positives > 1:
        parts.append(f"the mean is over classes with {chosen.least_positives} test images or more")
    return "; ".join(part for part in parts if part)
