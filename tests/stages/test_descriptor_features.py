"""Descriptors are features like any given ones: k-means clusters them, and labels follow."""

import jax.numpy as jnp
import numpy as np
import pytest
import support

from kt_jax.evaluation import descriptors as by_hand
from kt_jax.stages import descriptors

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3)).astype(np.uint8)


def make_stage(tmp_path, **options):
    images = {"images": support.make_images(20, size=24, load=PIXELS.__getitem__)}
    chosen = descriptors.Options(size=16, batch_size=8, **options)
    return support.make_stage(tmp_path / "features", chosen, images=images)


@pytest.mark.parametrize(("of", "dims"), [("pixels", 3 * 4 * 4), ("hog_colour", 2_148)])
def test_rows_are_those_of_the_central_squares(tmp_path, of, dims):
    stage = make_stage(tmp_path, of=of, side=4)
    about, _ = descriptors.run(stage)
    assert about == descriptors.plan(stage.options, stage.inputs).about
    assert (about.rows, about.dims, about.backbone) == (20, dims, None)
    found = np.load(tmp_path / "features" / "features-00000-of-00001.npy")
    square = jnp.asarray(PIXELS[:, 4:20, 4:20].astype(np.float32))
    rows = by_hand.small_pixels(square, 4) if of == "pixels" else by_hand.hog_and_colour(square)
    np.testing.assert_allclose(found, np.asarray(rows), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"of": "sift"}, "of = 'sift': choose from pixels, hog_colour"), ({"side": 0}, "side = 0")],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_stage(tmp_path, **options)
