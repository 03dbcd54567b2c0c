"""Puzzles compared with a NumPy port of the authors' order of operations.

The port draws nothing: it gets the draws that `make_puzzles` makes, by the same calls on the same
keys. All that is computed from the draws is the port's own, one tile at a time, in float64.

It follows the authors (paper, section on Jigsaw++, and their released code): cut, colour, permute,
put in occluders, standardise. The project colours after it has put in occluders, which gives the
same tiles. The port differs from the authors where the project knowingly does:

- One colour draw for a puzzle and its occluders. The authors draw twice, which betrays occluders.
- The occluding image is another one of the same eight examples. The authors' second reader of the
  data is not released.
- Occluding tiles are cut (and mirrored) as they are for the puzzle of their own image. The
  authors' second reader cuts its images by draws of its own.
- The standard deviation of a tile counts as at least one grey level. The authors add 1e-9 to it.
- The standardised tile is not multiplied by 50 here: the AlexNet without batch norm does so.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kt_jax.models import views
from kt_jax.pretext import puzzles

COUNT = 701  # of permutations
SMALL = puzzles.PuzzleRules(crop=48, tile=11, jitter=3, channel_shift=2)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What chance decides about the puzzle of one image."""

    mirrored: bool
    offsets: np.ndarray  # [9, 2], of each tile within its cell: down, right
    shifts: np.ndarray  # [9, 3, 2], of each channel of each tile: down, right
    label: int
    occluders: int
    slots: np.ndarray  # [9], all slots in random order: the first `occluders` are occluded
    foreign_tiles: np.ndarray  # [9], all tiles in random order: the first are the occluders
    other: int  # 1..7, from this image to the occluding one, within the group and round
    colour: float


def draw(key, number, rules):
    """The draws for the image at place `number` of the batch."""
    keys = jax.random.split(jax.random.fold_in(key, number), 8)
    offset_key, shift_key = jax.random.split(keys[1])
    return Draws(
        mirrored=bool(jax.random.bernoulli(keys[0])) and rules.mirror,
        offsets=np.asarray(jax.random.randint(offset_key, (9, 2), 0, rules.jitter + 1)),
        shifts=np.asarray(jax.random.randint(shift_key, (9, 3, 2), 0, rules.channel_shift + 1)),
        label=int(jax.random.randint(keys[2], (), 0, COUNT)),
        occluders=int(jax.random.randint(keys[3], (), 0, rules.max_occluders + 1)),
        slots=np.argsort(jax.random.permutation(keys[4], 9)),
        foreign_tiles=np.asarray(jax.random.permutation(keys[5], 9)),
        other=int(jax.random.randint(keys[6], (), 1, 8)),
        colour=float(jax.random.uniform(keys[7])),
    )


def cut(image, draws, rules):
    """The nine tiles of an image, in reading order."""
    margin, cell = (len(image) - rules.crop) // 2, rules.crop // 3
    crop = image[margin : margin + rules.crop, margin : margin + rules.crop]
    if draws.mirrored:
        crop = crop[:, ::-1]
    tiles = np.empty((9, rules.tile, rules.tile, image.shape[-1]))
    for row in range(3):
        for column in range(3):
            number = 3 * row + column
            down, right = draws.offsets[number]
            for channel, (lower, further) in enumerate(draws.shifts[number]):
                top, left = row * cell + down + lower, column * cell + right + further
                square = crop[top : top + rules.tile, left : left + rules.tile, channel]
                tiles[number, :, :, channel] = square
    return tiles


def colour(tiles, drawn, rules):
    """Grey, without the green-magenta axis (a = (-1, 2, -1)), or as they are."""
    red, green, blue = np.moveaxis(tiles, -1, 0)
    if drawn < rules.grey:
        return np.stack([(red + green + blue) / 3] * 3, -1)
    if drawn < rules.grey + rules.projected:
        along = (-red + 2 * green - blue) / 6  # of |a|^2
        return np.stack([red + along, green - 2 * along, blue + along], -1)
    return tiles


def make_by_hand(images, draws, permutations, rules):
    """Tiles in grey levels, standardised tiles, labels, and which slots are occluded."""
    shown, occluded = [], []
    for number, own in enumerate(draws):
        tiles = colour(cut(images[number], own, rules), own.colour, rules)
        puzzle = np.stack([tiles[source] for source in permutations[own.label]])
        first = number - number % 8
        other = first + (number - first + own.other) % 8
        foreign = colour(cut(images[other], draws[other], rules), own.colour, rules)
        slots = own.slots[: own.occluders]
        for slot, tile in zip(slots, own.foreign_tiles, strict=False):
            puzzle[slot] = foreign[tile]
        shown.append(puzzle)
        occluded.append(np.isin(np.arange(9), slots))
    shown = np.stack(shown)
    centred = shown - shown.mean((2, 3, 4), keepdims=True)
    deviations = np.maximum(shown.std((2, 3, 4), keepdims=True), 1)
    labels = np.array([own.label for own in draws])
    return shown, centred / deviations, labels, np.stack(occluded)


@pytest.mark.parametrize(
    ("side", "rules"),
    [
        pytest.param(256, puzzles.PuzzleRules(), id="paper"),
        pytest.param(50, dataclasses.replace(SMALL, grey=0.5, projected=0.25), id="authors' code"),
        pytest.param(53, dataclasses.replace(SMALL, mirror=True, max_occluders=8), id="mirrored"),
    ],
)
def test_puzzles_are_those_of_the_authors_order_of_operations(side, rules):
    rng = np.random.default_rng(side)
    images = rng.integers(0, 256, (16, side, side, 3), np.uint8)
    images[3] = rng.integers(90, 92, (side, side, 3))  # nearly flat
    permutations = np.stack([rng.permutation(9) for _ in range(COUNT)]).astype(np.uint8)
    key = jax.random.key(side)

    @jax.jit
    def make(key, images, permutations):
        made = puzzles.make_puzzles(key, images, permutations, rules)
        return made, views.standardise(made.tiles)

    made, inputs = jax.device_get(make(key, jnp.asarray(images), jnp.asarray(permutations)))
    draws = [draw(key, i, rules) for i in range(16)]
    tiles, standardised, labels, occluded = make_by_hand(images, draws, permutations, rules)
    np.testing.assert_array_equal(made.label, labels)
    np.testing.assert_array_equal(made.occluded, occluded)
    np.testing.assert_allclose(made.tiles, tiles, rtol=0, atol=1e-4)
    np.testing.assert_allclose(inputs, standardised, rtol=0, atol=5e-4)
    # The draws have met every case.
    kinds = [rules.grey, rules.grey + rules.projected]
    coloured = {int(np.digitize(own.colour, kinds)) for own in draws}
    assert coloured == ({0, 1, 2} if rules.projected else {0, 2})
    assert {own.occluders for own in draws} >= {0, rules.max_occluders}
    assert {own.mirrored for own in draws} == ({False, True} if rules.mirror else {False})
