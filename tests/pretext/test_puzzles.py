import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kt_jax.pretext import permutations, puzzles

PLAIN = {"jitter": 0, "channel_shift": 0, "grey": 0.0, "max_occluders": 0}
# As stages call it: one program, not hundreds.
make_puzzles = jax.jit(puzzles.make_puzzles, static_argnames="rules")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def chosen():
    return jnp.asarray(permutations.make_permutations(20, min_distance=3, seed=0))


def make(images, chosen, seed=0, **rules):
    made = make_puzzles(
        jax.random.key(seed),
        jnp.asarray(images),
        chosen,
        rules=puzzles.PuzzleRules(**{"crop": 48, "tile": 12, **PLAIN, **rules}),
    )
    return jax.device_get(made)


def cells(image, tile):
    """The nine tiles at the corners of their cells, [9, tile, tile, 3]."""
    side = len(image) // 3
    return np.stack(
        [
            image[row * side : row * side + tile, column * side : column * side + tile]
            for row in range(3)
            for column in range(3)
        ]
    )


def test_slot_i_shows_tile_permutation_i(images, chosen):
    made = make(images, chosen, tile=16)
    for image, tiles, label in zip(images, made.tiles, made.label, strict=True):
        assert (tiles == cells(image, 16)[np.asarray(chosen)[label]]).all()


def test_tiles_put_back_in_order_are_the_crop(images, chosen):
    made = make(images, chosen, tile=16)
    order = np.argsort(np.asarray(chosen)[made.label[3]])
    restored = made.tiles[3][order].reshape(3, 3, 16, 16, 3).transpose(0, 2, 1, 3, 4)
    assert (restored.reshape(48, 48, 3) == images[3]).all()


def test_jitter_and_channel_shift_reach_their_bounds_and_no_further(chosen):
    # Every pixel says where it lies: red its row, green its column, blue its row again.
    rows, columns = np.indices((48, 48))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    images = np.repeat(image[None], 64, 0)
    made = make(images, chosen, jitter=3, channel_shift=1)
    corner = made.tiles[:, :, 0, 0]
    base = cells(image, 12)[:, 0, 0][np.asarray(chosen)[made.label]]
    offsets = corner - base
    assert set(np.unique(offsets)) == {0, 1, 2, 3, 4}
    # Channels of one tile differ by the channel shift alone.
    between = corner[..., 0] - corner[..., 2]
    assert set(np.unique(between)) == {-1, 0, 1}


def test_occluders_are_distinct_tiles_of_one_other_image_of_the_group(chosen):
    # Image g shows 16 g + tile: a tile names its image and its place.
    images = np.zeros((16, 48, 48, 3), np.uint8)
    for number in range(16):
        values = 16 * number + np.arange(9).reshape(3, 3)
        images[number] = np.kron(values, np.ones((16, 16)))[..., None]
    counts = np.zeros(3, int)
    for seed in range(30):
        made = make(images, chosen, seed=seed, max_occluders=2)
        shown = made.tiles[:, :, 0, 0, 0].astype(int)
        image, tile = shown // 16, shown % 16
        for number in range(16):
            foreign = made.occluded[number]
            counts[foreign.sum()] += 1
            own = np.asarray(chosen)[made.label[number]]
            assert (image[number][~foreign] == number).all()
            assert (tile[number][~foreign] == own[~foreign]).all()
            assert (image[number][foreign] != number).all()
            assert (image[number][foreign] // 8 == number // 8).all()
            assert len(set(image[number][foreign])) <= 1
            assert len(set(tile[number][foreign])) == foreign.sum()
    # 480 puzzles: 0, 1 and 2 occluders about equally often.
    assert counts.min() > 120


def test_grey_takes_the_whole_puzzle_occluders_included(images, chosen):
    images = np.tile(images, (8, 1, 1, 1))
    made = make(images, chosen, grey=0.7, max_occluders=2)
    grey = (made.tiles.max(-1) - made.tiles.min(-1)).max((2, 3)) < 1e-3
    assert (grey.all(1) | ~grey.any(1)).all()
    assert 0.5 < grey.all(1).mean() < 0.9


def test_projection_removes_the_green_magenta_axis(images, chosen):
    made = make(images, chosen, projected=1.0)
    along = made.tiles @ np.array([-1, 2, -1], np.float32)
    assert np.abs(along).max() < 1e-3


def test_mirror_happens_to_half_of_the_images(chosen):
    image = np.repeat(np.arange(48, dtype=np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    made = make(np.repeat(image[None], 64, 0), chosen, tile=16, mirror=True)
    falling = made.tiles[:, 0, 0, 0, 0] > made.tiles[:, 0, 0, 1, 0]
    assert 0.25 < falling.mean() < 0.75


def test_the_devices_do_not_matter(images, chosen):
    rules = puzzles.PuzzleRules(crop=48, tile=12, jitter=3, channel_shift=1)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spread = jax.device_put(images, NamedSharding(mesh, P("data")))
    key = jax.random.key(0)
    one, two = (make_puzzles(key, pixels, chosen, rules=rules) for pixels in (images, spread))
    assert (np.asarray(one.tiles) == np.asarray(two.tiles)).all()
    text = make_puzzles.lower(key, spread, chosen, rules=rules).compile().as_text()
    assert "all-gather" not in text


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tile": 15, "jitter": 2}, "must fit into a cell"),
        ({"grey": 0.8, "projected": 0.3}, "together at most 1"),
        ({"max_occluders": 9}, "max_occluders = 9"),
        ({"crop": 0}, "crop = 0 px: give 1 or more"),
        ({"pre_crop": -1}, "pre_crop = -1 px: give 0 or more"),
        ({"normalise": "set"}, "normalise = 'set': choose tile or image"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        puzzles.PuzzleRules(**{"crop": 48, "tile": 12, **PLAIN, **rules}).check_tiles()


def test_wrong_batches_are_refused(images, chosen):
    with pytest.raises(ValueError, match=r"images of 40 px are smaller than crop 48 px"):
        make(images[:, :40, :40], chosen)
    with pytest.raises(ValueError, match="12 images is not a multiple of 8"):
        make(images[:12], chosen)


@pytest.mark.parametrize("crop", [255, 64])
def test_products_cut_the_tiles_of_slices(crop):
    # A TPU cuts by products: to the bit, wherever the tiles start.
    cell = crop // 3
    tile = cell - 5
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (crop, crop, 3), np.uint8))
    starts = jnp.asarray(np.random.default_rng(1).integers(0, 6, (9, 3, 2), np.int32))
    expected = puzzles._cut_by_slices(image, starts, cell=cell, tile=tile)
    found = puzzles._cut_by_products(image, starts, cell=cell, tile=tile)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
