"""HOG is scikit-image's; colours are shares."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.feature import hog

from kt_jax.evaluation import descriptors


@pytest.mark.parametrize("size", [48, 64])
def test_gradients_are_those_of_scikit_image(size):
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    rows = np.asarray(descriptors.hog_and_colour(jnp.asarray(images)))
    for image, row in zip(images, rows, strict=True):
        theirs = hog(
            image.mean(-1).astype(np.float64),
            orientations=9,
            pixels_per_cell=(size // 8, size // 8),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
        )
        np.testing.assert_allclose(row[: len(theirs)], theirs, atol=2e-4)
        assert len(row) == len(theirs) + 4 * 4 * 3 * 8


def test_colours_are_the_shares_of_levels_by_region():
    image = np.zeros((1, 16, 16, 3), np.float32)
    image[:, :, 8:, 0] = 255.0
    colours = np.asarray(descriptors.hog_and_colour(jnp.asarray(image)))[0, -384:]
    shares = colours.reshape(4, 4, 3, 8)
    assert (shares.sum(-1) == 1).all()
    assert (shares[:, :2, 0, 0] == 1).all()
    assert (shares[:, 2:, 0, 7] == 1).all()
    assert (shares[:, :, 1:, 0] == 1).all()


def test_pixels_are_grey_levels_of_a_small_image():
    image = np.full((1, 12, 12, 3), 77, np.float32)
    rows = np.asarray(descriptors.small_pixels(jnp.asarray(image), 4))
    np.testing.assert_allclose(rows, np.full((1, 48), 77), atol=1e-4)
