"""ResNet without its classifier; the parameters have torchvision's names."""

import torch
from preprocessing import Preprocessing
from torch import Tensor, nn


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; conv1, pool1, layer1, ..., average out.

    stem: the downsampling factor before the first stage: 1, 2, or 4 (as in torchvision: a 7x7
      convolution and a pooling).
    """

    def __init__(self, blocks, channels, bottleneck, stem, mean=(), deviation=()):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        inputs, kernel = channels[0], 7 if stem == 4 else 3
        self.conv1 = nn.Conv2d(3, inputs, kernel, min(stem, 2), kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == 4 else None
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        for name, count, width in zip(self.stages, blocks, channels):
            stage = []
            for place in range(count):
                stride = 2 if name != "layer1" and place == 0 else 1
                stage.append(Block(inputs, width, stride, bottleneck))
                inputs = 4 * width if bottleneck else width
            setattr(self, name, nn.Sequential(*stage))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps [n, c, h, w] after ReLU; the output is average, their mean [n, c]."""
        activations = {}
        x = activations["conv1"] = torch.relu(self.bn1(self.conv1(self.preprocessing(images))))
        if self.maxpool is not None:
            x = activations["pool1"] = self.maxpool(x)
        for name in self.stages:
            x = activations[name] = getattr(self, name)(x)
        activations["average"] = x.mean((2, 3))
        return activations


class Block(nn.Module):
    """Convolutions whose output is added to their input."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        if bottleneck:
            plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        else:
            plan = [(width, 3, stride), (width, 3, 1)]
        self.count, before = len(plan), inputs
        for number, (outputs, kernel, step) in enumerate(plan, start=1):
            conv = nn.Conv2d(before, outputs, kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{number}", conv)
            setattr(self, f"bn{number}", nn.BatchNorm2d(outputs))
            before = outputs
        self.downsample = None
        if stride > 1 or inputs != before:
            conv = nn.Conv2d(inputs, before, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(before))

    def forward(self, x: Tensor) -> Tensor:
        """After ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.count + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            x = torch.relu(x + shortcut if number == self.count else x)
        return x
