"""ResNet and MobileNetV3: published counts, stems, initial values; the depthwise convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax import models
from kt_jax.evaluation import backbones
from kt_jax.models import layers


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [
        ("resnet18", 11_689_512, 513 * 1000),
        ("resnet34", 21_797_672, 513 * 1000),
        ("resnet50", 25_557_032, 2049 * 1000),
        ("mobilenet_v3_small", 2_542_856, 577 * 1024 + 1025 * 1000),
    ],
)
def test_networks_have_the_published_parameters(name, published, classifier):
    assert backbones.describe({"name": name}, 224).parameters == published - classifier


@pytest.mark.parametrize(
    ("size", "first", "last"), [(224, 56, 7), (96, 24, 3), (48, 24, 3), (24, 24, 3), (12, 12, 2)]
)
@pytest.mark.parametrize(
    ("name", "ends"),
    [("resnet18", ("layer1", "layer4")), ("mobilenet_v3_small", ("block1", "conv2"))],
)
def test_stems_follow_the_size(name, ends, size, first, last):
    shapes = backbones.describe({"name": name}, size).layers
    assert [shapes[layer][:2] for layer in ends] == [(first, first), (last, last)]
    assert list(shapes)[-1] == "average"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_other_stems_are_refused(name):
    with pytest.raises(ValueError, match="stem = 3: maps are 1, 2 or 4 times smaller"):
        models.make_backbone(name, size=12, stem=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)]
)
def test_initial_values_are_torchvisions(name):
    net = nnx.jit(lambda: models.make_backbone(name, size=96, width=0.5, rngs=nnx.Rngs(0)))()
    kernels = 0
    for path, variable in nnx.to_flat_state(nnx.state(net, nnx.Param)):
        values = np.asarray(variable[...])
        if path[-1] == "kernel":
            kernels += 1
            expected = np.sqrt(2 / (values.shape[0] * values.shape[1] * values.shape[3]))
            # Four standard errors of a standard deviation.
            assert abs(values.std() / expected - 1) < 4 / np.sqrt(2 * values.size), path
        else:
            assert (values == (path[-1] == "scale")).all(), path
    assert kernels == {"resnet18": 20, "mobilenet_v3_small": 52}[name]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_convolution_is_lax_with_groups(size, stride):
    conv = layers.DepthwiseConv(4, size, stride, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 4)), jnp.float32)
    around = (size // 2, size // 2)
    expected = jax.lax.conv_general_dilated(
        x, conv.kernel[...], (stride, stride), (around, around),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
    )  # fmt: skip
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)
