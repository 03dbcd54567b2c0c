"""MobileNetV3-Small against torchvision's."""

import pytest
import reference
import torch
import torchvision
from flax import nnx

from kt_jax import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("size", "stem"), [(64, 4), (33, 2), (12, 1)])
def test_mobilenet_is_torchvisions(size, stem):
    net = models.make_backbone("mobilenet_v3_small", size=size, stem=stem, rngs=nnx.Rngs(0))
    twin = torchvision.models.mobilenet_v3_small()
    twin.classifier = torch.nn.Identity()
    conv1, *blocks, conv2 = twin.features
    conv1[0].stride = min(stem, 2)
    if stem < 4:
        blocks[0].block[0][0].stride = 1
        blocks[0].use_res_connect = True  # it gives what it gets: 16 channels, no stride
    places = {f"block{n}": block for n, block in enumerate(blocks, start=1)}
    places = {"conv1": conv1, **places, "conv2": conv2, "average": twin.avgpool}
    reference.compare(net, twin, places, size=size)


def test_narrow_mobilenet_is_torchvisions():
    net = models.make_backbone("mobilenet_v3_small", size=96, width=0.35, rngs=nnx.Rngs(0))
    twin = torchvision.models.mobilenet_v3_small(width_mult=0.35)
    twin.classifier = torch.nn.Identity()
    conv1, *blocks, conv2 = twin.features
    places = {f"block{n}": block for n, block in enumerate(blocks, start=1)}
    places = {"conv1": conv1, **places, "conv2": conv2, "average": twin.avgpool}
    reference.compare(net, twin, places, size=32)
