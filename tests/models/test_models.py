"""Golden figures of the networks: a change here is a change of the published architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax import models
from kt_jax.evaluation import backbones
from kt_jax.models import layers


def count(make_model):
    return backbones.parameter_count(make_model)


def test_vgg16_has_the_published_parameters():
    assert count(lambda rngs: models.make_backbone("vgg", rngs=rngs)) == 14_714_688
    # Batch normalisation adds a scale and a bias to each of its 4,224 channels.
    with_norms = count(lambda rngs: models.make_backbone("vgg", rngs=rngs, batch_norm=True))
    assert with_norms == 14_714_688 + 2 * 4_224


def test_alexnet_has_the_published_parameters():
    def make(rngs):
        backbone = models.make_backbone("alexnet", rngs=rngs)
        return models.Classifier(backbone, size=227, classes=1000, rngs=rngs)

    assert count(make) == 60_965_224


def test_alexnet_activations_have_caffes_shapes():
    shapes = backbones.layer_shapes({"name": "alexnet"}, 227)
    assert {name: shapes[name] for name in ("conv1", "conv2", "conv3", "conv4", "conv5")} == {
        "conv1": (55, 55, 96),
        "conv2": (27, 27, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
    }
    # Pooled before the normalisation, as Caffe's CaffeNet.
    assert shapes["pool1"] == shapes["norm1"] == (27, 27, 96)
    assert shapes["pool5"] == (6, 6, 256)


def test_alexnet_on_tiles_pools_in_ceil_mode():
    # The authors' puzzle network: 64 px tiles, stride 2: 27 -> 13 -> 6 -> 3 (floor would give 2).
    shapes = backbones.layer_shapes({"name": "alexnet", "stem_stride": 2}, 64)
    assert shapes["pool5"] == (3, 3, 256)


def test_vgg_activations_are_all_there():
    shapes = backbones.layer_shapes({"name": "vgg", "width": 0.125}, 64)
    assert len([name for name in shapes if name.startswith("conv")]) == 13
    assert shapes["conv4_3"] == (8, 8, 64)
    assert shapes["pool5"] == (2, 2, 64)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "vgg", "channels": (4, 8), "convs": (1, 2), "batch_norm": True},
        {"name": "vgg", "channels": (4, 8), "convs": (1, 2), "final_pool": False},
        {"name": "alexnet", "channels": (4, 8, 8, 8, 4), "stem_stride": 2},
        {"name": "alexnet", "channels": (4, 8, 8, 8, 4), "stem_stride": 2, "batch_norm": True},
    ],
)
def test_output_shape_is_that_of_the_last_activation(options):
    def make(rngs):
        return models.make_backbone(rngs=rngs, **options)

    pixels = jax.ShapeDtypeStruct((1, 48, 48, 3), jnp.float32)
    last = jax.eval_shape(lambda x: list(make(nnx.Rngs(0))(x).values())[-1], pixels)
    assert nnx.eval_shape(lambda: make(nnx.Rngs(0))).output_shape(48) == last.shape[1:]


def test_jigsaw_net_shares_its_backbone_over_the_tiles():
    @nnx.jit
    def make():
        rngs = nnx.Rngs(0)
        backbone = models.make_backbone("vgg", channels=(4, 8), convs=(1, 1), rngs=rngs)
        return models.JigsawNet(backbone, size=16, classes=7, fc6=5, fc7=11, dropout=0.0, rngs=rngs)

    net, apply = make(), nnx.jit(lambda net, tiles: net(tiles))
    tiles = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 16, 16, 3)), jnp.float32)
    activations = apply(net, tiles)
    assert activations["fc6"].shape == (18, 5)
    assert activations["logits"].shape == (2, 7)
    # Exchanging two tiles exchanges their fc6 rows and nothing else.
    order = np.array([1, 0, *range(2, 9)])
    swapped = apply(net, tiles[:, order])
    fc6 = np.asarray(activations["fc6"]).reshape(2, 9, 5)
    assert np.allclose(np.asarray(swapped["fc6"]).reshape(2, 9, 5), fc6[:, order], atol=1e-5)


def test_grouped_convolution_is_lax_with_groups():
    conv = layers.GroupedConv(8, 6, groups=2, kernel_size=(3, 3), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 8)), jnp.float32)
    kernel = jnp.concatenate([part.kernel[...] for part in conv.convs], -1)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert np.allclose(np.asarray(conv(x)), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(("size", "window", "stride"), [(13, 3, 2), (6, 3, 2), (8, 2, 2)])
@pytest.mark.parametrize("ceil", [True, False])
def test_max_pool_is_reduce_window(size, window, stride, ceil):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, size, size, 3)), jnp.float32)
    rows = layers.pooled_size(size, window, stride) if ceil else (size - window) // stride + 1
    extra = max(0, (rows - 1) * stride + window - size)
    expected = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1),
        [(0, 0), (0, extra), (0, extra), (0, 0)],
    )  # fmt: skip
    assert (np.asarray(layers.max_pool(x, window, stride, ceil=ceil)) == np.asarray(expected)).all()


def test_local_response_norm_by_hand():
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 7)).astype(np.float32)
    flat = x.ravel()
    expected = [
        flat[c] / (1 + 1e-4 / 5 * (flat[max(0, c - 2) : c + 3] ** 2).sum()) ** 0.75
        for c in range(7)
    ]
    got = layers.local_response_norm(jnp.asarray(x))
    assert np.allclose(np.asarray(got).ravel(), expected, rtol=1e-6)


def test_wrong_networks_are_refused():
    with pytest.raises(ValueError, match=r"backbone\.name = 'resnet'"):
        models.make_backbone("resnet", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="one each"):
        models.make_backbone("vgg", channels=(4, 8), convs=(1,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="AlexNet has five convolutions"):
        models.make_backbone("alexnet", channels=(4,), rngs=nnx.Rngs(0))
    tiny = models.make_backbone("vgg", channels=(4, 8), convs=(1, 1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Vgg leaves nothing of pictures of 2 px"):
        models.Classifier(tiny, size=2, classes=2, rngs=nnx.Rngs(0))
