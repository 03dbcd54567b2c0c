"""Calibrated batch norms give the last normalised layer the moments that it is meant to have."""

import jax
import jax.numpy as jnp
import numpy as np
import support

from kt_jax import data
from kt_jax.evaluation import backbones, calibration
from kt_jax.machine import partition, signals
from kt_jax.models import views


def calibrate(images, architecture, **options):
    backbone = backbones.random_backbone(backbones.describe(architecture, 16), seed=0)
    found = calibration.calibrate(
        backbone,
        images,
        size=16,
        seed=0,
        mesh=partition.make_mesh(),
        reading=data.Reading(),
        notice=signals.Notice(),
        **options,
    )
    return backbone, found


def make_noise(count):
    pixels = np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    return pixels, support.make_images(count, size=16, load=pixels.__getitem__)


def test_moments_are_those_of_all_images_together():
    pixels, images = make_noise(256)
    architecture = {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True}
    before, after = calibrate(images, architecture)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    x = views.centre_view(jnp.asarray(pixels), 16)
    conv = before.params["blocks"][0][0]["conv"]
    y = conv["bias"][None, None, None] + jax.lax.conv_general_dilated(
        x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = after.batch_stats["blocks"][0][0]["norm"]
    np.testing.assert_allclose(norm["mean"], np.mean(y, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm["var"], np.var(y, (0, 1, 2)), rtol=1e-4)


def test_a_network_without_batch_norms_stays_as_it_is():
    _, images = make_noise(8)
    before, after = calibrate(images, {"name": "vgg", "channels": (4,), "convs": (1,)})
    assert after is before


def test_few_images_are_enough():
    _, images = make_noise(5)
    _, after = calibrate(
        images, {"name": "vgg", "channels": (4,), "convs": (2,), "batch_norm": True}
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.batch_stats))
