"""Stage 5: a student of any architecture learns the pseudo-labels from scratch (paper, step d)."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones, leakage
from kt_jax.kmeans import metrics
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts
from kt_jax.training import learning

READS = ("pseudo_labels", "clusters")


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes network.safetensors, backbone.json, checkpoints/ and images.parquet."""
    section = stage.section
    labels = artifacts.read_table(stage.open("pseudo_labels") / "labels.parquet")
    classes = artifacts.read_json(stage.open("clusters") / "clusters.json")["k"]
    images = stage.images[section.images]
    # In the order of these very images: plan has compared the sources.
    targets = labels["cluster"].astype(np.int32)
    order = (
        data.Balanced(targets, stage.seed)
        if section.uniform_over_clusters
        else data.Shuffled(len(images), stage.seed)
    )

    sizes = np.bincount(targets)
    # Who knows only how often each label comes guesses with its entropy.
    chance = metrics.entropy(sizes > 0 if section.uniform_over_clusters else sizes)
    make_model = make_network(section, classes)

    def make_examples(key: jax.Array, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
        crops = views.random_resized_crop(
            key, batch["image"], size=section.size, area=tuple(section.crop_area)
        )
        return crops, batch["label"]

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        batches = data.train_batches(
            images,
            order,
            section.batch_size,
            first_step=first_step,
            last_step=section.steps,
            targets=targets,
            reading=stage.reading,
        )
        shown = ({"image": batch["image"], "label": batch["label"]} for batch in batches)
        return partition.put_ahead(shown, stage.mesh)

    state = learning.learn(
        stage,
        make_model,
        make_examples,
        make_batches,
        name=stage.name,
        seed=stage.seed,
        steps=section.steps,
        log_every=section.log_every,
        checkpoint_every=section.checkpoint_every,
        log_directory=stage.directory,
        store_directory=stage.directory / "checkpoints",
        chance=chance,
    )
    options = artifacts.plain(section.backbone)
    backbones.save_network(stage.directory, options, state.params, state.batch_stats)
    leakage.write_images(stage, images)
    return {"rows": len(images), "classes": classes, "size": section.size}


def make_network(section: Any, classes: int) -> training.MakeModel:
    """The student that the config describes."""
    options = artifacts.plain(section.backbone)

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return models.Classifier(
            models.make_backbone(rngs=rngs, **options),
            size=section.size,
            classes=classes,
            rngs=rngs,
            **artifacts.plain(section.head),
        )

    return make


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for a batch that the devices cannot share, or images that have no labels.
    """
    section = config.student
    learning.check(config, "student")
    labelled = config.pseudo_labels.images
    if images[section.images].fingerprint != images[labelled].fingerprint:
        raise ValueError(
            f"config.student.images = {section.images!r}, but pseudo-labels are given to "
            f"config.pseudo_labels.images = {labelled!r}: name the same source in both."
        )
    network = make_network(section, config.clusters.k)
    return [
        f"{backbones.parameter_count(network):,} parameters",
        f"{len(images[section.images])} images, {config.clusters.k} pseudo-labels; batch "
        f"{section.batch_size} of {section.size} x {section.size} x 3, {section.steps} steps",
    ]
