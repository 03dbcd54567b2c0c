"""A network that learns several pretext tasks at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.heads import Backbone, Solver, activation_shapes


@dataclass(frozen=True, kw_only=True)
class Question:
    """The input and output of one of several pretext tasks."""

    pictures: int
    """The number of pictures in an example."""
    size: int
    """The side of the pictures in px."""
    classes: int


class JointNet(nnx.Module):
    """One backbone for several pretext tasks, with a head as JigsawNet's for each."""

    def __init__(
        self,
        backbone: Backbone,
        questions: Mapping[str, Question],
        *,
        fc6: int = 1024,
        fc7: int = 4096,
        dropout: float = 0.5,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.backbone = backbone
        self.heads = nnx.Dict(
            {
                name: Solver(
                    math.prod(list(activation_shapes(backbone, asked.size).values())[-1]),
                    classes=asked.classes,
                    pictures=asked.pictures,
                    fc6=fc6,
                    fc7=fc7,
                    dropout=dropout,
                    batch_norm=batch_norm,
                    rngs=rngs,
                )
                for name, asked in questions.items()
            }
        )

    def __call__(
        self, pictures: Mapping[str, Float[Array, "b _ _ _ 3"]], key: Key[Array, ""] | None = None
    ) -> dict[str, dict[str, Float[Array, "..."]]]:
        """The outputs of JigsawNet for each task whose pictures are given.

        Each task is a forward pass, so batch norms normalise its pictures separately. Running
        averages are over all tasks.
        """
        return {
            name: self.heads[name].solve(
                self.backbone, shown, None if key is None else jax.random.fold_in(key, number)
            )
            for number, (name, shown) in enumerate(pictures.items())
        }
