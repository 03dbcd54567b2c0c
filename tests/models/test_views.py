import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    with pytest.raises(ValueError, match="48 px was asked of images of 40 px"):
        views.centre_view(jnp.asarray(images), 48)


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


def test_crops_lie_within_the_image_and_differ():
    rows, columns = np.indices((40, 40))
    image = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
    images = jnp.asarray(np.repeat(image[None], 16, 0))

    def corners(area):
        # Standardised pictures have lost their grey levels: look at the corners' order instead.
        view = random_resized_crop(jax.random.key(1), images, size=20, area=area)
        return np.asarray(view)

    small = corners((0.1, 0.2))
    assert len({view.tobytes() for view in small}) == 16
    assert np.isfinite(small).all()
    # Rows grow downwards in every crop, mirrored or not.
    assert (small[:, -1, 10, 0] > small[:, 0, 10, 0]).all()
