"""Losses of what is learned besides one label an image; see `training.cross_entropy`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kt_jax.training.step import LossFn


def over_crops(loss_fn: LossFn) -> LossFn:
    """A loss of logits [b, crops, classes]: the mean over all crops, each with its image's labels.

    `loss_fn` takes logits [b, classes], and labels [b, ...] in any tree.
    """

    def loss_of_crops(outputs: Mapping[str, Array], labels: Any) -> tuple[Array, dict[str, Array]]:
        logits = outputs["logits"]
        rows, crops = logits.shape[:2]

        # Not jnp.repeat: this stays on the device that has the row.
        def repeat(x: Array) -> Array:
            wide = jnp.broadcast_to(x[:, None], (rows, crops, *x.shape[1:]))
            return wide.reshape(-1, *x.shape[1:])

        flat = logits.reshape(rows * crops, -1)
        return loss_fn({"logits": flat}, jax.tree.map(repeat, labels))

    return loss_of_crops
