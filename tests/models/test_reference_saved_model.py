"""SavedModels as TensorFlow loads them, where it is installed."""

import numpy as np
import pytest
import support
import tensorflow as tf

from kt_jax.results import exports
from kt_jax.results.exports import network as networks

# A batch of any size is no size that jaxtyping knows.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("untyped")]


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ({"name": "alexnet", "channels": (8,) * 5}, 33),
        ({"name": "resnet18", "width": 0.1}, 12),
        ({"name": "vit_ti", "head_dim": 8, "depth": 2}, 32),
    ],
    ids=["alexnet", "resnet18", "vit_ti"],
)
def test_the_signature_gives_all_activations(architecture, size, tmp_path):
    support.make_backbone(tmp_path / "student", architecture, size)
    try:
        done = exports.export(tmp_path / "student", to="saved_model", out=tmp_path / "saved")
    except ValueError as error:
        # Where no TensorFlow is new enough for this JAX, this is what we promise.
        if "cannot read the programs of jax" in str(error):
            return
        raise
    assert done.largest < 1e-4
    network, _ = networks.open_network(tmp_path / "student")
    images = np.random.default_rng(7).integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    signature = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    found = signature(images=tf.constant(images))
    expected = networks.compute(network, images)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert np.abs(found[name].numpy() - value).max() < 1e-4 * np.abs(value).max(), name
