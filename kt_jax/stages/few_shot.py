"""The accuracy of frozen features with few labels; see `evaluation.few_shot`."""

from typing import Any

from kt_jax.evaluation import few_shot, protocol
from kt_jax.evaluation.few_shot import Options as Options
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet; see `scores.write`."""
    return protocol.evaluate(stage, "few_shot", version=few_shot.VERSION, measure=few_shot.measure)


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: as `protocol.plan`.
    """
    return protocol.plan(chosen, inputs, how="few labels")
