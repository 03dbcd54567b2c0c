"""A student of any architecture learns labels or features from scratch (paper, step d)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import agreement, backbones, leakage
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.stages import targets
from kt_jax.training import learning, losses
from kt_jax.training.learning import Head

GIVES = artifacts.Backbone


@dataclass(frozen=True, kw_only=True)
class Options(learning.Training):
    """Options of a student."""

    labels: str = options.reads(artifacts.Labels, default="")
    """The labels to learn. A regression needs labels only if `uniform_over_clusters` draws images
    by cluster."""
    features: str = options.reads(artifacts.Features, default="")
    """The features that a regression learns. They are of the same images, in the same order."""
    targets: str = "hard"
    """What the student learns of each image. "hard": its cluster. "soft": shares of its nearest
    clusters, softmax(-d^2 / temperature), where d are the distances in the labels (option `nearest`
    of the kind label). "regression": the direction of its whitened features, by the loss 1 -
    cosine. This is close to Reg-BN of CompRess (Koohpayegani et al. 2020): AlexNet had 56.1 %
    (clusters 46.4), ResNet-18 58.2 (61.1). A regression needs about ten times the learning rate of
    labels. Measured at 48 px after ten epochs, kNN of conv4, compared with hard labels: regression
    +2.7 with one teacher and +6.5 with another (-4.7 with the learning rate of labels); soft -0.5
    and +0.8. See docs/students.md."""
    temperature: float = 0.05
    """The temperature of soft targets. 0.05 suits rows of length 1 (`l2` of the kind clusters)."""
    regression_dims: int = 256
    """The number of principal components of the features that a regression learns, or fewer if
    there are fewer. They are whitened: all get the same variance (PCA-256, as in DeepCluster, Caron
    et al. 2018, section 3.3)."""
    images: str = options.images("train")
    """The training images; the labels are of these images."""
    held_out_labels: str = options.reads(artifacts.Labels, default="")
    """Labels of held-out images, from the same clusters. The fact `label_accuracy` is the share of
    them that the student predicts. It compares layers of a teacher without true labels."""
    held_out_images: str = options.images("")
    """The images of `held_out_labels`. The student does not learn from them."""
    size: int
    """The side of the training crops, in pixels."""
    crop_area: tuple[float, float] = (0.4, 1.0)
    """The smallest and the largest share of an image that a crop covers."""
    crops: int = 1
    """The number of crops of `size` px of each image in a step. All have the label of the image,
    and the loss is the mean over all crops. Crops of several sizes gained 4 to 5 points with
    ResNet-50 in the literature (SwAV, Caron et al. 2020, figure 3: DeepCluster-v2 70.2 to 74.3). We
    measured 1.2 to 1.9 points of kNN for one additional small crop, at 48 px after ten epochs."""
    small_crops: int = 0
    """The number of additional, smaller crops of each image."""
    small_size: int = 0
    """The side of the small crops, in pixels. Half of `size` is usual."""
    small_crop_area: tuple[float, float] = (0.05, 0.4)
    """The smallest and the largest share of an image that a small crop covers (as in DINO, Caron et
    al. 2021, section 3.1)."""
    uniform_over_clusters: bool = False
    """Whether every cluster is drawn equally often. If not, every image is."""
    ema: float = 0.0
    """The decay of an exponential moving average of the network, from 0 to below 1; 0 keeps no
    average. Above 0 the stage saves the average instead of the last state: of parameters and batch
    statistics, bias-corrected, over about the last 1 / (1 - ema) steps. 0.999 is usual (Polyak &
    Juditsky 1992; the teacher of Tarvainen & Valpola 2017, section 2). In 700 steps 0.98 changed
    kNN by at most 0.3 points; we expect half a point to one point in long runs."""
    backbone: dict[str, Any]
    """The name of the architecture, and its options."""
    head: Head = Head()

    def __post_init__(self) -> None:
        """Drops backbone options that equal the architecture's defaults, and checks the rest."""
        if self.size < 1:
            raise ValueError(f"size = {self.size}: give 1 or more")
        object.__setattr__(self, "backbone", models.shorten(self.backbone))
        for name in ("crop_area", "small_crop_area"):
            least, most = getattr(self, name)
            if not 0 < least <= most <= 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)}: give two shares, 0 < least <= most <= 1"
                )
        if self.crops < 1:
            raise ValueError(f"crops = {self.crops}: give 1 or more")
        if self.small_crops < 0:
            raise ValueError(f"small_crops = {self.small_crops}: give 0 or more")
        if not (0 < self.small_size <= self.size if self.small_crops else self.small_size == 0):
            raise ValueError(
                f"small_size = {self.small_size} with small_crops = {self.small_crops} and size = "
                f"{self.size}: small crops need a side from 1 to size, such as {self.size // 2}, "
                "and 0 stands for none"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema}: give 0, or a number below 1 such as 0.999")
        if bool(self.held_out_labels) != bool(self.held_out_images):
            raise ValueError(
                f"held_out_labels = {self.held_out_labels!r} with held_out_images = "
                f"{self.held_out_images!r}: give both, or neither"
            )
        self._check_targets()

    def _check_targets(self) -> None:
        if self.targets not in targets.NAMES:
            names = ", ".join(targets.NAMES)
            raise ValueError(f"targets = {self.targets!r}: choose one of {names}")
        regression = self.targets == targets.REGRESSION
        if regression and self.held_out_labels:
            raise ValueError(
                f"held_out_labels = {self.held_out_labels!r} with targets = {self.targets!r}, "
                "which names no clusters: give ''"
            )
        for option, kind, needed in (
            ("labels", "Labels", not regression or self.uniform_over_clusters),
            ("features", "Features", regression),
        ):
            if bool(getattr(self, option)) != needed:
                what = f"name a stage that gives {kind}" if needed else "give '', nothing reads it"
                uniform = " and uniform_over_clusters = True" * self.uniform_over_clusters
                raise ValueError(
                    f"{option} = {getattr(self, option)!r} with targets = {self.targets!r}"
                    f"{uniform}: {what}"
                )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature}: give a number above 0")
        if self.regression_dims < 1:
            raise ValueError(f"regression_dims = {self.regression_dims}: give 1 or more")

    @property
    def sees_several(self) -> bool:
        """Whether a step uses several crops of each image."""
        return self.crops + self.small_crops > 1


