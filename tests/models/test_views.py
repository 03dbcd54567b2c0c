import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from kt_jax.models import views

# As stages call it: one program.
random_resized_crop = jax.jit(views.random_resized_crop, static_argnames=("size", "area"))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), np.uint8)


def test_standardised_pictures_have_mean_0_and_deviation_1(images):
    view = np.asarray(views.standardise(jnp.asarray(images, jnp.float32)))
    assert np.abs(view.mean((1, 2, 3))).max() < 1e-4
    assert np.abs(view.std((1, 2, 3)) - 1).max() < 1e-4


def test_flat_pictures_stay_flat():
    flat = jnp.full((1, 8, 8, 3), 200.1)
    assert np.abs(np.asarray(views.standardise(flat))).max() < 1e-3


def test_the_centre_view_is_the_centre(images):
    view = views.centre_view(jnp.asarray(images), 32)
    expected = views.standardise(jnp.asarray(images[:, 4:36, 4:36], jnp.float32))
    assert (np.asarray(view) == np.asarray(expected)).all()
    with pytest.raises(
        ValueError, match="images of 40 px are smaller than the central view of 48 px"
    ):
        views.centre_view(jnp.asarray(images), 48)


def test_a_view_may_be_normalised_by_the_mean_and_deviation_of_each_channel(images):
    mean, deviation = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    view = views.centre_view(jnp.asarray(images), 32, mean=mean, deviation=deviation)
    expected = (images[:, 4:36, 4:36] - np.array(mean)) / np.array(deviation)
    np.testing.assert_allclose(view, expected, atol=1e-5)


def test_a_crop_of_everything_is_the_image_or_its_mirror(images):
    view = np.asarray(
        random_resized_crop(jax.random.key(0), jnp.asarray(images), size=40, area=(1.0, 1.0))
    )
    whole = np.asarray(views.centre_view(jnp.asarray(images), 40))
    mirrored = whole[:, :, ::-1]
    same = np.isclose(view, whole, atol=1e-2).all((1, 2, 3))
    turned = np.isclose(view, mirrored, atol=1e-2).all((1, 2, 3))
    assert (same | turned).all()
    assert same.any()
    assert turned.any()


AREA = (0.3, 0.9)
COUNT, SIDE = 512, 64


def see(pixels, *, size):
    """Views in grey levels, of images [n, s, s, c]: two added channels undo the standardisation."""
    flat = np.broadcast_to(np.array([0, 255], np.uint8), (*pixels.shape[:3], 2))
    marked = jnp.asarray(np.concatenate([pixels, flat], -1))
    view = random_resized_crop(jax.random.key(0), marked, size=size, area=AREA)
    view, black, white = np.split(np.asarray(view), [-2, -1], -1)
    return (view - black) / (white - black) * 255


@pytest.fixture(scope="module")
def boxes():
    """The squares that the views show, from their pixels: left, top, width, height, mirrored.

    Each pixel says where it lies: red its column, green its row. Views larger than what they show
    are interpolated between pixels: where no edge is near, this is exact.
    """
    rows, columns = np.indices((SIDE, SIDE), np.uint8)
    places = np.broadcast_to(np.stack([columns, rows], -1), (COUNT, SIDE, SIDE, 2))
    middle = slice(SIDE // 4, -SIDE // 4)
    inner = see(places, size=SIDE)[:, middle, middle] + 0.5  # the centres of pixels
    assert np.ptp(inner[..., 0], axis=1).max() < 1e-3  # columns stay columns
    assert np.ptp(inner[..., 1], axis=2).max() < 1e-3
    across, down = inner[:, 0, :, 0], inner[:, :, 0, 1]
    for line in (across, down):
        assert np.ptp(np.diff(line), axis=1).max() < 1e-3  # evenly spaced
    width, height = (np.diff(line).mean(1) * SIDE for line in (across, down))
    mirrored, width = width < 0, np.abs(width)
    return across.mean(1) - width / 2, down.mean(1) - height / 2, width, height, mirrored


def is_uniform(draws):
    """Whether draws from 0..1 may be uniform, at the level of 1 %."""
    return stats.kstest(draws, "uniform").pvalue > 0.01


def test_crops_are_squares_whose_area_is_uniform_within_its_bounds(boxes):
    _, _, width, height, _ = boxes
    np.testing.assert_allclose(width, height, atol=1e-2)
    share = (width / SIDE) ** 2
    assert AREA[0] - 1e-3 < share.min() < AREA[0] + 0.01
    assert AREA[1] - 0.01 < share.max() < AREA[1] + 1e-3
    assert is_uniform((share - AREA[0]) / (AREA[1] - AREA[0]))


def test_crops_lie_anywhere_within_the_image(boxes):
    left, top, width, height, mirrored = boxes
    free = SIDE - width
    assert min(left.min(), top.min()) > -1e-2
    assert max((left + width).max(), (top + height).max()) < SIDE + 1e-2
    assert is_uniform(left / free)
    assert is_uniform(top / free)
    # Nothing says anything about another.
    together = np.corrcoef([width, left / free, top / free, mirrored])
    assert np.abs(together - np.eye(4)).max() < 3 / np.sqrt(COUNT)


def test_half_of_the_crops_are_mirrored(boxes):
    *_, mirrored = boxes
    assert abs(mirrored.sum() - COUNT / 2) < 3 * np.sqrt(COUNT / 4)


@pytest.mark.parametrize("size", [24, 64])
def test_views_show_what_pillow_makes_of_the_same_squares(boxes, size):
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (COUNT, SIDE, SIDE, 1), np.uint8)
    view = see(shown, size=size)[..., 0]
    for number in range(32):
        left, top, width, height, mirrored = (each[number] for each in boxes)
        image = Image.fromarray(shown[number, ..., 0].astype(np.float32))
        box = (max(left, 0), max(top, 0), min(left + width, SIDE), min(top + height, SIDE))
        expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
        found = view[number, :, ::-1] if mirrored else view[number]
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_ten_views_are_the_centre_and_four_corners_each_mirrored():
    shown = views.fixed_views(10)
    assert len(set(shown)) == 10
    assert sum(view.mirrored for view in shown) == 5
    assert {(view.y, view.x) for view in shown if view.share < 1} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    assert views.fixed_views(2) == (views.View(), views.View(mirrored=True))
    with pytest.raises(ValueError, match="views = 3: choose from 1, 2, 10"):
        views.fixed_views(3)


def test_a_cut_view_is_that_corner_enlarged():
    columns = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None], (1, 16, 16, 3))
    images = jnp.asarray(np.concatenate([columns, columns.swapaxes(1, 2)]))

    def cut(*view):
        plain = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3}
        return np.asarray(views.cut_view(images, 16, jnp.array(view, jnp.float32), **plain))[..., 0]

    whole = cut(1, 0.5, 0.5, 0)
    np.testing.assert_array_equal(whole, np.asarray(images)[..., 0])
    np.testing.assert_array_equal(cut(1, 0.5, 0.5, 1), whole[:, :, ::-1])
    # Half the side from the bottom right: columns (and rows) 8 to 15, twice as large.
    across, down = cut(0.5, 1, 1, 0)
    np.testing.assert_allclose(across[0, 1:-1], np.arange(8.25, 15, 0.5), atol=1e-4)
    np.testing.assert_allclose(down, across.T, atol=1e-4)
