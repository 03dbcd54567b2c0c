"""Scores of an evaluation: rows, the predictions behind them, and intervals.

scores.json has the rows, and predictions.parquet the predicted class of every test image. So any
two rows on the same images can be compared image by image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kt_jax.runs import files, versions

SCORES = "scores.json"
PREDICTIONS = "predictions.parquet"
# For metrics that are no share of images: the values in resamples of the test images.
RESAMPLED = "resampled.parquet"
_DRAWS = 10_000


def bootstrap(values: Float[np.ndarray, " n"], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of values of n test images, by 10,000 resamples of images.

    For a paired interval, give the differences of two networks image by image (Efron & Tibshirani
    1993, chapter 13, percentiles).

    >>> low, high = bootstrap(np.repeat([0.0, 1.0], 50))
    >>> round(low, 1), round(high, 1)
    (0.4, 0.6)
    """
    # It counts how often each different value is drawn: there are few, even for many images.
    different, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), _DRAWS)
    means = drawn @ different / len(values)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def accuracy(
    predictions: Sequence[Int[np.ndarray, " n"]], labels: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """`value`, `n` and `interval` of a row, from one or several predictions of each image."""
    right = np.mean([each == labels for each in predictions], axis=0)
    return {"value": float(right.mean()), "n": len(labels), "interval": list(bootstrap(right))}


def write(
    directory: Path,
    rows: Sequence[Mapping[str, Any]],
    labels: Int[np.ndarray, " n"] | None,
    **others: Any,
) -> None:
    """Writes scores.json, with the commit of kt_jax, and predictions.parquet.

    Args:
      directory: the directory of the artifact.
      rows: each with `predictions`: int arrays [n] (none if the row is not about classes), which
        become columns. `columns` in scores.json has their names.
      labels: the true classes, for the column `label`; None if there are none.
      others: other entries of scores.json: leakage, unknown, skipped, ...
    """
    columns = {} if labels is None else {"label": np.asarray(labels, np.int32)}
    shown = []
    for number, row in enumerate(rows):
        named = {
            f"row{number}.{place}": np.asarray(each, np.int32)
            for place, each in enumerate(row["predictions"])
        }
        columns |= named
        kept = {name: value for name, value in row.items() if name != "predictions"}
        shown.append({**kept, "columns": list(named)})
    if columns:
        files.write_table(directory / PREDICTIONS, columns)
    files.write_json(
        directory / SCORES, {"rows": shown, **others, "commit": versions.find_commit()}
    )


def difference(
    directory: Path, row: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[float, tuple[float, float]]:
    """How much better `row` is than `other`; both are in the scores in `directory`.

    Returns:
      The difference of the accuracies (a share), and its 95 % interval, paired by test image.
    """
    table = files.read_table(directory / PREDICTIONS)

    def right(row: Mapping[str, Any]) -> np.ndarray:
        return np.mean([table[name] == table["label"] for name in row["columns"]], axis=0)

    differences = right(row) - right(other)
    return float(differences.mean()), bootstrap(differences)
