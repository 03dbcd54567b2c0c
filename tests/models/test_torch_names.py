import jax
import numpy as np
import pytest
from flax import nnx

from kt_jax import models, training
from kt_jax.models import torch_names

NARROW = {"width": 0.0625}
ARCHITECTURES = [
    {"name": "alexnet", "channels": (8,) * 5},
    {"name": "alexnet", "channels": (8,) * 5, "batch_norm": True},
    {"name": "alexnet_torchvision", "channels": (8,) * 5},
    {"name": "vgg", "channels": (4, 8), "convs": (1, 2), "final_pool": False},
    *({"name": name, **NARROW} for name in ("vgg11", "vgg13", "vgg16", "vgg19")),
    {"name": "vgg16", "batch_norm": True, **NARROW},
    *({"name": name, **NARROW} for name in ("resnet18", "resnet34", "resnet50")),
    # The narrow one expands none of its first channels.
    *({"name": "mobilenet_v3_small", "width": width} for width in (1.0, 0.125)),
    *({"name": name, "head_dim": 4, "depth": 2} for name in ("vit_ti", "vit_s", "vit_b")),
    {"name": "vit_s", "head_dim": 4, "depth": 2, "layer_scale": True, "registers": 3},
]


def draw(architecture, size=64):
    """The arrays of a network, all of them different."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: training.init_variables(
            lambda rngs: models.make_backbone(size=size, rngs=rngs, **architecture), 0
        )
    )
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def assert_same(found, expected):
    paths = [dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected)]
    assert paths[0].keys() == paths[1].keys()
    for path, value in paths[0].items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, paths[1][path])


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each["name"])
def test_every_array_has_a_name_and_comes_back(architecture):
    params, batch_stats = draw(architecture)
    for table in torch_names.tables(architecture):
        named = torch_names.arrange(table, params, batch_stats)
        assert_same(torch_names.from_torch(architecture, named), (params, batch_stats))
    named = torch_names.to_torch(architecture, params, batch_stats)
    assert all(each.flags.c_contiguous for each in named.values())
    assert sum(each.size for each in named.values()) == sum(
        each.size for each in jax.tree.leaves((params, batch_stats))
    )


def test_names_and_layouts_are_those_of_torchvision_and_timm():
    def shapes(architecture):
        return {
            k: v.shape for k, v in torch_names.to_torch(architecture, *draw(architecture)).items()
        }

    vgg = shapes({"name": "vgg16", "batch_norm": True})
    assert (len(vgg), vgg["features.40.weight"]) == (13 * 6, (512, 512, 3, 3))
    assert vgg["features.41.running_var"] == (512,)
    resnet = shapes({"name": "resnet50"})
    assert resnet["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert resnet["layer1.2.bn3.running_mean"] == (256,)
    alexnet = shapes({"name": "alexnet"})
    assert alexnet["conv2.weight"] == (256, 48, 5, 5)  # of two groups
    mobile = shapes({"name": "mobilenet_v3_small"})
    assert mobile["features.4.block.1.0.weight"] == (96, 1, 5, 5)
    assert mobile["features.4.block.2.fc1.weight"] == (24, 96, 1, 1)
    vit = shapes({"name": "vit_s", "depth": 1, "layer_scale": True})
    assert vit["blocks.0.attn.qkv.weight"] == (1152, 384)
    assert vit["pos_embed"] == (1, 65, 384)
    assert vit["blocks.0.ls2.gamma"] == (384,)


def test_position_embeddings_without_a_class_token_get_one_of_zeros():
    architecture = ARCHITECTURES[-1]
    params, batch_stats = draw(architecture)
    named = torch_names.to_torch(architecture, params, batch_stats)
    named["pos_embed"] = named["pos_embed"][:, 1:]
    found, _ = torch_names.from_torch(architecture, named)
    np.testing.assert_array_equal(found["positions"][1:], params["positions"][1:])
    np.testing.assert_array_equal(found["positions"][0], 0)


def test_first_layers_of_published_weights_do_not_follow_the_size():
    def published(name, **options):
        return torch_names.as_published({"name": name, **options})

    assert published("resnet18")["stem"] == 4
    assert published("vit_s")["patch"] == 16
    assert published("vit_s", patch=8)["patch"] == 8
    assert published("alexnet")["stem_kernel"] == 11
    assert published("vgg11") == models.complete({"name": "vgg11"})


def test_a_missing_tensor_is_named():
    with pytest.raises(ValueError, match=r"there is no tensor 'features\.0\.weight'"):
        torch_names.from_torch({"name": "vgg11"}, {"features.0.bias": np.zeros(64)})


def test_an_architecture_of_ones_own_has_no_names():
    class Own(nnx.Module):
        probe_layers = ("out",)

        def __init__(self, *, size, rngs):
            del size, rngs

        def __call__(self, x, key=None):
            return {"out": x}

    models.register("unnamed", Own)
    with pytest.raises(
        ValueError, match=r"'unnamed': PyTorch's names are known for Vgg, AlexNet, "
    ):
        torch_names.tables({"name": "unnamed"})
