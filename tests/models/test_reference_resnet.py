"""ResNets against torchvision's."""

import pytest
import reference
import torch
import torchvision
from flax import nnx

from kt_jax import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [
        ("resnet18", 64, 4),
        ("resnet18", 33, 2),  # odd sides are padded on both sides too
        ("resnet18", 12, 1),
        ("resnet34", 32, 2),
        ("resnet50", 64, 4),
    ],
)
def test_resnets_are_torchvisions(name, size, stem):
    net = nnx.jit(lambda: models.make_backbone(name, size=size, stem=stem, rngs=nnx.Rngs(0)))()
    twin = getattr(torchvision.models, name)()
    twin.fc = torch.nn.Identity()
    pool = {"pool1": twin.maxpool}
    if stem < 4:
        twin.conv1 = torch.nn.Conv2d(3, 64, 3, stem, padding=1, bias=False)
        twin.maxpool, pool = torch.nn.Identity(), {}
    stages = {f"layer{n}": getattr(twin, f"layer{n}") for n in range(1, 5)}
    places = {"conv1": twin.relu, **pool, **stages, "average": twin.avgpool}
    # Deep networks on few images make rounding larger.
    reference.compare(net, twin, places, size=size, tolerance=5e-4, slack=5e-2)
