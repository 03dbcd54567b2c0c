"""Fine-tuning: all layers of a network learn true labels, starting from its weights.

It is the usual way to use a network of a pretext task without clusters (paper, Table 3,
"Jigsaw++").
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
    """Options of fine-tuning on images with one class each."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet (the class of each test image).

    The head is new; the backbone starts from the network's weights. Batch norms learn, and update
    their averages as in any training. An interrupted run resumes in the training that was
    interrupted.
    """
    return transfer_classes.run(stage, "fine_tune", _VERSION, _layers)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: images do not have one class each, the test set has other classes, images are too
        small, or the weights do not fit an option of the architecture.
    """
    return transfer_classes.plan(chosen, inputs, _layers)


def _layers(_: artifacts.Backbone) -> tuple[str, ...]:
    """No layer is frozen."""
    return ("",)
