"""Jigsaw++ puzzles on the device: a batch of uint8 images in, nine tiles and a label each out.

Without occluders they are those of Noroozi and Favaro 2016, Jigsaw.

Numbers and order of operations: paper, section on Jigsaw++, and the authors' released code
(cut with jitter and channel shift, colour, permute, merge occluders, normalise).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from kt_jax.pretext.permutations import TILES

GRID = 3
# Occluders come from within groups of this many consecutive examples of the global batch, so
# that the puzzles do not depend on how the batch is spread over devices.
GROUP = 8
# Projects away the green-magenta axis along which chromatic aberration shows (Doersch et al.).
_AXIS = np.array([-1.0, 2.0, -1.0], np.float32)
_PROJECTION = np.eye(3, dtype=np.float32) - np.outer(_AXIS, _AXIS) / 6.0


@dataclass(frozen=True, kw_only=True)
class PuzzleRules:
    """How puzzles are made; lengths in pixels. The defaults are the paper's, at short side 256.

    crop: the square that is cut into 3 x 3 cells, in the centre of the image.
    pre_crop: the square moves by a random 0..pre_crop px down and to the right, one draw an image,
      so that cells do not begin at fixed multiples of JPEG's blocks of 8 px. The paper has none.
      We measured that the phase of the blocks alone places a tile among the nine cells with
      14.0 % (chance 11.1 %); 7 takes that away. The images must have crop + pre_crop px.
    tile: the side of the tile within its cell.
    jitter: a tile's offset within its cell is uniform on 0..jitter, both ways.
    channel_shift: each colour channel of each tile moves by a further 0..channel_shift.
    grey: the probability that the whole puzzle, occluders included, is grey.
    projected: the probability that its colours lose the green-magenta axis instead
      (authors' code: grey .5, projected .25).
    max_occluders: 0..max_occluders tiles, uniformly, come from one other image.
    mirror: whether half of the images are mirrored first (the paper's are not).
    normalise: "tile" standardises every tile by itself; "image" takes one mean and one deviation
      for all tiles of an example, a shortcut that VISSL's standardisation of whole images leaves
      open. Without normalisation of tiles Noroozi and Favaro (2016, Table 5) solved 90 instead of
      88 % of their puzzles, and lost 9 mAP of detection.
    """

    crop: int = 255
    tile: int = 64
    jitter: int = 18
    channel_shift: int = 2
    grey: float = 0.7
    projected: float = 0.0
    max_occluders: int = 2
    mirror: bool = False
    pre_crop: int = 0
    normalise: str = "tile"

    def __post_init__(self) -> None:
        """Refuses rules that no example can follow."""
        if self.crop < 1:
            raise ValueError(f"crop = {self.crop} px: give 1 or more.")
        if self.pre_crop < 0:
            raise ValueError(f"pre_crop = {self.pre_crop} px: give 0 or more.")
        if self.normalise not in ("tile", "image"):
            raise ValueError(f"normalise = {self.normalise!r}: choose tile or image.")
        if min(self.grey, self.projected) < 0 or self.grey + self.projected > 1:
            raise ValueError(
                f"grey = {self.grey} and projected = {self.projected} are probabilities of "
                "exclusive cases: neither below 0, together at most 1."
            )
        if not 0 <= self.max_occluders < TILES:
            raise ValueError(f"max_occluders = {self.max_occluders}: choose from 0 to {TILES - 1}.")

    @property
    def side(self) -> int:
        """The least side of an image, in px."""
        return self.crop + self.pre_crop

    def check_tiles(self) -> None:
        """Refuses tiles that leave their cells.

        Raises:
          ValueError: with the sum that does not fit.
        """
        cell = self.crop // GRID
        reach = self.tile + self.jitter + self.channel_shift
        if min(self.tile, self.jitter + 1, self.channel_shift + 1) < 1 or reach > cell:
            raise ValueError(
                f"tile {self.tile} + jitter {self.jitter} + channel_shift {self.channel_shift} = "
                f"{reach} px must fit into a cell of crop // 3 = {cell} px."
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Puzzles:
    """Nine tiles in grey levels 0..255 (not yet standardised), the permutation's index, and which.

    slots hold foreign tiles. Typed loosely: JAX also fills it with shapes and shardings.
    """

    tiles: Any  # float32 [b, 9, t, t, c]
    label: Any  # int32 [b]
    occluded: Any  # bool [b, 9]


def make_puzzles(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    permutations: UInt8[Array, "p tiles"],
    rules: PuzzleRules,
) -> Puzzles:
    """One puzzle an image: slot i shows tile permutations[label][i] of the image.

    Occluders are distinct random tiles of one other image of the same group of eight.

    Raises:
      ValueError: if the images are smaller than the crop, the tiles leave their cells, or the batch
        is not made of groups.
    """
    count = images.shape[0]
    if count % GROUP:
        raise ValueError(f"a batch of {count} images is not a multiple of {GROUP}.")
    squares = central_squares(images, rules)

    def draw(key: Array, square: Array, place: Array) -> tuple[Array, ...]:
        keys = jax.random.split(key, 8)
        # The ninth key is one that the split has not made: what was drawn before there was a
        # pre_crop is drawn still.
        image = cut_crop(jax.random.fold_in(key, 8), keys[0], square, rules)
        tiles = cut_tiles(keys[1], image, rules)
        label = jax.random.randint(keys[2], (), 0, permutations.shape[0])
        occluders = jax.random.randint(keys[3], (), 0, rules.max_occluders + 1)
        rank = jax.random.permutation(keys[4], TILES)
        foreign_tile = jax.random.permutation(keys[5], TILES)[rank]
        occluded = rank < occluders
        other = (place + jax.random.randint(keys[6], (), 1, GROUP)) % GROUP
        own_tile = permutations[label].astype(jnp.int32)
        # Where each slot's tile lies among the 8 x 9 tiles of the group.
        source = jnp.where(occluded, other * TILES + foreign_tile, place * TILES + own_tile)
        return tiles, label, occluded, source, jax.random.uniform(keys[7])

    places = jnp.arange(count) % GROUP
    keys = example_keys(key, count)
    tiles, label, occluded, source, colour = jax.vmap(draw)(keys, squares, places)

    grouped = tiles.reshape(count // GROUP, GROUP * TILES, *tiles.shape[2:])
    source = source.reshape(count // GROUP, GROUP * TILES)
    mixed = jax.vmap(lambda tiles, source: tiles[source])(grouped, source)
    mixed = mixed.reshape(tiles.shape)
    return Puzzles(mix_colours(mixed, colour, rules), label, occluded)


def example_keys(key: Key[Array, ""], count: int) -> Key[Array, " b"]:
    """One key an example, a function of its place in the global batch and nothing else."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def central_squares(
    images: UInt8[Array, "b s s c"], rules: PuzzleRules
) -> UInt8[Array, "b side side c"]:
    """The central square of each image, within which the crop is drawn.

    Raises:
      ValueError: if the images are smaller than that.
    """
    side = images.shape[1]
    if side < rules.side:
        raise ValueError(
            f"puzzles of crop {rules.crop} px + pre_crop {rules.pre_crop} px were asked of images "
            f"of {side} px."
        )
    start = (side - rules.side) // 2
    return images[:, start : start + rules.side, start : start + rules.side]


def cut_crop(
    place_key: Key[Array, ""],
    mirror_key: Key[Array, ""],
    square: UInt8[Array, "side side c"],
    rules: PuzzleRules,
) -> UInt8[Array, "crop crop c"]:
    """The crop, at a random place in its square, mirrored half the time if the rules say so."""
    image = square
    if rules.pre_crop:
        top, left = jax.random.randint(place_key, (2,), 0, rules.pre_crop + 1)
        shape = (rules.crop, rules.crop, square.shape[-1])
        image = jax.lax.dynamic_slice(square, (top, left, 0), shape)
    if rules.mirror:
        image = jnp.where(jax.random.bernoulli(mirror_key), image[:, ::-1], image)
    return image


def cut_tiles(
    key: Key[Array, ""], image: UInt8[Array, "s s c"], rules: PuzzleRules
) -> Float[Array, "tiles t t c"]:
    """The nine tiles in reading order, each at a random place in its cell, channel by channel.

    Raises:
      ValueError: if the tiles leave their cells.
    """
    rules.check_tiles()
    cell = rules.crop // GRID
    channels = image.shape[-1]
    corner_key, shift_key = jax.random.split(key)
    corners = jnp.array([(row * cell, column * cell) for row in range(3) for column in range(3)])
    corners += jax.random.randint(corner_key, (TILES, 2), 0, rules.jitter + 1)
    shifts = jax.random.randint(shift_key, (TILES, channels, 2), 0, rules.channel_shift + 1)
    starts = corners[:, None, :] + shifts
    planes = image.transpose(2, 0, 1)

    def cut(plane: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(plane, (start[0], start[1]), (rules.tile, rules.tile))

    cut_channels = jax.vmap(cut, in_axes=(0, 0), out_axes=-1)
    tiles = jax.vmap(cut_channels, in_axes=(None, 0))(planes, starts)
    return tiles.astype(jnp.float32)


def mix_colours(
    tiles: Float[Array, "b tiles t t c"], colour: Float[Array, " b"], rules: PuzzleRules
) -> Float[Array, "b tiles t t c"]:
    """Grey, projected or raw colours: one draw of 0..1 an example, `colour`."""
    draw = colour[:, None, None, None, None]
    grey = jnp.broadcast_to(tiles.mean(-1, keepdims=True), tiles.shape)
    mixed = jnp.where(draw < rules.grey, grey, tiles)
    if rules.projected == 0:
        return mixed
    # GPUs and TPUs would round the colours to a few bits, and leave some of the axis in them.
    projected = jnp.matmul(tiles, jnp.asarray(_PROJECTION), precision=jax.lax.Precision.HIGHEST)
    chosen = (draw >= rules.grey) & (draw < rules.grey + rules.projected)
    return jnp.where(chosen, projected, mixed)
