"""A classifier of several crops of each image, in two sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax import models
from kt_jax.models import views


def make_model():
    rngs = nnx.Rngs(params=0)
    backbone = models.make_backbone("vgg", size=16, channels=(4,), convs=(1,), batch_norm=True,
                                    rngs=rngs)  # fmt: skip
    return models.Classifier(
        backbone, size=16, classes=3, hidden=(8,), dropout=0.0, batch_norm=True, rngs=rngs
    )


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    shapes = (4, 2, 16, 16, 3), (4, 3, 8, 8, 3)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def flat(crops):
    return crops.reshape(-1, *crops.shape[2:])


def statistics(model):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))


@nnx.jit
def call(model, images):
    return model(images)["logits"]


def test_each_crop_is_classified_as_if_it_were_alone(crops):
    model = make_model()
    model.eval()
    logits = np.asarray(call(model, crops))
    assert logits.shape == (4, 5, 3)
    large, small = (np.asarray(call(model, flat(each))) for each in crops)
    np.testing.assert_allclose(logits[:, :2], large.reshape(4, 2, 3), atol=1e-5)
    np.testing.assert_allclose(logits[:, 2:], small.reshape(4, 3, 3), atol=1e-5)


def test_batch_norms_normalise_a_size_by_itself_and_remember_the_first(crops):
    model, alone, other = make_model(), make_model(), make_model()
    before = [np.asarray(x) for x in statistics(model)]
    logits = np.asarray(call(model, crops))
    large, small = call(alone, flat(crops[0])), call(other, flat(crops[1]))
    np.testing.assert_allclose(logits[:, :2].reshape(-1, 3), large, atol=1e-5)
    np.testing.assert_allclose(logits[:, 2:].reshape(-1, 3), small, atol=1e-5)
    for now, wanted, then in zip(statistics(model), statistics(alone), before, strict=True):
        np.testing.assert_allclose(now, wanted, atol=1e-6)
        assert (now != then).any()


def test_a_map_of_another_size_is_resized_for_the_head():
    model = make_model()
    model.eval()
    # Flat images have flat maps, but for the zeros around them.
    far = [np.asarray(call(model, jnp.full((1, side, side, 3), 2.0))) for side in (16, 8)]
    assert np.abs(far[0] - far[1]).max() < np.abs(far[0]).max()
    assert np.abs(far[0] - far[1]).max() > 0


def test_crops_are_drawn_apart_and_whatever_the_size_of_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    crop = jax.jit(views.random_crops, static_argnames=("count", "size", "area"))
    options = {"count": 3, "size": 16, "area": (0.3, 1.0)}
    made = np.asarray(crop(jax.random.key(1), jnp.asarray(images), **options))
    assert made.shape == (8, 3, 16, 16, 3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(made[:, one] - made[:, other]).max((1, 2, 3)).min() > 0.1
    fewer = crop(jax.random.key(1), jnp.asarray(images[:4]), **options)
    np.testing.assert_allclose(fewer, made[:4], atol=1e-4)
