"""The one training loop, for all stages that learn."""

from kt_jax.training.loop import fit
from kt_jax.training.state import (
    AveragedState,
    MakeModel,
    TrainState,
    bind,
    init_state,
    init_variables,
    learned,
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
    "AveragedState",
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
    "learned",
    "make_step",
    "structure",
]
