"""Whether a difference between two rows of a table holds, over test images and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kt_jax.evaluation import scores
from kt_jax.runs import files

_NORMAL = 1.96  # for a 95 % interval


@dataclass(frozen=True, eq=False)
class Cell:
    """One row in one column: a value for each seed, and the test images that were right."""

    values: tuple[float, ...]
    """Shares from 0 to 1."""
    right: Float[np.ndarray, "seeds n"] | None
    """By test image, the share of the draws that were right; None if it is not known."""
    resampled: Float[np.ndarray, "seeds r"] | None = None
    """For metrics that are no share of images: the values in resamples of the test images, the same
    resamples for all rows; None if they are not known."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds; 0 if there is one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def read_cell(found: Sequence[tuple[Path, dict[str, Any]]]) -> Cell:
    """The cell of rows of scores.json, one per seed, given with their directories."""
    right, resampled = [], []
    for directory, row in found:
        if "resampled" in row:
            resampled.append(files.read_table(directory / scores.RESAMPLED)[row["resampled"]])
        columns = row.get("columns", ())
        if not columns or not (directory / scores.PREDICTIONS).exists():
            continue
        table = files.read_table(directory / scores.PREDICTIONS)
        right.append(np.mean([table[name] == table["label"] for name in columns], axis=0))
    values = tuple(float(row["value"]) for _, row in found)
    return Cell(values, _stack(right, len(found)), _stack(resampled, len(found)))


def _stack(several: Sequence[np.ndarray], count: int) -> np.ndarray | None:
    """The rows as one array, if there are `count` rows of the same length; otherwise None."""
    alike = len(several) == count and len({len(each) for each in several}) == 1
    return np.stack(several) if alike else None


def interval(cell: Cell) -> tuple[float, float] | None:
    """The 95 % interval of a cell's mean, over images and seeds; None if it is not known."""
    if cell.right is None and cell.resampled is None:
        return None
    nothing = (None if x is None else np.zeros_like(x[:1]) for x in (cell.right, cell.resampled))
    return compare(cell, Cell((0.0,), *nothing)).interval


@dataclass(frozen=True)
class Finding:
    """The difference of two cells, and the verdict on a claim."""

    difference: float
    interval: tuple[float, float]
    """95 %."""
    verdict: str
    """"holds", "refuted" or "not resolved"."""


def compare(one: Cell, other: Cell, *, within: float = 0.0) -> Finding:
    """Tests whether `one` is larger than `other` or, with `within`, equal up to this margin.

    Seed s of one cell is compared with seed s of the other, image by image. A cell with one seed is
    compared with every seed of the other. The standard error of the mean difference is sqrt(v_i / n
    + v_s / S). v_i is the variance over the n test images of the difference averaged over seeds,
    v_s the variance over the S seeds of the difference averaged over images. With one seed only the
    images count. The interval is 1.96 standard errors to each side. For metrics that are no share
    of images, v_i / n is the variance of the mean difference over resamples of the images (the
    paired bootstrap).

    Args:
      one: a cell.
      other: a cell of the same test images.
      within: the margin, a share; 0 tests for a larger value.

    Raises:
      ValueError: the cells are of other images, or it is not known which images were right.
    """
    pairs = (one.right, other.right), (one.resampled, other.resampled)
    known = [
        (number, a, b)
        for number, (a, b) in enumerate(pairs)
        if a is not None and b is not None and a.shape[1] == b.shape[1]
    ]
    if not known:
        raise ValueError("cells of other test images, or without predictions, cannot be compared")
    number, a, b = known[0]
    counts = len(a), len(b)
    seeds = max(counts) if 1 in counts else min(counts)
    differences = a[:seeds] - b[:seeds]
    variance = differences.mean(0).var()
    if number == 0:  # variance of the mean over images; resamples are such means
        variance /= differences.shape[1]
    by_seed = np.array(one.values[:seeds]) - np.array(other.values[:seeds])
    if seeds > 1:
        variance += by_seed.var(ddof=1) / seeds
    difference = float(by_seed.mean())
    margin = _NORMAL * float(np.sqrt(variance))
    low, high = difference - margin, difference + margin
    if within:
        holds, refuted = -within < low and high < within, low > within or high < -within
    else:
        holds, refuted = low > 0, high < 0
    return Finding(
        difference, (low, high), "holds" if holds else "refuted" if refuted else "not resolved"
    )
