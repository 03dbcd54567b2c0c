"""A network of any architecture learns labels from scratch (paper, step d)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones, leakage
from kt_jax.kmeans import metrics
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training import learning
from kt_jax.training.learning import Head

GIVES = artifacts.Backbone


@dataclass(frozen=True, kw_only=True)
class Options(learning.Training):
    """A classifier of pseudo-labels."""

    labels: str = options.reads(artifacts.Labels)
    """What it learns to predict."""
    images: str = options.images("train")
    """Those that have the labels."""
    size: int
    """The side of the crops that it learns from, in pixels."""
    crop_area: tuple[float, float] = (0.4, 1.0)
    """The least and the largest share of an image that a crop shows."""
    uniform_over_clusters: bool = False
    """Whether every cluster comes equally often, instead of every image."""
    backbone: dict[str, Any]
    """The name of the architecture, and its options."""
    head: Head = Head()

    def __post_init__(self) -> None:
        """Keeps of the backbone's options those that differ from the architecture's defaults."""
        object.__setattr__(self, "backbone", models.shorten(self.backbone))
        least, most = self.crop_area
        if not 0 < least <= most <= 1:
            raise ValueError(
                f"crop_area = {self.crop_area}: give two shares, 0 < least <= most <= 1"
            )


def run(stage: Stage) -> tuple[artifacts.Backbone, dict[str, Any]]:
    """Writes network.safetensors, backbone.json, checkpoints/ and images.parquet."""
    chosen, given = stage.options, stage.inputs["labels"]
    images = stage.inputs.images["images"]
    # In the order of these very images: plan has compared them.
    targets = files.read_table(given / "labels.parquet")["cluster"].astype(np.int32)
    order = (
        data.Balanced(targets, stage.seed)
        if chosen.uniform_over_clusters
        else data.Shuffled(len(images), stage.seed)
    )
    sizes = np.bincount(targets)
    # Who knows only how often each label comes guesses with its entropy.
    chance = metrics.entropy(sizes > 0 if chosen.uniform_over_clusters else sizes)

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        batches = data.train_batches(
            images,
            order,
            chosen.batch_size,
            first_step=first_step,
            last_step=chosen.steps,
            targets=targets,
            reading=stage.reading,
        )
        shown = ({"image": batch["image"], "label": batch["label"]} for batch in batches)
        return partition.put_ahead(shown, stage.mesh)

    task = learning.Task(
        name=stage.name,
        options=chosen,
        seed=stage.seed,
        make_model=make_network(chosen, given.about.classes),
        make_examples=_make_examples(chosen),
        make_batches=make_batches,
        log_directory=stage.directory,
        store_directory=stage.directory / "checkpoints",
        chance=chance,
    )
    state = learning.learn(stage, task)
    about = backbones.describe(chosen.backbone, chosen.size)
    backbones.save_network(stage.directory, about, state.params, state.batch_stats)
    before = given / backbones.IMAGES
    leakage.write_images(stage.directory, images, and_those_in=[before] if before.exists() else [])
    return about, {"rows": len(images), "classes": given.about.classes, "size": chosen.size}


def make_network(chosen: Options, classes: int) -> training.MakeModel:
    """The network that the options describe."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return models.Classifier(
            models.make_backbone(size=chosen.size, rngs=rngs, **chosen.backbone),
            size=chosen.size,
            classes=classes,
            hidden=chosen.head.hidden,
            dropout=chosen.head.dropout,
            batch_norm=chosen.head.batch_norm,
            rngs=rngs,
        )

    return make


def _make_examples(chosen: Options) -> training.MakeExamples:
    def make(key: jax.Array, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
        crops = views.random_resized_crop(
            key, batch["image"], size=chosen.size, area=chosen.crop_area
        )
        return crops, batch["label"]

    return make


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for a batch that the devices cannot share, or images that have no labels.
    """
    chosen.check(inputs.origin)
    labels, images = inputs["labels"].about, inputs.images["images"]
    if images.fingerprint != labels.images:
        raise ValueError(
            f"{inputs.origin}.images are {images.origin}, but {inputs['labels'].name!r} holds the "
            f"labels of {labels.origin}: name the same source in both, in the same size and order."
        )
    data.check_size(images, f"{inputs.origin}.images", chosen.size)
    about = backbones.describe(chosen.backbone, chosen.size, origin=inputs.origin)
    network = make_network(chosen, labels.classes)
    lines = (
        f"{backbones.parameter_count(network):,} parameters",
        f"{len(images)} images, {labels.classes} pseudo-labels; batch {chosen.batch_size} of "
        f"{chosen.size} x {chosen.size} x 3, {chosen.steps} steps",
    )
    size = images.size
    trial = learning.Trial(
        options=chosen,
        make_model=network,
        make_examples=_make_examples(chosen),
        shapes={
            "image": ((chosen.batch_size, size, size, 3), np.uint8),
            "label": ((chosen.batch_size,), np.int32),
        },
    )
    return Plan(
        about,
        lines,
        warnings=data.find_shortage(images, chosen.batch_size),
        describe_step=trial.describe,
        disk=trial.disk,
    )
