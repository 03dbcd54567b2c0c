"""How far was the picture turned? The rotation task of Gidaris, Singh and Komodakis 2018.

The whole crop is one picture, turned by label x 90 degrees counter-clockwise. Gidaris et al. show
each image in all four rotations (section 3.1). Here a step shows each image in one random rotation.
Colours do not change.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from kt_jax.pretext import puzzles
from kt_jax.pretext.puzzles import PuzzleRules

ROTATIONS = ("upright", "90 degrees to the left", "upside down", "90 degrees to the right")


def rotate(
    key: Key[Array, ""], images: UInt8[Array, "b s s c"], rules: PuzzleRules
) -> tuple[Float[Array, "b 1 crop crop c"], Int32[Array, " b"]]:
    """The turned crop in grey levels 0..255, and the number of right angles, 0..3.

    Raises:
      ValueError: images are smaller than the crop.
    """
    squares = puzzles.central_squares(images, rules)

    def draw(key: Array, square: Array) -> tuple[Array, Array]:
        place, mirror, label = jax.random.split(key, 3)
        image = puzzles.cut_crop(place, mirror, square, rules)
        angle = jax.random.randint(label, (), 0, len(ROTATIONS))
        turned = jnp.stack([jnp.rot90(image, times) for times in range(len(ROTATIONS))])
        return turned[angle], angle

    turned, label = jax.vmap(draw)(puzzles.example_keys(key, images.shape[0]), squares)
    return turned[:, None].astype(jnp.float32), label
