"""Features are float16: what that cannot hold is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from kt_jax import data
from kt_jax.evaluation import backbones
from kt_jax.machine import partition, signals


def extract(activation):
    """The features of images, all of whose activations in one layer are `activation`."""
    about = backbones.describe({"name": "vgg", "channels": (4,), "convs": (1,)}, 8)
    backbone = backbones.random_backbone(about, seed=0)
    constant = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, activation if "bias" in str(path[-1]) else 0.0),
        backbone.params,
    )
    batches = backbones.extract(
        dataclasses.replace(backbone, params=constant),
        support.make_images(4, size=8),
        {"conv1_1": 2},
        size=8,
        batch_size=4,
        mesh=partition.make_mesh(),
        reading=data.Reading(),
        notice=signals.Notice(),
    )
    return np.concatenate([rows["conv1_1"] for _, rows in batches])


def test_the_largest_float16_is_a_feature():
    features = extract(65504.0)
    assert features.dtype == np.float16
    assert features.shape == (4, 2 * 2 * 4)
    assert (features == np.finfo(np.float16).max).all()


# 65520 is the first number that rounds to infinity.
@pytest.mark.parametrize("activation", [65520.0, 1e30, np.inf, np.nan])
def test_activations_beyond_float16_are_refused(activation):
    message = r"layer 'conv1_1' exceeds the range of float16 \(65504\) or is not finite: use an ear"
    with pytest.raises(ValueError, match=message):
        extract(activation)
