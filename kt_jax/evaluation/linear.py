"""Linear probes: how well one layer of a frozen network tells classes apart.

Protocol (after Zhang et al. 2016, as the paper's Table 4 is): every layer's activation, frozen,
max-pooled (they resize) to at most `max_dims` dimensions, a batch normalisation without
parameters and one linear layer; all layers in one pass. Training sees the central view or its
mirror image, testing the central view. The last step counts; no test image chose anything.
"""

import functools
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones
from kt_jax.machine import partition, processes
from kt_jax.models import views
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Stage
from kt_jax.training import learning
from kt_jax.training.optimizers import Optimizer

Features = artifacts.Artifact[artifacts.Features]
# Of given features, in place of `str(Protocol)`.
GIVEN = "linear, frozen, given features as they are, non-affine batch norm, {} epochs"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How networks are probed."""

    size: int
    """The side of the central view, in pixels."""
    batch_size: int = 256
    epochs: int = 28
    """140,000 steps of 256 on ImageNet (FAIR's benchmark)."""
    max_dims: int = 9600
    """Layers are pooled to at most so many dimensions (Zhang et al. 2016), or to one number a
    channel where there are more channels."""
    optimizer: Optimizer = Optimizer(learning_rate=0.01, clip=0.0, warmup=0)

    def __post_init__(self) -> None:
        """Refuses counts and lengths below 1."""
        for name in ("size", "epochs", "max_dims"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")

    def __str__(self) -> str:
        return (
            f"linear, frozen, max-pooled to <= {self.max_dims} dims, non-affine batch norm, "
            f"{self.epochs} epochs of the centre view or its mirror image, centre view in testing"
        )


@dataclass(frozen=True)
class Subject:
    """What is probed: a frozen backbone and its layers, or (None) the pixels or given features."""

    name: str
    backbone: backbones.FrozenBackbone | None
    layers: tuple[str, ...]
    seed: int
    given: tuple[Features, Features] | None = None
    """Those of the training images and of the test images."""


def probe(
    stage: Stage, subject: Subject, train_images: data.Images, test_images: data.Images
) -> dict[str, float]:
    """Test accuracy of one subject by layer.

    A finished subject's result is kept, so that an interrupted stage does not repeat it.
    """
    protocol: Protocol = stage.options
    name = urllib.parse.quote(f"{subject.name}-{subject.seed}", safe="")
    done = stage.directory / "cache" / f"{name}.json"
    scratch = stage.directory / "cache" / name
    if partition.decided_by_first(done.exists):
        files.delete(scratch)
        return files.read_json(done)
    grids = _grids(subject, protocol)
    if subject.given is None:
        flips = (False, True)
        seen = _cache(stage, subject, grids, train_images, scratch / "train", mirrored=flips)
        targets = np.tile(_labels(train_images), 2)
    else:
        seen, targets = _open(subject.given[0]), _labels(train_images)
    steps = max(1, protocol.epochs * len(train_images) // protocol.batch_size)
    order = data.Shuffled(len(targets), stage.seed + subject.seed)
    dims = {layer: rows.shape[1] for layer, rows in seen.items()}
    classes = len(train_images.class_names)

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return models.LinearProbes(dims, classes=classes, rngs=rngs)

    def make_examples(
        _: jax.Array, batch: training.Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        return {layer: batch[layer].astype(jnp.float32) for layer in dims}, batch["label"]

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        size = protocol.batch_size
        for step in range(first_step, steps):
            chosen = np.array([order(step * size + row) for row in range(size)])
            batch = {layer: rows[chosen] for layer, rows in seen.items()}
            yield partition.put_rows({**batch, "label": targets[chosen]}, stage.mesh)

    task = learning.Task(
        name=f"probe of {name}",
        options=learning.Training(
            steps=steps,
            batch_size=protocol.batch_size,
            log_every=max(1, steps // 5),
            checkpoint_every=steps,
            compute=learning.Compute(precision="float32"),
            optimizer=protocol.optimizer,
        ),
        seed=stage.seed + subject.seed,
        make_model=make_model,
        make_examples=make_examples,
        make_batches=make_batches,
        log_directory=scratch,
        store_directory=stage.directory / "checkpoints" / name,
        loss_fn=_sum_of_losses,
    )
    state = learning.learn(stage, task)
    if subject.given is None:
        held_out = _cache(stage, subject, grids, test_images, scratch / "test", mirrored=(False,))
    else:
        held_out = _open(subject.given[1])
    accuracies = _test(stage, state, make_model, held_out, _labels(test_images))
    files.write_json(done, accuracies)
    partition.wait_for_all(f"the tests of {name}")
    files.delete(scratch)
    return accuracies


def _labels(images: data.Images) -> np.ndarray:
    labels = images.single_labels
    if labels is None:
        raise ValueError(f"{images.origin} has not one label for every image: nothing to probe")
    return labels


def _sum_of_losses(
    logits: Mapping[str, jax.Array], labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The layers' probes do not touch one another: their losses are added."""
    losses = {
        layer: optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()
        for layer, x in logits.items()
    }
    total = functools.reduce(jnp.add, losses.values())
    right = {f"{layer}_accuracy": (x.argmax(-1) == labels).mean() for layer, x in logits.items()}
    return total, {"loss": total, **right}


def _open(features: Features) -> dict[str, np.ndarray]:
    """The matrix [n, d] float16 of given features."""
    shards = sorted(features.directory.glob("features-*-of-*.npy"))
    parts = [np.load(shard, mmap_mode="r", allow_pickle=False) for shard in shards]
    return {features.about.layer: parts[0] if len(parts) == 1 else np.concatenate(parts)}


def _grids(subject: Subject, protocol: Protocol) -> dict[str, int]:
    """The largest pooling grid of each layer that keeps to max_dims, at least 1 x 1."""
    if subject.backbone is None:
        return {"pixels": int((protocol.max_dims / 3) ** 0.5)}
    shapes = backbones.layer_shapes(subject.backbone.about, protocol.size)
    return {
        layer: max(1, int((protocol.max_dims / shapes[layer][-1]) ** 0.5))
        for layer in subject.layers
    }


def _cache(
    stage: Stage,
    subject: Subject,
    grids: Mapping[str, int],
    images: data.Images,
    directory: Path,
    *,
    mirrored: tuple[bool, ...],
) -> dict[str, np.ndarray]:
    """Each layer's features [views * n, d] float16 as a file that the page cache holds."""
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, np.memmap] = {}
    name = f"probe of {subject.name}, {directory.name} images"
    with stage.count(len(mirrored) * len(images), "views seen", name=name) as count:
        for view, flip in enumerate(mirrored):
            for index, rows in _extract(stage, subject, grids, images, mirrored=flip):
                for layer, x in rows.items() if processes.writes() else ():
                    if layer not in files:
                        files[layer] = np.lib.format.open_memmap(
                            directory / f"{layer}.npy",
                            mode="w+",
                            dtype=np.float16,
                            shape=(len(mirrored) * len(images), x.shape[1]),
                        )
                    files[layer][view * len(images) + index] = x
                count.add(len(index))
    for file in files.values():
        file.flush()  # where other hosts see it
    partition.wait_for_all(str(directory))
    return {layer: np.load(directory / f"{layer}.npy", mmap_mode="r") for layer in grids}


def _extract(
    stage: Stage,
    subject: Subject,
    grids: Mapping[str, int],
    images: data.Images,
    *,
    mirrored: bool,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    protocol: Protocol = stage.options
    if subject.backbone is not None:
        yield from backbones.extract(
            subject.backbone,
            images,
            grids,
            size=protocol.size,
            batch_size=protocol.batch_size,
            mesh=stage.mesh,
            reading=stage.reading,
            notice=stage.notice,
            shown=(views.View(mirrored=mirrored),),
        )
        return
    side = min(protocol.size, grids["pixels"])

    @jax.jit
    def pixels(batch: jax.Array) -> jax.Array:
        view = views.centre_view(batch, protocol.size)
        view = views.mirror(view) if mirrored else view
        small = jax.image.resize(view, (view.shape[0], side, side, 3), "linear")
        return small.reshape(small.shape[0], -1).astype(jnp.float16)

    for batch in data.eval_batches(images, protocol.batch_size, reading=stage.reading):
        stage.notice.check()
        shown = partition.put_batch(
            {name: batch[name] for name in ("image", "index", "mask")}, stage.mesh
        )
        rows, index, mask = partition.fetch((pixels(shown["image"]), shown["index"], shown["mask"]))
        yield index[mask], {"pixels": rows[mask]}


def _test(
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> dict[str, float]:
    """Accuracy by layer on the cached features."""
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def predict(state: training.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        inputs = {name: x.astype(jnp.float32) for name, x in batch.items()}
        logits = training.bind(graphdef, state.params, state.batch_stats)(inputs)
        return {name: x.argmax(-1) for name, x in logits.items()}

    right = dict.fromkeys(features, 0)
    for begin in range(0, len(labels), stage.options.batch_size):
        stage.notice.check()
        rows = slice(begin, begin + stage.options.batch_size)
        predicted = predict(state, {name: np.asarray(x[rows]) for name, x in features.items()})
        for name, guess in predicted.items():
            right[name] += int((np.asarray(guess) == labels[rows]).sum())
    return {name: count / len(labels) for name, count in right.items()}
