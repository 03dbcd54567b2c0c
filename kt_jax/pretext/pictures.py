"""Examples of a pretext task as pictures, for people."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from kt_jax.pretext import tasks
from kt_jax.pretext.puzzles import PuzzleRules

_SIDE = 192  # px of an example, at least: small tiles are enlarged
_GAP = 24  # white px between examples


def draw_row(
    key: PRNGKeyArray,
    images: UInt8[np.ndarray, "n s s 3"],
    permutations: UInt8[np.ndarray, "permutations tiles"] | None,
    *,
    task: str,
    rules: PuzzleRules,
) -> UInt8[np.ndarray, "h w 3"]:
    """A row of examples as a network sees them. The tiles of puzzles are shuffled.

    The number of `images` is a multiple of the task's group.
    """
    make = jax.jit(tasks.make_examples, static_argnames=("task", "rules"))
    arrays: tuple[Array | None, ...] = (
        jnp.asarray(images),
        None if permutations is None else jnp.asarray(permutations),
    )
    pictures = jax.device_get(make(key, *arrays, task=task, rules=rules).pictures)
    columns = count_columns(len(pictures[0]))
    times = -(-_SIDE // (columns * pictures.shape[2]))
    drawn = [draw_example(each, times=times) for each in pictures]
    margin = np.full((len(drawn[0]), _GAP, 3), 255, np.uint8)
    parts = [part for each in drawn for part in (each, margin)]
    return np.concatenate(parts[:-1], axis=1)


def draw_example(
    pictures: Float[np.ndarray, "p t t c"], *, times: int
) -> UInt8[np.ndarray, "h w c"]:
    """The pictures of an example in reading order with white gaps, enlarged `times` times.

    Nine pictures have three rows, two are side by side.
    """
    columns = count_columns(len(pictures))
    pictures = pictures.repeat(times, axis=1).repeat(times, axis=2)
    size, gap = pictures.shape[1], find_gap(pictures.shape[1])
    shape = [n * size + (n - 1) * gap for n in (-(-len(pictures) // columns), columns)]
    canvas = np.full((*shape, pictures.shape[-1]), 255, np.uint8)
    for slot, picture in enumerate(pictures):
        top, left = (size + gap) * (slot // columns), (size + gap) * (slot % columns)
        canvas[top : top + size, left : left + size] = np.clip(picture, 0, 255).astype(np.uint8)
    return canvas


def find_gap(size: int) -> int:
    """The width of the white gap between drawn pictures of `size` px, in px."""
    return size // 12


def count_columns(pictures: int) -> int:
    """The number of pictures of an example in a row."""
    return math.ceil(math.sqrt(pictures))
