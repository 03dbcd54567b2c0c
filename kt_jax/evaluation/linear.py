"""Linear classifiers of frozen features: version 2, ridge regression in closed form.

Version 1, by stochastic gradient descent, is `linear_sgd`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kt_jax.evaluation import protocol, ridge, scores
from kt_jax.evaluation.subjects import Subject
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs.stage import Stage

VERSION = 2
# After this many rows the float32 sums of the devices are added to float64 sums on the host.
_ROWS_OF_A_SUM = 65_536
_SELECTION = (
    "a tenth of the training images, held out class by class, chose the penalty and the layer; "
    "the classifier was then fitted to all training images; no test image was used to choose"
)


@dataclass(frozen=True, kw_only=True)
class Options(protocol.Protocol):
    """Options of ridge regression to the classes, layer by layer."""

    test_views: int = 1
    """The number of views of a test image whose scores are added: 1, 2 or 10; see
    `views.fixed_views`. Training uses each image and its mirror image."""

    def __post_init__(self) -> None:
        """Refuses a number of views that does not exist."""
        super().__post_init__()
        try:
            views.fixed_views(self.test_views)
        except ValueError as error:
            raise ValueError(f"test_{error}") from None


def measure(stage: Stage, subject: Subject, seed: int) -> list[dict[str, Any]]:
    """A row for each layer. `chosen` marks the layer that the held-out images choose."""
    chosen: Options = stage.options
    train = stage.inputs.images["train_images"]
    labels, classes = protocol.labels_of(train), len(train.class_names)
    tested = protocol.labels_of(stage.inputs.images["test_images"])
    kept, held_out = protocol.hold_out(labels, seed)
    with stage.count(
        len(train) + len(held_out) + len(tested), "images seen", name=f"{subject.name}"
    ) as count:
        pair = views.fixed_views(2)
        sums = [
            sum_up(subject, rows, labels, classes, shown=pair, on_batch=count.add)
            for rows in (kept, held_out)
        ]
        fitted = {
            layer: dict(enumerate(ridge.fit(sums[0][layer], channels)))
            for layer, channels in subject.channels.items()
        }
        whole = views.fixed_views(1)
        guesses = predict(subject, "train", held_out, whole, fitted, on_batch=count.add)
        penalties, values = {}, {}
        for layer, found in guesses.items():
            right = {n: float((x == labels[held_out]).mean()) for n, x in found.items()}
            # The strongest of equally good penalties.
            penalties[layer] = max(right, key=lambda n: (right[n], n))
            values[layer] = right[penalties[layer]]
        final = {
            layer: {0: _fit_one(sums[0][layer] + sums[1][layer], channels, penalties[layer])}
            for layer, channels in subject.channels.items()
        }
        shown = views.fixed_views(chosen.test_views)
        answers = predict(subject, "test", range(len(tested)), shown, final, on_batch=count.add)
    best = protocol.choose_layer(values)
    seen = subject.describe_views(
        "training on the centre view and its mirror image, testing on "
        f"{views.describe_fixed(chosen.test_views)}"
    )
    return [
        {
            "layer": layer,
            "metric": "accuracy",
            **scores.accuracy([answers[layer][0]], tested),
            "predictions": [answers[layer][0]],
            "held_out": values[layer],
            "chosen": layer == best,
            "penalty": ridge.PENALTIES[penalties[layer]],
            "dims": len(final[layer][0].weights),
            "details": f"ridge regression on frozen features; {seen}",
            "selection": _SELECTION,
        }
        for layer in subject.layers
    ]


def _fit_one(moments: ridge.Moments, channels: int, penalty: int) -> ridge.Classifier:
    (found,) = ridge.fit(moments, channels, ridge.PENALTIES[penalty : penalty + 1])
    return found


def sum_up(
    subject: Subject,
    rows: Sequence[int],
    labels: np.ndarray,
    classes: int,
    *,
    shown: Sequence[views.View],
    on_batch: Any = lambda rows: None,
) -> dict[str, ridge.Moments]:
    """The moments of training images by layer. Each view of an image is a row."""
    targets = jnp.asarray(labels[np.asarray(rows)], jnp.int32)
    totals: dict[str, list[np.ndarray]] = {}
    state: dict[str, Any] = {}
    waiting = 0
    for batch, seen in subject.see("train", rows, shown):
        state = _add(state or None, seen, targets, batch["index"], batch["mask"], classes)
        waiting += len(seen) * len(batch["mask"])
        if waiting >= _ROWS_OF_A_SUM:
            _move(state, totals)
            state, waiting = {}, 0
        on_batch(int(partition.fetch(batch["mask"]).sum()))
    if state:
        _move(state, totals)
    return {layer: ridge.Moments(*total) for layer, total in totals.items()}


def _move(state: Mapping[str, Any], totals: dict[str, list[np.ndarray]]) -> None:
    for layer, sums in jax.device_get(state).items():
        if not all(np.isfinite(each).all() for each in sums):
            raise ValueError(f"layer {layer!r} has features that are not finite in float32")
        found = [each.astype(np.float64) for each in sums]
        before = totals.get(layer, [0.0] * 3)
        totals[layer] = [old + new for old, new in zip(before, found, strict=True)]


@jax.jit(static_argnums=5)
def _add(
    state: Any, seen: Any, targets: jax.Array, index: jax.Array, mask: jax.Array, classes: int
) -> dict[str, Any]:
    """Adds the rows of a batch to (counts, by_class, products) of each layer."""
    highest = jax.lax.Precision.HIGHEST
    one_hot = jax.nn.one_hot(targets[jnp.minimum(index, len(targets) - 1)], classes)
    one_hot = jnp.where(mask[:, None], one_hot, 0)
    found = {}
    for layer in seen[0]:
        found[layer] = state[layer] if state else (0.0, 0.0, 0.0)
        for view in seen:
            x = jnp.where(mask[:, None], view[layer], 0)
            by_class = jnp.matmul(x.T, one_hot, precision=highest)
            products = jnp.matmul(x.T, x, precision=highest)
            counts, sums, squares = found[layer]
            found[layer] = counts + one_hot.sum(0), sums + by_class, squares + products
    return found


def predict(
    subject: Subject,
    split: str,
    rows: Sequence[int],
    shown: Sequence[views.View],
    classifiers: Mapping[str, Mapping[int, ridge.Classifier]],
    *,
    on_batch: Any = lambda rows: None,
) -> dict[str, dict[int, np.ndarray]]:
    """The class of each image by layer and classifier, from the sum of the views' scores."""
    weights = {
        layer: (
            np.stack([each.weights for each in some.values()]).astype(np.float32),
            np.stack([each.bias for each in some.values()]).astype(np.float32),
        )
        for layer, some in classifiers.items()
    }
    on_devices = jax.device_put(weights)
    parts = []
    for batch, seen in subject.see(split, rows, shown):
        found, mask = partition.fetch((_classify(on_devices, seen), batch["mask"]))
        parts.append({layer: x[:, mask] for layer, x in found.items()})
        on_batch(int(mask.sum()))
    whole = {layer: np.concatenate([part[layer] for part in parts], 1) for layer in classifiers}
    return {
        layer: dict(zip(some, whole[layer], strict=True)) for layer, some in classifiers.items()
    }


@jax.jit
def _classify(weights: Any, seen: Any) -> dict[str, jax.Array]:
    """The classes [classifiers, b] by layer."""
    found = {}
    for layer, (kernels, biases) in weights.items():
        x = sum(view[layer] for view in seen) / len(seen)
        products = jnp.einsum("bd,ldk->lbk", x, kernels, precision=jax.lax.Precision.HIGHEST)
        found[layer] = (products + biases[:, None]).argmax(-1).astype(jnp.int32)
    return found