def run(stage: Stage) -> tuple[artifacts.Backbone, dict[str, Any]]:
    """Writes network.safetensors, backbone.json, checkpoints/ and images.parquet."""
    chosen, images = stage.options, stage.inputs.images["images"]
    form = _plan_targets(chosen, stage.inputs)
    if chosen.held_out_labels:
        agreement.check_clusters(stage.inputs)
    # In the order of the images: `plan` has compared the two.
    wanted = targets.load(
        chosen.targets,
        stage,
        temperature=chosen.temperature,
        dims=chosen.regression_dims,
        uniform_over_clusters=chosen.uniform_over_clusters,
    )
    order = (
        data.Balanced(wanted.clusters, stage.seed)
        if chosen.uniform_over_clusters and wanted.clusters is not None
        else data.Shuffled(len(images), stage.seed)
    )

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        batches = data.train_batches(
            images,
            order,
            chosen.batch_size,
            first_step=first_step,
            last_step=chosen.steps,
            targets=wanted.clusters,
            reading=stage.reading,
        )
        shown = ({"image": x["image"], "label": wanted.take(x["index"])} for x in batches)
        return partition.put_ahead(shown, stage.mesh)

    network = make_network(chosen, form.outputs)
    task = learning.Task(
        name=stage.name,
        options=chosen,
        seed=stage.seed,
        make_model=network,
        make_examples=_make_examples(chosen),
        make_batches=make_batches,
        log_directory=stage.directory,
        store_directory=stage.directory / "checkpoints",
        loss_fn=_make_loss(chosen, form),
        chance=wanted.chance,
        ema=chosen.ema,
    )
    state = learning.learn(stage, task)
    about = backbones.describe(chosen.backbone, chosen.size)
    learned = training.learned(state)
    backbones.save_network(stage.directory, about, *learned)
    given = [each for several in stage.inputs.artifacts.values() for each in several]
    before = [each / backbones.IMAGES for each in given if (each / backbones.IMAGES).exists()]
    leakage.write_images(stage.directory, images, and_those_in=before)
    files.delete(stage.directory / targets.CACHE)
    outputs = "dims" if chosen.targets == targets.REGRESSION else "classes"
    facts: dict[str, Any] = {"rows": len(images), outputs: form.outputs, "size": chosen.size}
    if chosen.held_out_labels:
        held_out = stage.inputs["held_out_labels"], stage.inputs.images["held_out_images"]
        facts["label_accuracy"] = agreement.measure(stage, network, learned, *held_out)
    return about, facts


