"""The pretext tasks by name: examples and labels, made from a batch of images on the device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from kt_jax.pretext import context, puzzles, rotation
from kt_jax.pretext.permutations import TILES
from kt_jax.pretext.puzzles import PuzzleRules


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """Pictures in grey levels 0..255 (not yet standardised), labels, and the foreign pictures.

    The fields are typed loosely because JAX also fills them with shapes and shardings.
    """

    pictures: Any  # float32 [b, p, t, t, c]
    label: Any  # int32 [b]
    occluded: Any  # bool [b, p]: tiles of another image


Make = Callable[[Array, Array, PuzzleRules, Array | None], Examples]


@dataclass(frozen=True)
class Task:
    """The properties of a pretext task."""

    make: Make
    pictures: int
    """The number of pictures in an example."""
    follows: frozenset[str]
    """The fields of `PuzzleRules` that apply to the task."""
    labels: tuple[str, ...] = ()
    """What each label means; empty if labels are permutations."""
    group: int = 1
    """The number of consecutive examples in a batch that are mixed with each other."""

    @property
    def has_permutations(self) -> bool:
        """Whether labels are numbers of permutations."""
        return not self.labels

    @property
    def has_tiles(self) -> bool:
        """Whether pictures are tiles, rather than the whole crop."""
        return "tile" in self.follows

    def size(self, rules: PuzzleRules) -> int:
        """The side of a picture, in px."""
        return rules.tile if self.has_tiles else rules.crop


def _make_puzzles(
    key: Array, images: Array, rules: PuzzleRules, permutations: Array | None
) -> Examples:
    if permutations is None:
        raise ValueError("puzzles need permutations.")
    made = puzzles.make_puzzles(key, images, permutations, rules)
    return Examples(made.tiles, made.label, made.occluded)


def _make_pairs(
    key: Array, images: Array, rules: PuzzleRules, permutations: Array | None
) -> Examples:
    del permutations
    return _whole(*context.make_pairs(key, images, rules))


def _rotate(key: Array, images: Array, rules: PuzzleRules, permutations: Array | None) -> Examples:
    del permutations
    return _whole(*rotation.rotate(key, images, rules))


def _whole(pictures: Array, label: Array) -> Examples:
    """Examples without foreign tiles."""
    return Examples(pictures, label, jnp.zeros(pictures.shape[:2], bool))


_VIEW = frozenset({"crop", "pre_crop", "mirror"})
_CUT = frozenset({"tile", "jitter", "channel_shift", "grey", "projected", "normalise"})

TASKS: dict[str, Task] = {
    "jigsaw": Task(
        make=_make_puzzles,
        pictures=TILES,
        follows=_VIEW | _CUT | {"max_occluders"},
        group=puzzles.GROUP,
    ),
    "context": Task(make=_make_pairs, pictures=2, follows=_VIEW | _CUT, labels=context.NEIGHBOURS),
    "rotation": Task(make=_rotate, pictures=1, follows=_VIEW, labels=rotation.ROTATIONS),
}


def make_examples(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    permutations: UInt8[Array, "permutations tiles"] | None,
    *,
    task: str,
    rules: PuzzleRules,
) -> Examples:
    """One example per image, from the key, the images and their positions in the batch.

    `permutations` is the set for puzzles, and None for other tasks.

    Raises:
      ValueError: as `make_puzzles`, `make_pairs` and `rotate`.
    """
    return TASKS[task].make(key, images, rules, permutations)


@dataclass(frozen=True)
class Asked:
    """The tasks that one network learns, by name."""

    parts: Mapping[str, Task]

    @property
    def is_joint(self) -> bool:
        """Whether there are several tasks."""
        return len(self.parts) > 1

    @property
    def follows(self) -> frozenset[str]:
        """The fields of `PuzzleRules` that apply to any of the tasks."""
        return frozenset().union(*(task.follows for task in self.parts.values()))

    @property
    def group(self) -> int:
        """The number of consecutive examples that any of the tasks mixes with each other."""
        return max(task.group for task in self.parts.values())

    @property
    def has_permutations(self) -> bool:
        """Whether one of the tasks is puzzles."""
        return any(task.has_permutations for task in self.parts.values())

    @property
    def has_tiles(self) -> bool:
        """Whether one of the tasks shows tiles."""
        return any(task.has_tiles for task in self.parts.values())

    def size(self, rules: PuzzleRules) -> int:
        """The side of the smallest pictures, in px. The network is built for them."""
        return min(task.size(rules) for task in self.parts.values())


def ask(text: str) -> Asked:
    """The tasks of "NAME", or of "NAME+NAME", which one network learns together.

    Raises:
      ValueError: a task is unknown, or named twice.

    >>> ask("jigsaw+rotation").group
    8
    """
    names = text.split("+")
    if not set(names) <= TASKS.keys() or len(set(names)) < len(names):
        raise ValueError(
            f"task = {text!r}: choose from {', '.join(TASKS)}, or several of them: jigsaw+rotation"
        )
    return Asked({name: TASKS[name] for name in names})
