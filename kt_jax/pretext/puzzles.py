"""Jigsaw++ puzzles on the device: from a batch of uint8 images, nine tiles and a label each.

Without occluders they are the puzzles of Jigsaw (Noroozi and Favaro 2016).

Numbers and the order of operations are from the paper, section on Jigsaw++, and the authors' code:
cut with jitter and channel shift, colour, permute, insert occluders, normalise.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, Int32, Key, UInt8

from kt_jax.pretext.permutations import TILES

GRID = 3
# Occluders come from the same group of this many consecutive examples of the global batch. So
# puzzles do not depend on how devices share the batch.
GROUP = 8
# Removes the green-magenta axis, on which chromatic aberration shows (Doersch et al.).
_AXIS = np.array([-1.0, 2.0, -1.0], np.float32)
_PROJECTION = np.eye(3, dtype=np.float32) - np.outer(_AXIS, _AXIS) / 6.0


@dataclass(frozen=True, kw_only=True)
class PuzzleRules:
    """How puzzles are made; lengths in pixels. The defaults are the paper's, at short side 256.

    crop: the side of the square in the centre of the image that is cut into 3 x 3 cells.
    pre_crop: the square moves down and to the right by a random 0..pre_crop px, one draw per image,
      so that cells do not start at fixed multiples of JPEG's blocks of 8 px. The paper has no such
      step. We measured that the phase of the blocks alone tells the cell of a tile in 14.0 % of
      cases (chance 11.1 %); pre_crop = 7 removes this. Images need at least crop + pre_crop px.
    tile: the side of a tile within its cell.
    jitter: the offset of a tile within its cell is uniform on 0..jitter, in both directions.
    channel_shift: each colour channel of each tile moves by a further 0..channel_shift.
    grey: the probability that the whole puzzle, with its occluders, is grey.
    projected: the probability that its colours lose the green-magenta axis instead (authors' code:
      grey .5, projected .25).
    max_occluders: the largest number of tiles from one other image; the number is uniform on
      0..max_occluders.
    mirror: whether half of the images are mirrored first (the paper's are not).
    normalise: "tile" standardises each tile by itself. "image" uses one mean and one deviation for
      all tiles of an example; this leaves a shortcut, as VISSL's standardisation of whole images
      does. Without normalisation of tiles Noroozi and Favaro (2016, Table 5) solved 90 instead of
      88 % of their puzzles, and lost 9 mAP in detection.
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
        """Refuses values that allow no puzzle."""
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
        """The smallest side of an image, in px."""
        return self.crop + self.pre_crop

    def check_tiles(self) -> None:
        """Refuses tiles that exceed their cells.

        Raises:
          ValueError: it names the sum that does not fit.
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
    """Nine tiles in grey levels 0..255 (not yet standardised), label, and the foreign slots.

    The label is the number of the permutation. The fields are typed loosely because JAX also fills
    them with shapes and shardings.
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
    """One puzzle per image: slot i shows tile permutations[label][i] of the image.

    Occluders are distinct random tiles of one other image in the same group of eight.

    Raises:
      ValueError: images are smaller than the crop, tiles exceed their cells, or the batch is not a
        multiple of the group.
    """
    count = images.shape[0]
    if count % GROUP:
        raise ValueError(f"a batch of {count} images is not a multiple of {GROUP}.")
    squares = central_squares(images, rules)

    def draw(key: Array, square: Array, place: Array) -> tuple[Array, ...]:
        keys = jax.random.split(key, 8)
        # This key is outside the split, so that the draws of versions without pre_crop do not
        # change.
        image = cut_crop(jax.random.fold_in(key, 8), keys[0], square, rules)
        tiles = cut_tiles(keys[1], image, rules)
        label = jax.random.randint(keys[2], (), 0, permutations.shape[0])
        occluders = jax.random.randint(keys[3], (), 0, rules.max_occluders + 1)
        rank = jax.random.permutation(keys[4], TILES)
        foreign_tile = jax.random.permutation(keys[5], TILES)[rank]
        occluded = rank < occluders
        other = (place + jax.random.randint(keys[6], (), 1, GROUP)) % GROUP
        own_tile = permutations[label].astype(jnp.int32)
        # The number of each slot's tile among the 8 x 9 tiles of the group.
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
    """One key per example. It depends only on `key` and the position in the global batch."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def central_squares(
    images: UInt8[Array, "b s s c"], rules: PuzzleRules
) -> UInt8[Array, "b side side c"]:
    """The central square of each image, from which the crop is cut.

    Raises:
      ValueError: an image is smaller than the square.
    """
    side = images.shape[1]
    if side < rules.side:
        raise ValueError(
            f"images of {side} px are smaller than crop {rules.crop} px + pre_crop "
            f"{rules.pre_crop} px."
        )
    start = (side - rules.side) // 2
    return images[:, start : start + rules.side, start : start + rules.side]


def cut_crop(
    place_key: Key[Array, ""],
    mirror_key: Key[Array, ""],
    square: UInt8[Array, "side side c"],
    rules: PuzzleRules,
) -> UInt8[Array, "crop crop c"]:
    """The crop at a random place in its square, mirrored half the time if the rules say so."""
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
    """The nine tiles in reading order, each channel at a random place in the tile's cell.

    Raises:
      ValueError: tiles exceed their cells.
    """
    rules.check_tiles()
    cell = rules.crop // GRID
    corner_key, shift_key = jax.random.split(key)
    offsets = jax.random.randint(corner_key, (TILES, 2), 0, rules.jitter + 1)
    shape = (TILES, image.shape[-1], 2)
    shifts = jax.random.randint(shift_key, shape, 0, rules.channel_shift + 1)
    return jax.lax.platform_dependent(
        image,
        offsets[:, None, :] + shifts,
        tpu=partial(_cut_by_products, cell=cell, tile=rules.tile),
        default=partial(_cut_by_slices, cell=cell, tile=rules.tile),
    )


def _cut_by_slices(
    image: UInt8[Array, "s s c"], starts: Int32[Array, "tiles c 2"], *, cell: int, tile: int
) -> Float[Array, "tiles t t c"]:
    """Cuts a tile from each cell; `starts` is where each channel of it starts in its cell."""
    corners = jnp.array([(row * cell, column * cell) for row in range(3) for column in range(3)])
    starts += corners[:, None, :]
    planes = image.transpose(2, 0, 1)

    def cut(plane: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(plane, (start[0], start[1]), (tile, tile))

    cut_channels = jax.vmap(cut, in_axes=(0, 0), out_axes=-1)
    tiles = jax.vmap(cut_channels, in_axes=(None, 0))(planes, starts)
    return tiles.astype(jnp.float32)


def _cut_by_products(
    image: UInt8[Array, "s s c"], starts: Int32[Array, "tiles c 2"], *, cell: int, tile: int
) -> Float[Array, "tiles t t c"]:
    """Does the same by two products with 0 and 1: first of the rows, then of the columns.

    On a TPU, slices that start anywhere are a loop over images, tiles and channels. Grey levels
    are exact in bfloat16.
    """
    side = GRID * cell
    cells = image[:side, :side].astype(jnp.bfloat16).reshape(GRID, cell, GRID, cell, -1)
    cells = cells.transpose(0, 2, 4, 1, 3).reshape(TILES, -1, cell, cell)

    def choose(start: Int32[Array, "tiles c"]) -> BFloat16[Array, "tiles c t cell"]:
        wanted = start[..., None, None] + jnp.arange(tile)[None, None, :, None]
        return (wanted == jnp.arange(cell)[None, None, None]).astype(jnp.bfloat16)

    rows = jnp.einsum("gcij,gcjk->gcik", choose(starts[..., 0]), cells)
    return jnp.einsum(
        "gcik,gcjk->gijc", rows, choose(starts[..., 1]), preferred_element_type=jnp.float32
    )


def mix_colours(
    tiles: Float[Array, "b tiles t t c"], colour: Float[Array, " b"], rules: PuzzleRules
) -> Float[Array, "b tiles t t c"]:
    """Grey, projected or original colours: `colour` is one draw from 0..1 per example."""
    draw = colour[:, None, None, None, None]
    grey = jnp.broadcast_to(tiles.mean(-1, keepdims=True), tiles.shape)
    mixed = jnp.where(draw < rules.grey, grey, tiles)
    if rules.projected == 0:
        return mixed
    # By default GPUs and TPUs would round the colours to a few bits, and keep part of the axis.
    projected = jnp.matmul(tiles, jnp.asarray(_PROJECTION), precision=jax.lax.Precision.HIGHEST)
    chosen = (draw >= rules.grey) & (draw < rules.grey + rules.projected)
    return jnp.where(chosen, projected, mixed)
