"""Non-linear probes: layers up to one are frozen, the rest learn true labels from random weights.

This is the paper's Table 6 (after Noroozi & Favaro 2016, Table 2). It shows up to which layer a
network is general: the accuracy falls from layer to layer as the upper layers specialise in the
pretext task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kt_jax.evaluation import transfer_classes
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options(transfer_classes.Protocol):
    """Options of non-linear probes."""

    layers: tuple[str, ...] = ()
    """The layers up to which a network is frozen, one training for each. The default is the layers
    that a linear probe would use. "fc6" and "fc7" are hidden layers that the network itself was
    trained with, as students may be (Table 6 has them for students only)."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet (the class of each test image).

    Everything that the layer's activation depends on is frozen: parameters do not change by a bit,
    and batch norms use their running averages. An interrupted run resumes in the training that was
    interrupted.

    Raises:
      ValueError: a network was not trained with the fully connected layer.
    """
    return transfer_classes.run(stage, "nonlinear", _VERSION, _layers_of(stage.options))


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: images do not have one class each, the test set has other classes, images are too
        small, a network has no such layer, or the weights do not fit an option of the architecture.
    """
    return transfer_classes.plan(chosen, inputs, _layers_of(chosen))


def _layers_of(chosen: Options) -> Any:
    def layers(about: artifacts.Backbone) -> Sequence[str]:
        return chosen.layers or about.probe_layers

    return layers
