"""Where is the second tile? The context task of Doersch, Gupta and Efros 2015, section 3.

An example shows the centre of a grid of 3 x 3 cells and one of its eight neighbours. The label is
the neighbour, 0..7 in reading order. Tiles are cut and coloured as in a puzzle: gaps, shifted
colour channels and projected colours prevent the shortcuts of their section 3.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, UInt8

from kt_jax.pretext import puzzles
from kt_jax.pretext.puzzles import PuzzleRules

NEIGHBOURS = (
    "above left", "above", "above right", "left", "right", "below left", "below", "below right"
)  # fmt: skip
_CENTRE = 4
# The cell of each label.
_CELLS = np.array([0, 1, 2, 3, 5, 6, 7, 8], np.int32)


def make_pairs(
    key: Key[Array, ""], images: UInt8[Array, "b s s c"], rules: PuzzleRules
) -> tuple[Float[Array, "b 2 t t c"], Int32[Array, " b"]]:
    """The centre tile and a neighbour in grey levels 0..255, and which neighbour it is, 0..7.

    Raises:
      ValueError: images are smaller than the crop, or tiles exceed their cells.
    """
    squares = puzzles.central_squares(images, rules)

    def draw(key: Array, square: Array) -> tuple[Array, ...]:
        place, mirror, tiles, label, colour = jax.random.split(key, 5)
        image = puzzles.cut_crop(place, mirror, square, rules)
        neighbour = jax.random.randint(label, (), 0, len(NEIGHBOURS))
        shown = jnp.stack([jnp.int32(_CENTRE), jnp.asarray(_CELLS)[neighbour]])
        return puzzles.cut_tiles(tiles, image, rules)[shown], neighbour, jax.random.uniform(colour)

    keys = puzzles.example_keys(key, images.shape[0])
    tiles, label, colour = jax.vmap(draw)(keys, squares)
    return puzzles.mix_colours(tiles, colour, rules), label
