"""k nearest neighbours: a vote of the nearest training images; see `evaluation.neighbours`.

There is no training and no penalty.
"""

from typing import Any

from kt_jax.evaluation import neighbours, protocol
from kt_jax.evaluation.neighbours import Options as Options
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet; see `scores.write`."""
    return protocol.evaluate(stage, "knn", version=neighbours.VERSION, measure=neighbours.vote)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: as `protocol.plan`.
    """
    return protocol.plan(chosen, inputs, how="nearest neighbours")
