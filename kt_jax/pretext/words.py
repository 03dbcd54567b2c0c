"""Words for each pretext task, for console and pages. No jax: light commands import this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """The words for a task's examples, and for solving them."""

    examples: str
    does: str
    done: str


WORDS = {
    "jigsaw": Words("puzzles", "solves", "solved"),
    "context": Words("neighbours", "locates", "located"),
    "rotation": Words("rotations", "recognises", "recognised"),
}


def words_of(results: Mapping[str, Any]) -> Words:
    """The words for a task, from results.json or the facts of a stage.

    Older versions had only puzzles, and wrote no name of a task.

    >>> words_of({"puzzle_accuracy": 0.5}).examples
    'puzzles'
    """
    return WORDS[results.get("task", "jigsaw")]
