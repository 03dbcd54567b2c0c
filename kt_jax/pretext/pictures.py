"""Puzzles as pictures, for people."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt8

from kt_jax.pretext import puzzles

_SIDE = 192  # px of a puzzle, at least: small tiles are enlarged
_GAP = 24  # white px between puzzles


def draw_puzzles(
    key: PRNGKeyArray,
    images: UInt8[np.ndarray, "n s s 3"],
    permutations: UInt8[np.ndarray, "p tiles"],
    rules: puzzles.PuzzleRules,
) -> UInt8[np.ndarray, "h w 3"]:
    """A row of puzzles, as a network sees them: tiles in their shuffled order, with occluders.

    `images` are a multiple of GROUP.
    """
    make_puzzles = jax.jit(puzzles.make_puzzles, static_argnames="rules")
    arrays: tuple[Array, ...] = jnp.asarray(images), jnp.asarray(permutations)
    tiles = jax.device_get(make_puzzles(key, *arrays, rules=rules).tiles)
    times = -(-_SIDE // (puzzles.GRID * rules.tile))
    tiles = tiles.repeat(times, axis=2).repeat(times, axis=3)
    drawn = [puzzles.draw_puzzle(each, gap=tiles.shape[2] // 12) for each in tiles]
    margin = np.full((len(drawn[0]), _GAP, 3), 255, np.uint8)
    parts = [part for each in drawn for part in (each, margin)]
    return np.concatenate(parts[:-1], axis=1)
