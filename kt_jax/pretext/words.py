"""What the console and the pages say of each pretext task. No jax: light commands read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """A task's examples, and what a network does with them."""

    examples: str
    does: str
    done: str


WORDS = {
    "jigsaw": Words("puzzles", "solves", "solved"),
    "context": Words("neighbours", "locates", "located"),
    "rotation": Words("rotations", "tells", "told"),
}


def words_of(results: Mapping[str, Any]) -> Words:
    """The words for what results.json or the facts of a stage tell.

    Versions that knew no task but puzzles named none.

    >>> words_of({"puzzle_accuracy": 0.5}).examples
    'puzzles'
    """
    return WORDS[results.get("task", "jigsaw")]
