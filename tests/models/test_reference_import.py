"""Weights that PyTorch saved give the activations that PyTorch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from kt_jax import models, training
from kt_jax.evaluation import backbones
from kt_jax.models import torch_files, torch_matching, torch_names, views

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the largest value of an activation
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def draw(twin):
    """Random weights and moments, of which all matter, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.1, generator=generator)
    return twin.eval()


def import_weights(path, architecture, size):
    """(images uint8) -> activations of ours, from a file."""
    architecture = torch_names.as_published(architecture)
    like = backbones.variable_shapes(backbones.describe(architecture, size))
    arrays = torch_matching.load(architecture, torch_files.read(path), like)
    graphdef = training.structure(
        lambda rngs: models.make_backbone(size=size, rngs=rngs, **architecture), training=False
    )

    @jax.jit
    def apply(arrays, images):
        view = views.centre_view(images, images.shape[1], mean=MEAN, deviation=DEVIATION)
        return training.bind(graphdef, *arrays)(view)

    return lambda images: apply(arrays, jnp.asarray(images))


def normalise(images):
    """As torchvision's transforms do: 0..1, channels first."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torchvision.transforms.functional.normalize(scaled, mean, deviation)


def assert_same(made, expected):
    for name, theirs in expected.items():
        ours, theirs = np.asarray(made[name]), theirs.detach().numpy()
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max(), name


def check(twin, architecture, places, path, *, size, old=False):
    """Compares the modules of the twin called `places`, by our names, as maps or vectors."""
    draw(twin)
    torch.save(twin.state_dict(), path, _use_new_zipfile_serialization=not old)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    expected = {}

    def keep(name):
        def hook(module, given, made):
            made = made.permute(0, 2, 3, 1) if made.ndim == 4 else made
            expected[name] = (made[:, 0, 0] if name == "average" else made).clone()

        return hook

    modules = dict(twin.named_modules())
    for name, place in places.items():
        modules[place].register_forward_hook(keep(name))
    with torch.no_grad():
        twin(normalise(images))
    assert expected.keys() == places.keys()
    assert_same(import_weights(path, architecture, size)(images), expected)


VGG_PLACES = {
    "vgg11": {"conv1_1": 1, "pool1": 2, "conv2_1": 4, "conv3_2": 9, "conv5_2": 19, "pool5": 20},
    "vgg16_bn": {"conv1_1": 2, "pool2": 13, "conv4_3": 32, "conv5_3": 42, "pool5": 43},
    "vgg19": {"conv1_1": 1, "conv3_4": 17, "conv4_4": 26, "conv5_4": 35, "pool5": 36},
}


@pytest.mark.parametrize("name", VGG_PLACES)
def test_vggs(tmp_path, name):
    twin = getattr(torchvision.models, name)()
    places = {ours: f"features.{place}" for ours, place in VGG_PLACES[name].items()}
    architecture = {"name": name.removesuffix("_bn"), "batch_norm": name.endswith("_bn")}
    # The files of torchvision's first VGGs have the older format.
    check(twin, architecture, places, tmp_path / "vgg.pth", size=64, old=name == "vgg11")


def test_alexnet(tmp_path):
    places = {"conv1": 1, "pool1": 2, "conv2": 4, "pool2": 5, "conv3": 7, "conv4": 9, "conv5": 11}
    places = {ours: f"features.{place}" for ours, place in {**places, "pool5": 12}.items()}
    twin = torchvision.models.alexnet()
    check(twin, {"name": "alexnet_torchvision"}, places, tmp_path / "a.pth", size=224)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(tmp_path, name):
    twin = getattr(torchvision.models, name)()
    places = {f"layer{number}": f"layer{number}" for number in range(1, 5)}
    places |= {"pool1": "maxpool", "average": "avgpool"}
    check(twin, {"name": name}, places, tmp_path / "resnet.pth", size=64)


def test_mobilenet(tmp_path):
    twin = torchvision.models.mobilenet_v3_small()
    places = {"conv1": "features.0", "block4": "features.4", "block11": "features.11"}
    places |= {"conv2": "features.12", "average": "avgpool"}
    check(twin, {"name": "mobilenet_v3_small"}, places, tmp_path / "mobile.pth", size=64)


@pytest.mark.parametrize("name", ["vit_b_16", "small"])
def test_vits(tmp_path, name):
    """torchvision's ViT-B/16, and a narrow one with patches of 8 px."""
    torch.manual_seed(0)
    if name == "vit_b_16":
        twin, size, architecture = torchvision.models.vit_b_16(), 224, {"name": "vit_b"}
        depth = 12
    else:
        twin = torchvision.models.VisionTransformer(48, 8, 2, 6, 24, 96)
        size, depth = 48, 2
        architecture = {"name": "vit_s", "head_dim": 4, "depth": depth, "patch": 8}
    torch.save(twin.eval().state_dict(), tmp_path / "vit.pth")
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    made, expected = import_weights(tmp_path / "vit.pth", architecture, size)(images), {}
    side = made["block1"].shape[1]
    for number, layer in enumerate(twin.encoder.layers, start=1):
        layer.register_forward_hook(
            lambda module, given, made, name=f"block{number}": expected.update(
                {name: made[:, 1:].reshape(len(made), side, side, -1).clone()}
            )
        )
    twin.heads = torch.nn.Identity()
    with torch.no_grad():
        expected["class_token"] = twin(normalise(images))
    assert len(expected) == depth + 1
    assert_same(made, expected)


@pytest.mark.parametrize("name", ["vgg13_bn", "alexnet", "resnet34", "resnet50", "mobile", "vit"])
def test_what_we_write_is_loaded_by_torchvision(name):
    """All names are there and none is too much, but for the head and the counts of steps."""
    twins = {
        "vgg13_bn": (torchvision.models.vgg13_bn, {"name": "vgg13", "batch_norm": True}),
        "alexnet": (torchvision.models.alexnet, {"name": "alexnet_torchvision"}),
        "resnet34": (torchvision.models.resnet34, {"name": "resnet34"}),
        "resnet50": (torchvision.models.resnet50, {"name": "resnet50"}),
        "mobile": (torchvision.models.mobilenet_v3_small, {"name": "mobilenet_v3_small"}),
        "vit": (torchvision.models.vit_b_16, {"name": "vit_b"}),
    }
    make, architecture = twins[name]
    architecture = torch_names.as_published(architecture)
    backbone = backbones.random_backbone(backbones.describe(architecture, 224), seed=0)
    number = 2 if name == "vit" else 0
    table = torch_names.tables(architecture)[number]
    arrays = torch_names.arrange(table, backbone.params, backbone.batch_stats)
    tensors = {key: torch.from_numpy(x.copy()) for key, x in arrays.items()}
    missing, unexpected = make().load_state_dict(tensors, strict=False)
    assert not unexpected
    heads = ("classifier.", "fc.", "heads.")
    assert all(key.startswith(heads) for key in missing if not key.endswith("tracked"))
