"""Random squares are where their keys say, of the shares and scales that were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kt_jax.models import crops

SIDE = 32
# Each pixel says where it is, so that a crop tells its place and its side.
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
PLACES = np.stack([ROWS, COLUMNS, 0 * ROWS], axis=-1).astype(np.uint8)


def cut(how, count=64, size=8, seed=0, **options):
    """Squares of a picture of places, and their sides in pixels."""
    keys = jax.vmap(lambda each: jax.random.fold_in(jax.random.key(seed), each))(jnp.arange(count))
    images = jnp.broadcast_to(PLACES, (count, SIDE, SIDE, 3))
    made = jax.jit(how, static_argnames=("size", *options))(keys, images, size=size, **options)
    found = np.asarray(made)
    step = (found[:, -2, 0, 0] - found[:, 1, 0, 0]) / (size - 3)  # away from the borders
    return found, step * size


@pytest.mark.parametrize(
    ("how", "options", "least", "most"),
    [
        (crops.random_by_area, {"area": (0.25, 0.64)}, 0.5 * SIDE, 0.8 * SIDE),
        (crops.random_by_scale, {"scales": (0.5, 2.0)}, 4, 16),
    ],
)
def test_sides_are_as_asked_and_squares_lie_within_the_image(how, options, least, most):
    found, sides = cut(how, **options)
    assert sides.min() >= least - 0.1
    assert sides.max() <= most + 0.1
    assert sides.min() < least + 0.2 * (most - least)
    assert sides.max() > most - 0.2 * (most - least)
    assert found.min() >= 0
    assert found[..., :2].max() <= SIDE - 1
    mirrored = found[:, 0, 0, 1] > found[:, 0, -1, 1]
    assert 0.3 < mirrored.mean() < 0.7


def test_an_image_that_is_too_small_for_the_scale_is_shown_whole():
    found, sides = cut(crops.random_by_scale, scales=(0.1, 0.1))
    np.testing.assert_allclose(sides, SIDE, rtol=1e-3)
    assert len(np.unique(found[:, :, :, 0].round(2), axis=0)) == 1


def test_a_square_depends_on_its_key_alone():
    all_of_them, _ = cut(crops.random_by_scale, scales=(0.5, 2.0))
    some, _ = cut(crops.random_by_scale, count=8, scales=(0.5, 2.0))
    np.testing.assert_allclose(some, all_of_them[:8], atol=1e-3)
    others, _ = cut(crops.random_by_scale, count=8, seed=1, scales=(0.5, 2.0))
    assert np.abs(others - some).max() > 1
