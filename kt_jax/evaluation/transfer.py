"""Training true labels from a backbone's weights, with or without frozen layers.

Each training is done once. Its predictions of the test images are kept, so a resumed stage does not
repeat it.
"""

import dataclasses
import functools
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from kt_jax import data, models, training
from kt_jax.evaluation import freezing, starts
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Stage
from kt_jax.training import learning
from kt_jax.training.learning import Head

# (keys of the images, images uint8 [b, s, s, 3]) -> squares [b, t, t, 3] in grey levels of 0..255.
Crop = Callable[[Array, Array], Array]


@dataclass(frozen=True, kw_only=True)
class Protocol(learning.Training):
    """Options of evaluations that train."""

    backbones: tuple[str, ...] = options.reads(artifacts.Backbone)
    """The networks to start from. `random:NAME` is the network NAME with random weights."""
    train_images: str = options.images("train")
    test_images: str = options.images("test")
    seeds: tuple[int, ...] = (0,)
    """All trainings are repeated with each seed."""
    size: int
    """The side of the networks' input, in pixels."""
    backbone: dict[str, Any] | None = None
    """Options of the architecture that replace those of the weights' own training. The shapes of
    parameters must not change. The authors' puzzle network has a conv1 of stride 2, and is
    evaluated on whole images with {"stem_stride": 4} (their code)."""
    head: Head = Head()
    """The new head on the backbone."""

    def __post_init__(self) -> None:
        """Refuses sizes below 1, and no seeds."""
        if self.size < 1:
            raise ValueError(f"size = {self.size}: give 1 or more")
        if not self.seeds:
            raise ValueError("seeds is empty: give one or more")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and its test."""

    name: str
    """A unique name within the stage."""
    start: starts.Start
    head: Head
    frozen_to: str = ""
    """The layer up to which the network is frozen; everything after it gets new weights. "":
    nothing is frozen, and only the head gets new weights."""
    seed: int
    classes: int
    loss_fn: training.LossFn
    crop: Crop
    """Makes the training crops."""
    views: int
    """The number of views of each test image."""
    view: Callable[[Array, Array, Array], Array]
    """(keys of the images, images, number of the view) -> inputs of the network."""
    add_up: Callable[[Array], Array]
    """The function of the logits [b, classes] whose values are added over the views."""
    keep: Callable[[np.ndarray], np.ndarray]
    """The function of the added scores [n, classes] whose value is kept."""


def make_network(
    about: artifacts.Backbone,
    head: Head,
    *,
    size: int,
    classes: int,
    frozen: frozenset[freezing.Path] = frozenset(),
) -> training.MakeModel:
    """The backbone for views of `size` px, with a head."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        model = freezing.PartlyFrozen(
            models.make_backbone(size=about.size, rngs=rngs, **about.architecture),
            size=size,
            classes=classes,
            hidden=head.hidden,
            dropout=head.dropout,
            batch_norm=head.batch_norm,
            rngs=rngs,
        )
        model.freeze(frozen)
        return model

    return make


def make_partly_frozen(
    about: artifacts.Backbone, head: Head, layer: str, *, size: int, classes: int
) -> tuple[training.MakeModel, frozenset[freezing.Path]]:
    """The network with a frozen part, and the frozen arrays: all that `layer` depends on.

    If `layer` is "", nothing is frozen.

    Raises:
      ValueError: the network has no such layer.
    """
    network = make_network(about, head, size=size, classes=classes)
    if not layer:
        return network, frozenset()
    frozen = freezing.find_needed(network, layer, size)
    return make_network(about, head, size=size, classes=classes, frozen=frozen), frozen


