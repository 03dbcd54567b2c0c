"""Fine-tuning: all layers of a network learn true labels, from its weights on.

The oldest way to use a pretext task's network (paper, Table 3, "Jigsaw++"), without clusters.
"""

from dataclasses import dataclass
from typing import Any

from kt_jax.evaluation import transfer_classes
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options(transfer_classes.Protocol):
    """Fine-tuning on images of one class each, from any weights."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet (the class of each test image).

    The head is new, the backbone's weights are the network's. Batch norms learn and keep their
    averages as in any training. An interrupted run resumes within the training that it was at.
    """
    return transfer_classes.run(stage, "fine_tune", _VERSION, _layers)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for images without one class each, a test set of other classes, images that are
        too small, or options of an architecture that the weights do not fit.
    """
    return transfer_classes.plan(chosen, inputs, _layers)


def _layers(_: artifacts.Backbone) -> tuple[str, ...]:
    """None is frozen."""
    return ("",)
