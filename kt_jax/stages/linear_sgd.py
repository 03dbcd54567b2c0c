"""Linear classifiers by the paper's schedule (Table 4), for ImageNet; otherwise use `linear`."""

from typing import Any

from kt_jax.evaluation import linear_sgd, protocol, subjects
from kt_jax.evaluation.linear_sgd import Options as Options
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json and predictions.parquet; see `scores.write`."""
    return protocol.evaluate(
        stage, "linear_sgd", version=linear_sgd.VERSION, measure=linear_sgd.measure
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: as `protocol.plan`.
    """
    planned = protocol.plan(chosen, inputs, how=f"{chosen.epochs} epochs")
    assert isinstance(planned.about, artifacts.Scores)
    if planned.about.skipped:
        return planned
    widths = [
        sum(subjects.widths(each.about, size=chosen.size, max_dims=chosen.max_dims).values())
        for each in inputs.artifacts["backbones"]
    ]
    seen, tested = (len(inputs.images[option]) for option in ("train_images", "test_images"))
    scratch = 2 * (2 * seen + tested) * max(widths, default=chosen.max_dims)
    lines = (*planned.lines, f"scratch files up to {scratch / 1e9:,.1f} GB")
    return Plan(planned.about, lines, warnings=planned.warnings, disk=lambda: scratch)
