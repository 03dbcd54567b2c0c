"""Linear classifiers of frozen features by stochastic gradient descent: the paper's Table 4.

After Zhang et al. 2016: the activation of every layer is frozen and max-pooled (they resize) to a
fixed grid. Then come a batch normalisation without parameters (of each channel) and one linear
layer. All layers are trained in one pass. Training uses the central view or its mirror image, the
test uses the central view. The last step counts. No layer is chosen: every layer has its row.
"""

import functools
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import extraction, protocol, scores
from kt_jax.evaluation.subjects import Subject
from kt_jax.machine import partition, processes
from kt_jax.models import views
from kt_jax.runs import files
from kt_jax.runs.stage import Stage
from kt_jax.training import learning
from kt_jax.training.optimizers import Optimizer

VERSION = 2
_SELECTION = (
    "nothing was chosen: the last training step counts, and each layer has a row; no test image "
    "was used to choose"
)


@dataclass(frozen=True, kw_only=True)
class Options(protocol.Protocol):
    """Options of linear classifiers on each layer, trained by gradient descent."""

    epochs: int = 28
    """The number of epochs. 28 are 140,000 steps of 256 on ImageNet (FAIR's benchmark)."""
    optimizer: Optimizer = Optimizer(learning_rate=0.01, clip=0.0, warmup=0)
    batch_size: int = 256
    """The number of rows in a step, over all devices."""

    def __post_init__(self) -> None:
        """Refuses counts below 1."""
        super().__post_init__()
        if self.epochs < 1:
            raise ValueError(f"epochs = {self.epochs}: give 1 or more")


def measure(stage: Stage, subject: Subject, seed: int) -> list[dict[str, Any]]:
    """A row for each layer."""
    chosen: Options = stage.options
    train, test = (stage.inputs.images[f"{split}_images"] for split in ("train", "test"))
    name = urllib.parse.quote(f"{subject.name}-{seed}", safe="")
    scratch = stage.directory / "cache" / name
    seen = _cache(stage, subject, "train", len(train), scratch, views.fixed_views(2))
    targets = np.tile(protocol.labels_of(train), 2)
    steps = max(1, chosen.epochs * len(train) // chosen.batch_size)
    order = data.Shuffled(len(targets), seed)
    dims = {layer: rows.shape[1] for layer, rows in seen.items()}

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        classes = len(train.class_names)
        return models.LinearProbes(dims, channels=subject.channels, classes=classes, rngs=rngs)

    def make_examples(
        _: jax.Array, batch: training.Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        return {layer: batch[layer].astype(jnp.float32) for layer in dims}, batch["label"]

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        size = chosen.batch_size
        for step in range(first_step, steps):
            rows = np.array([order(step * size + row) for row in range(size)])
            batch = {layer: x[rows] for layer, x in seen.items()}
            yield partition.put_rows({**batch, "label": targets[rows]}, stage.mesh)

    task = learning.Task(
        name=f"probe of {name}",
        options=learning.Training(
            steps=steps,
            batch_size=chosen.batch_size,
            log_every=max(1, steps // 5),
            checkpoint_every=steps,
            compute=learning.Compute(precision="float32"),
            optimizer=chosen.optimizer,
        ),
        seed=seed,
        make_model=make_model,
        make_examples=make_examples,
        make_batches=make_batches,
        log_directory=scratch,
        store_directory=stage.directory / "checkpoints" / name,
        loss_fn=_sum_of_losses,
    )
    state = learning.learn(stage, task)
    held_out = _cache(stage, subject, "test", len(test), scratch, views.fixed_views(1))
    answers = _predict(stage, state, make_model, held_out)
    partition.wait_for_all(f"the tests of {name}")
    files.delete(scratch)
    shown = subject.describe_views(
        "training on the centre view or its mirror image, testing on the centre view"
    )
    return [
        {
            "layer": layer,
            "metric": "accuracy",
            **scores.accuracy([answers[layer]], protocol.labels_of(test)),
            "predictions": [answers[layer]],
            "dims": dims[layer],
            "details": f"a linear layer on normalised frozen features (batch norm without "
            f"parameters), trained with {chosen.optimizer.name} for {chosen.epochs} epochs; "
            f"{shown}",
            "selection": _SELECTION,
        }
        for layer in subject.layers
    ]


def _sum_of_losses(
    logits: Mapping[str, jax.Array], labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of the losses of all layers. Their probes are independent."""
    losses = {
        layer: optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()
        for layer, x in logits.items()
    }
    total = functools.reduce(jnp.add, losses.values())
    right = {f"{layer}_accuracy": (x.argmax(-1) == labels).mean() for layer, x in logits.items()}
    return total, {"loss": total, **right}


def _cache(
    stage: Stage,
    subject: Subject,
    split: str,
    count: int,
    scratch: Path,
    shown: tuple[views.View, ...],
) -> dict[str, np.ndarray]:
    """The features of each layer [views * n, d] float16, as memory-mapped files."""
    directory = scratch / split
    directory.mkdir(parents=True, exist_ok=True)
    matrices: dict[str, np.memmap] = {}
    name = f"{subject.name}, {split} images"
    with stage.count(count, "images seen", name=name) as counted:
        for batch, seen in subject.see(split, range(count), shown):
            found, index, mask = partition.fetch((seen, batch["index"], batch["mask"]))
            for view, layers in enumerate(found):
                for layer, x in layers.items():
                    extraction.check_range(layer, x[mask])
                    if not processes.writes():
                        continue
                    if layer not in matrices:
                        matrices[layer] = np.lib.format.open_memmap(
                            directory / f"{layer}.npy",
                            mode="w+",
                            dtype=np.float16,
                            shape=(len(shown) * count, x.shape[1]),
                        )
                    matrices[layer][view * count + index[mask]] = x[mask]
            counted.add(int(mask.sum()))
    for matrix in matrices.values():
        matrix.flush()  # so that other hosts see it
    partition.wait_for_all(str(directory))
    return {layer: np.load(directory / f"{layer}.npy", mmap_mode="r") for layer in subject.layers}


def _predict(
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    features: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The class of each image by layer, from the cached features."""
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def predict(state: training.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        inputs = {name: x.astype(jnp.float32) for name, x in batch.items()}
        logits = training.bind(graphdef, state.params, state.batch_stats)(inputs)
        return {name: x.argmax(-1).astype(jnp.int32) for name, x in logits.items()}

    size, parts = stage.options.batch_size, []
    for begin in range(0, len(next(iter(features.values()))), size):
        stage.notice.check()
        batch = {name: np.asarray(x[begin : begin + size]) for name, x in features.items()}
        parts.append(jax.device_get(predict(state, batch)))
    return {layer: np.concatenate([part[layer] for part in parts]) for layer in features}
