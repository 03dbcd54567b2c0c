"""The one training loop: every stage that learns is a classifier."""

from kt_jax.training.loop import fit
from kt_jax.training.state import (
    MakeModel,
    TrainState,
    bind,
    init_state,
    init_variables,
    structure,
)
from kt_jax.training.step import (
    Batch,
    LossFn,
    MakeExamples,
    compute_dtype,
    cross_entropy,
    make_step,
)

__all__ = [
    "Batch",
    "LossFn",
    "MakeExamples",
    "MakeModel",
    "TrainState",
    "bind",
    "compute_dtype",
    "cross_entropy",
    "fit",
    "init_state",
    "init_variables",
    "make_step",
    "structure",
]
