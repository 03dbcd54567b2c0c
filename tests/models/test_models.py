"""Golden figures of the networks: a change here is a change of the published architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax import models
from kt_jax.evaluation import backbones
from kt_jax.models import layers, pooling


def count(make_model):
    return backbones.parameter_count(make_model)


def shapes_of(architecture, size):
    return backbones.describe(architecture, size).layers


def test_vgg16_has_the_published_parameters():
    assert count(lambda rngs: models.make_backbone("vgg", size=64, rngs=rngs)) == 14_714_688
    # Batch normalisation adds a scale and a bias to each of its 4,224 channels.
    with_norms = count(
        lambda rngs: models.make_backbone("vgg", size=227, rngs=rngs, batch_norm=True)
    )
    assert with_norms == 14_714_688 + 2 * 4_224


def test_alexnet_has_the_published_parameters():
    def make(rngs):
        backbone = models.make_backbone("alexnet", size=227, rngs=rngs)
        return models.Classifier(backbone, size=227, classes=1000, rngs=rngs)

    assert count(make) == 60_965_224


def test_vgg19_and_torchvisions_alexnet_have_the_published_parameters():
    """All but the classifiers."""
    vgg = backbones.describe({"name": "vgg19"}, 224)
    assert vgg.parameters == 143_667_240 - (25_089 * 4096 + 4097 * 4096 + 4097 * 1000)
    alexnet = backbones.describe({"name": "alexnet_torchvision"}, 224)
    assert alexnet.parameters == 61_100_840 - (9217 * 4096 + 4097 * 4096 + 4097 * 1000)
    assert alexnet.layers["conv1"] == (55, 55, 64)
    assert alexnet.layers["pool5"] == (6, 6, 256)
    with pytest.raises(ValueError, match=r"channels \(8, 8\): AlexNet has five convolutions"):
        backbones.describe({"name": "alexnet_torchvision", "channels": (8, 8)}, 224)


def test_alexnet_activations_have_caffes_shapes():
    shapes = shapes_of({"name": "alexnet"}, 227)
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
    shapes = shapes_of({"name": "alexnet", "stem_kernel": 11, "stem_stride": 2}, 64)
    assert shapes["pool5"] == (3, 3, 256)


def test_vgg_activations_are_all_there():
    shapes = shapes_of({"name": "vgg", "width": 0.125}, 64)
    assert len([name for name in shapes if name.startswith("conv")]) == 13
    assert shapes["conv4_3"] == (8, 8, 64)
    assert shapes["pool5"] == (2, 2, 64)


def test_a_head_takes_the_last_activation():
    """Whatever its name: here a convolution, behind pool1."""
    backbone = models.make_backbone(
        "vgg", size=8, channels=(2, 4), convs=(1, 1), final_pool=False, rngs=nnx.Rngs(0)
    )
    shapes = models.activation_shapes(backbone, 8)
    assert list(shapes.items()) == [
        ("conv1_1", (8, 8, 2)),
        ("pool1", (4, 4, 2)),
        ("conv2_1", (4, 4, 4)),
    ]
    head = models.Classifier(backbone, size=8, classes=3, hidden=(), rngs=nnx.Rngs(0))
    assert head.output.kernel.shape == (4 * 4 * 4, 3)


def test_jigsaw_net_shares_its_backbone_over_the_tiles():
    @nnx.jit
    def make():
        rngs = nnx.Rngs(0)
        backbone = models.make_backbone("vgg", size=16, channels=(4, 8), convs=(1, 1), rngs=rngs)
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
    rows = pooling.pooled_size(size, window, stride) if ceil else (size - window) // stride + 1
    extra = max(0, (rows - 1) * stride + window - size)
    expected = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1),
        [(0, 0), (0, extra), (0, extra), (0, 0)],
    )  # fmt: skip
    assert (
        np.asarray(pooling.max_pool(x, window, stride, ceil=ceil)) == np.asarray(expected)
    ).all()


def test_tpus_have_an_operation_for_the_gradient_of_max_pooling():
    x = jnp.zeros((2, 7, 7, 3))
    traced = jax.jit(jax.grad(lambda x: pooling.max_pool(x, 3, 2).sum())).trace(x)
    for platform, expected in {"tpu": True, "cpu": False, "cuda": False, "rocm": False}.items():
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("select_and_scatter" in text) is expected


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("ceil", [True, False])
def test_the_operation_of_tpus_pools_alike(ceil, dtype, monkeypatch):
    """Of distinct numbers: of equal ones each way may choose another for the gradient."""
    numbers = np.random.default_rng(0).permutation(6 * 6 * 3).reshape(1, 6, 6, 3)
    x = jnp.asarray(numbers - 40, dtype)

    def pool_and_differentiate():
        pooled, back = jax.vjp(lambda x: pooling.max_pool(x, 3, 2, ceil=ceil), x)
        return pooled, back(pooled)[0]

    expected = pool_and_differentiate()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, *, tpu, default: tpu(x))
    for found, known in zip(pool_and_differentiate(), expected, strict=True):
        assert found.dtype == dtype
        assert (np.asarray(found) == np.asarray(known)).all()


def test_local_response_norm_by_hand():
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 7)).astype(np.float32)
    flat = x.ravel()
    expected = [
        flat[c] / (1 + 1e-4 / 5 * (flat[max(0, c - 2) : c + 3] ** 2).sum()) ** 0.75
        for c in range(7)
    ]
    got = layers.local_response_norm(jnp.asarray(x))
    assert np.allclose(np.asarray(got).ravel(), expected, rtol=1e-6)


def test_local_response_norm_acts_in_bfloat16_too():
    """The roots are taken of float32."""
    x = jnp.full((1, 1, 1, 5), 3.0, jnp.bfloat16)
    made = jax.make_jaxpr(layers.local_response_norm)(x)
    assert made.out_avals[0].dtype == jnp.bfloat16
    roots = [each for each in made.eqns if each.primitive.name == "sqrt"]
    assert roots
    assert all(each.invars[0].aval.dtype == jnp.float32 for each in roots)


def test_wrong_networks_are_refused():
    with pytest.raises(ValueError, match=r"backbone\.name = 'lenet'"):
        models.make_backbone("lenet", size=64, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="one each"):
        models.make_backbone("vgg", size=64, channels=(4, 8), convs=(1,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="AlexNet has five convolutions"):
        models.make_backbone("alexnet", size=2, channels=(4,), rngs=nnx.Rngs(0))
    tiny = models.make_backbone("vgg", size=2, channels=(4, 8), convs=(1, 1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Vgg leaves nothing of images of 2 px"):
        models.Classifier(tiny, size=2, classes=2, rngs=nnx.Rngs(0))
