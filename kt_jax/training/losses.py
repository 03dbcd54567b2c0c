"""Losses for other targets than one label per image; see also `training.cross_entropy`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kt_jax.training.step import LossFn


def over_crops(loss_fn: LossFn) -> LossFn:
    """A loss of logits [b, crops, classes]: the mean over all crops, each with its image's labels.

    `loss_fn` takes logits [b, classes], and labels [b, ...] in any tree.
    """

    def loss_of_crops(outputs: Mapping[str, Array], labels: Any) -> tuple[Array, dict[str, Array]]:
        logits = outputs["logits"]
        rows, crops = logits.shape[:2]

        # Unlike jnp.repeat, this stays on the device that has the row.
        def repeat(x: Array) -> Array:
            wide = jnp.broadcast_to(x[:, None], (rows, crops, *x.shape[1:]))
            return wide.reshape(-1, *x.shape[1:])

        flat = logits.reshape(rows * crops, -1)
        return loss_fn({"logits": flat}, jax.tree.map(repeat, labels))

    return loss_of_crops


def soft_cross_entropy(
    outputs: Mapping[str, Array], labels: Float[Array, "b k"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The cross entropy of `logits` with class shares that sum to 1, and its metrics.

    The accuracy is how often the largest logit is that of the largest share.
    """
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy(logits, labels).mean()
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels.argmax(-1)).mean()}


def cosine_distance(
    outputs: Mapping[str, Array], labels: Float[Array, "b d"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean of 1 - cos(logits, label) for labels of length 1, from 0 to 2.

    A label of zeros has no direction: its loss is 1.
    """
    logits = outputs["logits"]
    squares = jnp.square(logits).sum(-1)
    cosines = (logits * labels).sum(-1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    loss = 1 - cosines.mean()
    return loss, {"loss": loss}
