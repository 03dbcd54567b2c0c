"""VGGs against torchvision's, batch-norm AlexNets against one written in PyTorch."""

import pytest
import reference
from flax import nnx
from torch.nn import BatchNorm2d, Conv2d, MaxPool2d, ReLU, Sequential
from torchvision.models.vgg import cfgs, make_layers

from kt_jax import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("name", "letter"), [("vgg11", "A"), ("vgg13", "B"), ("vgg16", "D")])
def test_vggs_are_torchvisions(name, letter, batch_norm):
    net = nnx.jit(
        lambda: models.make_backbone(name, size=48, batch_norm=batch_norm, rngs=nnx.Rngs(0))
    )()
    twin = make_layers(cfgs[letter], batch_norm=batch_norm)
    places, block, place = {}, 1, 0
    for module in twin:
        if isinstance(module, ReLU):
            place += 1
            places[f"conv{block}_{place}"] = module
        elif isinstance(module, MaxPool2d):
            places[f"pool{block}"] = module
            block, place = block + 1, 0
    reference.compare(net, twin, places, size=48)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(48, 5, 2), (64, 7, 2), (131, 11, 4)])
def test_batch_norm_alexnet_is_pytorchs(size, kernel, stride):
    net = nnx.jit(
        lambda: models.make_backbone("alexnet", size=size, batch_norm=True, rngs=nnx.Rngs(0))
    )()

    def layer(inputs, outputs, *kernel_stride_padding):
        return [Conv2d(inputs, outputs, *kernel_stride_padding), BatchNorm2d(outputs), ReLU()]

    pools = [MaxPool2d(3, 2, ceil_mode=True) for _ in range(3)]
    twin = Sequential(
        *layer(3, 96, kernel, stride), pools[0],
        *layer(96, 256, 5, 1, 2), pools[1],
        *layer(256, 384, 3, 1, 1),
        *layer(384, 384, 3, 1, 1),
        *layer(384, 256, 3, 1, 1), pools[2],
    )  # fmt: skip
    relus = [module for module in twin if isinstance(module, ReLU)]
    places = {f"conv{n}": relu for n, relu in enumerate(relus, start=1)}
    places |= {"pool1": pools[0], "pool2": pools[1], "pool5": pools[2]}
    order = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    reference.compare(net, twin, {name: places[name] for name in order}, size=size)
