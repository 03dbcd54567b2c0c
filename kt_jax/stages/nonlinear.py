"""Non-linear probes: frozen up to a layer, all that follows learns true labels from new weights.

The paper's Table 6 (after Noroozi & Favaro 2016, Table 2). It says up to which layer a network is
general: the fall from layer to layer is what its upper layers have lost to the pretext task.
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
    """Training of what follows a frozen layer."""

    layers: tuple[str, ...] = ()
    """Up to which a network is frozen, a training each; by default the layers that one would
    probe. "fc6" and "fc7" are hidden layers that the network itself was learned with, as students
    may be (Table 6 has them for students alone)."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet (the class of each test image).

    Frozen is whatever the layer's activation depends on: parameters stay to the bit, batch norms
    use their running averages. An interrupted run resumes within the training that it was at.

    Raises:
      ValueError: a fully connected layer that a network was not learned with.
    """
    return transfer_classes.run(stage, "nonlinear", _VERSION, _layers_of(stage.options))


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for images without one class each, a test set of other classes, images that are
        too small, layers that a network does not have, or options of an architecture that the
        weights do not fit.
    """
    return transfer_classes.plan(chosen, inputs, _layers_of(chosen))


def _layers_of(chosen: Options) -> Any:
    def layers(about: artifacts.Backbone) -> Sequence[str]:
        return chosen.layers or about.probe_layers

    return layers
