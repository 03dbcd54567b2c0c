"""Evaluations that train on images with one class each, and measure the accuracy."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kt_jax import training
from kt_jax.evaluation import scores, starts, transfer, transfer_stage
from kt_jax.models import crops, views
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage


@dataclass(frozen=True, kw_only=True)
class Protocol(transfer.Protocol):
    """Options of training and test on images with one class each."""

    crop_area: tuple[float, float] = (0.4, 1.0)
    """The smallest and the largest share of an image that a training crop covers."""
    views: int = 1
    """The number of views of a test image whose softmax outputs are added: 1, the centre; 2, with
    its mirror image; or 10 (Krizhevsky's; `models.views.fixed_views`)."""

    def __post_init__(self) -> None:
        """Refuses values that cannot be used."""
        super().__post_init__()
        least, most = self.crop_area
        if not 0 < least <= most <= 1:
            raise ValueError(
                f"crop_area = {self.crop_area}: give two shares, 0 < least <= most <= 1"
            )
        views.fixed_views(self.views)


def run(
    stage: Stage,
    name: str,
    version: int,
    layers: Callable[[artifacts.Backbone], Sequence[str]],
) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Trains and tests each network, frozen up to each of its layers, with each seed.

    Raises:
      ValueError: a network was not trained with the fully connected layer.
    """
    chosen: Protocol = stage.options
    images, tested = (stage.inputs.images[option] for option in ("train_images", "test_images"))
    rows = []
    for seed in chosen.seeds:
        for each in stage.inputs.artifacts["backbones"]:
            start = starts.open_start(
                stage,
                each,
                chosen.backbone or {},
                seed=stage.seed + seed,
                calibrated_on=images if any(layers(each.about)) else None,
            )
            for layer in layers(start.about):
                job = _make_job(chosen, start, layer, seed, classes=len(images.class_names))
                predicted = transfer.learn_and_test(stage, job, images, tested)
                rows.append(
                    {
                        "subject": each.name,
                        "layer": layer or "all",
                        "seed": seed,
                        "details": _describe(chosen, start, job, each),
                        "metric": "accuracy",
                        **scores.accuracy([predicted], np.asarray(tested.single_labels)),
                        "predictions": [predicted],
                    }
                )
    return transfer_stage.write_scores(stage, name, version, rows)


def plan(
    chosen: Protocol, inputs: Inputs, layers: Callable[[artifacts.Backbone], Sequence[str]]
) -> Plan:
    """Checks the options, and describes the stage; see `transfer_stage.plan` for the errors."""
    transfer_stage.check_labels(inputs, several=False)
    return transfer_stage.plan(chosen, inputs, layers=layers, crop=_make_crop(chosen))


def choose_head(
    chosen: transfer.Protocol, start: starts.Start, layer: str, *, origin: str
) -> transfer.Head:
    """The head of a network: its own if one of the head's layers is frozen, otherwise a new one.

    Raises:
      ValueError: the network was trained without such a layer.
    """
    if not layer.startswith("fc"):
        return chosen.head
    own = start.own_head
    names = [f"fc{6 + number}" for number in range(len(own.hidden or ()))]
    if layer not in names:
        raise ValueError(
            f"{origin} names {layer!r}, but {start.name!r} was trained "
            f"{'with ' + ', '.join(names) if names else 'without fully connected layers'} that "
            "take one image: name another layer"
        )
    return dataclasses.replace(own, dropout=chosen.head.dropout)


def _make_job(
    chosen: Protocol, start: starts.Start, layer: str, seed: int, *, classes: int
) -> transfer.Job:
    about = start.about
    shown = [np.array(dataclasses.astuple(each)) for each in views.fixed_views(chosen.views)]
    places = np.stack(shown).astype(np.float32)

    def view(keys: Array, images: Array, number: Array) -> Array:
        del keys
        place = jnp.asarray(places)[number]
        return views.cut_view(
            images, chosen.size, place, mean=about.mean, deviation=about.deviation
        )

    return transfer.Job(
        name=f"{start.name}-{layer or 'all'}-{seed}",
        start=start,
        head=choose_head(chosen, start, layer, origin="layers"),
        frozen_to=layer,
        seed=seed,
        classes=classes,
        loss_fn=training.cross_entropy,
        crop=_make_crop(chosen),
        views=len(places),
        view=view,
        add_up=jax.nn.softmax,
        keep=lambda scores: scores.argmax(-1).astype(np.int32),
    )


def _make_crop(chosen: Protocol) -> transfer.Crop:
    def crop(keys: Array, images: Array) -> Array:
        return crops.random_by_area(keys, images, size=chosen.size, area=chosen.crop_area)

    return crop


def _describe(chosen: Protocol, start: starts.Start, job: transfer.Job, given: Any) -> str:
    least, most = chosen.crop_area
    parts = [
        "layers up to the named one are frozen, later layers are new and trained"
        if job.frozen_to
        else "all layers are trained, with a new head",
        f"{chosen.steps} steps of {chosen.batch_size} random square crops, which cover {least:g} "
        f"to {most:g} of the image's area and are mirrored at random",
        f"optimizer {chosen.optimizer.name}, learning rate {chosen.optimizer.learning_rate:g}, "
        f"schedule {chosen.optimizer.schedule}",
        f"testing on {views.describe_fixed(job.views)}",
        starts.describe_changes(given.about, chosen.backbone or {}),
    ]
    if given.is_random and job.frozen_to:
        parts.append("batch norm statistics are measured on the training images")
    return "; ".join(part for part in parts if part)
