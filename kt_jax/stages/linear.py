"""Linear classifiers of frozen features, layer by layer (paper, Table 4).

Closed form and deterministic: see `evaluation.linear`.
"""

from typing import Any

from kt_jax.evaluation import linear, protocol
from kt_jax.evaluation.linear import Options as Options
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet; see `scores.write`."""
    return protocol.evaluate(stage, "linear", version=linear.VERSION, measure=linear.measure)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: as `protocol.plan`.
    """
    return protocol.plan(chosen, inputs, how="ridge regression")