def _plan_targets(chosen: Options, inputs: Inputs) -> targets.Form:
    return targets.plan(
        chosen.targets, inputs, temperature=chosen.temperature, dims=chosen.regression_dims
    )


def make_network(chosen: Options, classes: int) -> training.MakeModel:
    """The function that builds the student, with `classes` outputs."""

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
    def make_one(key: jax.Array, batch: training.Batch) -> tuple[Any, Any]:
        crops = views.random_resized_crop(
            key, batch["image"], size=chosen.size, area=chosen.crop_area
        )
        return crops, batch["label"]

    def make_several(key: jax.Array, batch: training.Batch) -> tuple[Any, Any]:
        large, small = jax.random.split(key)
        sizes = [(large, chosen.crops, chosen.size, chosen.crop_area)]
        if chosen.small_crops:
            sizes.append((small, chosen.small_crops, chosen.small_size, chosen.small_crop_area))
        crops = tuple(
            views.random_crops(key, batch["image"], count=count, size=size, area=area)
            for key, count, size, area in sizes
        )
        return crops, batch["label"]

    return make_several if chosen.sees_several else make_one


def _make_loss(chosen: Options, form: targets.Form) -> training.LossFn:
    return losses.over_crops(form.loss_fn) if chosen.sees_several else form.loss_fn


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: the devices cannot share the batch evenly, or images have no labels or no
        features.
    """
    chosen.check(inputs.origin)
    images, form = inputs.images["images"], _plan_targets(chosen, inputs)
    for option, shown in inputs.images.items():
        data.check_size(shown, f"{inputs.origin}.{option}", chosen.size)
    if chosen.held_out_labels:
        agreement.check(inputs)
    about = backbones.describe(chosen.backbone, chosen.size, origin=inputs.origin)
    if chosen.small_crops:
        # Refuses a size of which the strides leave nothing.
        name = f"{inputs.origin}.small_size = {chosen.small_size}"
        backbones.check_layers(name, (), about, chosen.small_size)
    network = make_network(chosen, form.outputs)
    lines = (
        f"{backbones.parameter_count(network):,} parameters",
        f"{len(images)} images, {form.words}; batch {chosen.batch_size} of "
        f"{chosen.size} x {chosen.size} x 3, {chosen.steps} steps",
    )
    size = images.size
    trial = learning.Trial(
        options=chosen,
        make_model=network,
        make_examples=_make_examples(chosen),
        shapes={
            "image": ((chosen.batch_size, size, size, 3), np.uint8),
            "label": ((chosen.batch_size, *form.shape), form.dtype),
        },
        loss_fn=_make_loss(chosen, form),
        ema=chosen.ema,
    )
    if chosen.sees_several:
        small = f" and {chosen.small_crops} of {chosen.small_size} px" * bool(chosen.small_crops)
        lines += (f"a step sees {chosen.crops} crops of {chosen.size} px{small} of each image",)
    warnings = data.find_shortage(images, chosen.batch_size)
    if chosen.ema:
        window = round(1 / (1 - chosen.ema))
        lines += (f"saved is the average of about the last {window:,} steps",)
        if chosen.steps < 10 * window:
            warnings += (
                f"{inputs.origin}.ema = {chosen.ema} averages over about {window:,} of "
                f"{chosen.steps} steps: a tenth of them or fewer is better",
            )
    kept = 2 * form.outputs * len(images) if chosen.targets == targets.REGRESSION else 0
    return Plan(
        about,
        lines,
        warnings=warnings,
        describe_step=trial.describe,
        disk=lambda: trial.disk() + kept,
    )
