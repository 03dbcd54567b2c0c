"""The recommended network and its lead over the baselines, or that none is worth it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.evaluation import scores

TRAINED = ("network", "given")


@dataclass(frozen=True)
class Standing:
    """One subject under one protocol, as means over the seeds."""

    subject: str
    role: str
    layer: str
    """The layer that held-out training images chose, if the protocol chooses one; otherwise ""."""
    value: float
    """A share of the test images, from 0 to 1. Without a chosen layer it is of the first layer."""
    held_out: float | None
    """The share of the held-out training images."""
    interval: tuple[float, float]
    """The 95 % interval; NaN if the rows have none."""
    by_layer: Mapping[str, float]
    columns: tuple[str, ...]
    """The columns of predictions.parquet for the chosen layer."""
    metric: str
    """"accuracy", or another mean of shares over the test images."""


def read_standings(rows: Sequence[Mapping[str, Any]]) -> list[Standing]:
    """The subjects of rows of scores.json with the same protocol, in their order.

    If seeds choose different layers, the layer that most seeds chose counts.
    """
    return [_read(list(some)) for some in _group(rows, "subject").values()]


def _read(rows: Sequence[Mapping[str, Any]]) -> Standing:
    by_layer = {
        layer: float(np.mean([row["value"] for row in some]))
        for layer, some in _group(rows, "layer").items()
    }
    chosen = [row["layer"] for row in rows if row.get("chosen")]
    layer = max(dict.fromkeys(chosen), key=chosen.count) if chosen else ""
    counted = [row for row in rows if row["layer"] == (layer or rows[0]["layer"])]
    held_out = [row["held_out"] for row in counted if "held_out" in row]
    # scores of older versions have none
    ends = np.array([row.get("interval", (np.nan, np.nan)) for row in counted])
    low, high = ends.mean(0).tolist()
    return Standing(
        rows[0]["subject"],
        rows[0].get("role", "network"),
        layer,
        by_layer[counted[0]["layer"]],
        float(np.mean(held_out)) if held_out else None,
        (low, high),
        by_layer,
        tuple(name for row in counted for name in row.get("columns", ())),
        rows[0].get("metric", "accuracy"),
    )


def _group(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


@dataclass(frozen=True)
class Verdict:
    """The best trained network compared with the best baseline without training."""

    best: Standing
    baseline: Standing
    difference: float
    """The difference of their accuracies, as a share."""
    interval: tuple[float, float]
    """95 %, paired by test image."""
    sentence: str

    @property
    def worth_it(self) -> bool:
        """Whether the network is better, with the whole interval above 0."""
        return self.interval[0] > 0


def judge(directory: Path, standings: Sequence[Standing], n: int) -> Verdict | None:
    """Compares networks and given features with random networks, pixels and HOG.

    Held-out training images choose the network. The baseline is the best one on the test images:
    this choice can only make the network's lead smaller.

    Args:
      directory: the directory of the scores.
      standings: those of one protocol that uses held-out images.
      n: the number of test images.

    Returns:
      None if there is no network, or nothing to compare it with.
    """
    trained = [each for each in standings if each.role in TRAINED and each.held_out is not None]
    others = [each for each in standings if each.role not in TRAINED and each.held_out is not None]
    if not trained or not others:
        return None
    best = max(trained, key=lambda x: x.held_out or 0.0)
    baseline = max(others, key=lambda x: x.value)
    value, interval = scores.difference(
        directory, {"columns": best.columns}, {"columns": baseline.columns}
    )
    gap = f"{100 * abs(value):.1f} points {'more' if value > 0 else 'less'} than {_name(baseline)}"
    between = f"95 % interval {_points(interval[0])} to {_points(interval[1])}"
    right = f"{100 * best.value:.1f} % of {n:,} test images right"
    if best.metric != "accuracy":
        right = f"{best.metric} {100 * best.value:.1f} % on {n:,} test images"
    if interval[0] > 0:
        start = f"Take home {_name(best)}"
    elif interval[1] < 0:
        start = f"Not worth it: {_name(best)}, the best network here,"
    else:
        start = f"Not worth it yet: {_name(best)} cannot be told from {_name(baseline)}"
        gap = f"{_points(value)} points"
    verb = "" if interval[0] > 0 or interval[1] >= 0 else " has"
    joint = ":" if interval[0] > 0 or interval[1] >= 0 else ""
    sentence = f"{start}{joint}{verb} {right}, {gap} ({between})."
    return Verdict(best, baseline, value, interval, sentence)


def compare_networks(
    directory: Path, verdict: Verdict, standings: Sequence[Standing]
) -> Iterator[str]:
    """A line for each other trained network: how far it is below the best."""
    for each in standings:
        if each.role not in TRAINED or each.held_out is None or each == verdict.best:
            continue
        value, (low, high) = scores.difference(
            directory, {"columns": verdict.best.columns}, {"columns": each.columns}
        )
        right = f"{100 * each.value:.1f} % right"
        if each.metric != "accuracy":
            right = f"{each.metric} {100 * each.value:.1f} %"
        yield (
            f"{_name(each)} has {right}: {_points(-value)} points "
            f"(95 % interval {_points(-high)} to {_points(-low)})."
        )


def _name(standing: Standing) -> str:
    names = {"hog_colour": "HOG with colours", "pixels": "the pixels"}
    name = names.get(standing.subject, standing.subject)
    shown = standing.layer and standing.role != "baseline"
    return f"{name} ({standing.layer})" if shown else name


def _points(share: float) -> str:
    """A difference in percentage points. Zero has no minus sign.

    >>> _points(-0.0001)
    '+0.0'
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}"