def make_examples(about: artifacts.Backbone, crop: Crop) -> training.MakeExamples:
    """Makes crops of a batch, preprocessed as in the backbone's training, and labels."""

    def make(key: jax.Array, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
        images = batch["image"]
        crops = crop(views.example_keys(key, images.shape[0]), images)
        return preprocess(about, crops), batch["label"]

    return make


def preprocess(about: artifacts.Backbone, grey: Float[Array, "b t t c"]) -> Float[Array, "b t t c"]:
    """The input of a backbone, from grey levels 0..255."""
    if about.mean:
        return views.normalise(grey, about.mean, about.deviation)
    return views.standardise(grey)


def learn_and_test(
    stage: Stage, job: Job, train_images: data.Images, test_images: data.Images
) -> np.ndarray:
    """Trains and tests: `job.keep` of the test images' scores, added over the views.

    The network of the last step is tested. The result of a finished job is read from disk.

    Raises:
      ValueError: a frozen layer's weights do not fit views of this size.
      FloatingPointError, SystemExit: as `training.fit`.
    """
    protocol: Protocol = stage.options
    name = urllib.parse.quote(job.name, safe="")
    done = stage.directory / "cache" / f"{name}.npy"
    checkpoints = stage.directory / "checkpoints" / name
    if partition.decided_by_first(done.exists):
        files.delete(checkpoints)
        return np.load(done, allow_pickle=False)
    seed, about = stage.seed + job.seed, job.start.about
    make_model, frozen = make_partly_frozen(
        about, job.head, job.frozen_to, size=protocol.size, classes=job.classes
    )
    given = {
        path: x
        for path, x in job.start.arrays.items()
        if (path in frozen if job.frozen_to else path[0] == "backbone")
    }

    def begin(state: training.TrainState) -> training.TrainState:
        params, batch_stats = (
            freezing.put(tree, given) for tree in (state.params, state.batch_stats)
        )
        return dataclasses.replace(state, params=params, batch_stats=batch_stats)

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        batches = data.train_batches(
            train_images,
            data.Shuffled(len(train_images), seed),
            protocol.batch_size,
            first_step=first_step,
            last_step=protocol.steps,
            reading=stage.reading,
        )
        shown = ({"image": batch["image"], "label": batch["label"]} for batch in batches)
        return partition.put_ahead(shown, stage.mesh)

    task = learning.Task(
        name=f"{stage.name} of {job.name}",
        options=protocol,
        seed=seed,
        make_model=make_model,
        make_examples=make_examples(about, job.crop),
        make_batches=make_batches,
        log_directory=stage.directory / "cache" / name,
        store_directory=checkpoints,
        loss_fn=job.loss_fn,
        begin=begin,
    )
    state = learning.learn(stage, task)
    result = job.keep(_test(stage, job, make_model, state, test_images))
    files.write_array(done, result)
    partition.wait_for_all(f"the test of {job.name}")
    files.delete(checkpoints)
    return result


def _test(
    stage: Stage,
    job: Job,
    make_model: training.MakeModel,
    state: training.TrainState,
    images: data.Images,
) -> Float[np.ndarray, "n classes"]:
    """The sum over the views of each image. Random views depend only on seed and image."""
    graphdef = training.structure(make_model, training=False)
    key = jax.random.key(stage.seed + job.seed)

    @jax.jit
    def score(variables: Any, pixels: Array, index: Array, number: Array) -> Array:
        view_key = jax.random.fold_in(key, number)
        keys = jax.vmap(lambda each: jax.random.fold_in(view_key, each))(index)
        model: Any = training.bind(graphdef, *variables)
        return job.add_up(model(job.view(keys, pixels, number))["logits"])

    found = []
    batches = data.eval_batches(images, stage.options.batch_size, reading=stage.reading)
    with stage.count(len(images), "images tested", name=f"{stage.name} of {job.name}") as count:
        for batch in batches:
            stage.notice.check()
            shown = {name: batch[name] for name in ("image", "index", "mask")}
            shown = partition.put_batch(shown, stage.mesh)
            of_view = functools.partial(
                score, (state.params, state.batch_stats), shown["image"], shown["index"]
            )
            summed = functools.reduce(jnp.add, map(of_view, np.arange(job.views)))
            rows, mask = partition.fetch((summed, shown["mask"]))
            found.append(rows[mask].astype(np.float32))
            count.add(int(mask.sum()))
    return np.concatenate(found)
