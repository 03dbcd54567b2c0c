"""Whether a difference between two rows of a table holds: over test images and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kt_jax.evaluation import scores
from kt_jax.runs import files

_NORMAL = 1.96  # of a 95 % interval


@dataclass(frozen=True, eq=False)
class Cell:
    """What one row has in one column: a figure for each seed, and which images were right."""

    values: tuple[float, ...]
    """Shares from 0 to 1."""
    right: Float[np.ndarray, "seeds n"] | None
    """By test image, the share of the draws that were right; None where that is not known."""
    resampled: Float[np.ndarray, "seeds r"] | None = None
    """Of figures that are no share of images: their values in resamples of the test images, the
    same resamples for all rows; None where that is not known."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds; 0 of one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def read_cell(found: Sequence[tuple[Path, dict[str, Any]]]) -> Cell:
    """The cell of rows of scores.json, a seed each, with the directories that they lie in."""
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
    """Rows of the same length, if there are as many as wanted."""
    alike = len(several) == count and len({len(each) for each in several}) == 1
    return np.stack(several) if alike else None


def interval(cell: Cell) -> tuple[float, float] | None:
    """The 95 % interval of a cell's mean, over images and seeds; None where it is not known."""
    if cell.right is None and cell.resampled is None:
        return None
    nothing = (None if x is None else np.zeros_like(x[:1]) for x in (cell.right, cell.resampled))
    return compare(cell, Cell((0.0,), *nothing)).interval


@dataclass(frozen=True)
class Finding:
    """A difference of two cells and what it says of a claim."""

    difference: float
    interval: tuple[float, float]
    """95 %."""
    verdict: str
    """"holds", "refuted" or "not resolved"."""


def compare(one: Cell, other: Cell, *, within: float = 0.0) -> Finding:
    """Whether `one` is larger than `other`; or, with `within`, as large up to so much.

    Seed s of one is compared with seed s of the other, image by image; a cell of one seed with
    every seed of the other. The standard error of the mean difference is sqrt(v_i / n + v_s / S).
    v_i is the variance over the n test images of the difference averaged over seeds, v_s that over
    the S seeds of the difference averaged over images. Of one seed only the images count. The
    interval is 1.96 standard errors to each side. Of figures that are no share of images, v_i / n
    is the variance of the mean difference over resamples of the images (the paired bootstrap).

    Args:
      one: a cell.
      other: a cell of the same test images.
      within: a share; 0 asks for a larger value.

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
    if number == 0:  # of the mean over images; resamples are such means
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
