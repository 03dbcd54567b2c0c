"""AlexNet as in Caffe, or with batch norms instead of groups and LRN; without classifier."""

import torch
from preprocessing import Preprocessing
from torch import Tensor, nn


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; conv1, pool1, ... [n, c, h, w] out."""

    def __init__(self, channels, kernel, stride, batch_norm, mean=(), deviation=()):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        self.scale = 1.0 if batch_norm else 50.0
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.lrn = None if batch_norm else nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        inputs = 3
        for number, outputs in enumerate(channels, start=1):
            size, step, around = {1: (kernel, stride, 0), 2: (5, 1, 2)}.get(number, (3, 1, 1))
            groups = 2 if number in (2, 4, 5) and not batch_norm else 1
            conv = nn.Conv2d(inputs, outputs, size, step, around, groups=groups)
            norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
            setattr(self, f"conv{number}", conv)
            setattr(self, f"norm{number}", norm)
            inputs = outputs

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """conv1..conv5 after ReLU, pooled maps, norm1 and norm2 (LRN); pool5 is the output."""
        x, activations = self.preprocessing(images) * self.scale, {}
        for number in range(1, 6):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"norm{number}")
            x = activations[f"conv{number}"] = torch.relu(norm(conv(x)))
            if number in (1, 2, 5):
                x = activations[f"pool{number}"] = self.pool(x)
            if number in (1, 2) and self.lrn is not None:
                x = activations[f"norm{number}"] = self.lrn(x)
        return activations
