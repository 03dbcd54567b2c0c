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
    right = []
    for directory, row in found:
        columns = row.get("columns", ())
        if not columns or not (directory / scores.PREDICTIONS).exists():
            continue
        table = files.read_table(directory / scores.PREDICTIONS)
        right.append(np.mean([table[name] == table["label"] for name in columns], axis=0))
    values = tuple(float(row["value"]) for _, row in found)
    alike = len(right) == len(found) and len({len(each) for each in right}) == 1
    return Cell(values, np.stack(right) if alike else None)


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
    interval is 1.96 standard errors to each side.

    Args:
      one: a cell.
      other: a cell of the same test images.
      within: a share; 0 asks for a larger value.

    Raises:
      ValueError: the cells are of other images, or it is not known which images were right.
    """
    if one.right is None or other.right is None or one.right.shape[1] != other.right.shape[1]:
        raise ValueError("cells of other test images, or without predictions, cannot be compared")
    counts = len(one.right), len(other.right)
    seeds = max(counts) if 1 in counts else min(counts)
    by_image = one.right[:seeds] - other.right[:seeds]
    variance = by_image.mean(0).var() / by_image.shape[1]
    if seeds > 1:
        variance += by_image.mean(1).var(ddof=1) / seeds
    difference = float(by_image.mean())
    margin = _NORMAL * float(np.sqrt(variance))
    low, high = difference - margin, difference + margin
    if within:
        holds, refuted = -within < low and high < within, low > within or high < -within
    else:
        holds, refuted = low > 0, high < 0
    return Finding(
        difference, (low, high), "holds" if holds else "refuted" if refuted else "not resolved"
    )
