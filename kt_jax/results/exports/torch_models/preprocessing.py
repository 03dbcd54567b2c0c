"""Standardises images, as in the training of the network."""

import torch
from torch import Tensor, nn


class Preprocessing(nn.Module):
    """Subtracts a mean and divides by a standard deviation, in grey levels of 0..255.

    Both are given for each channel. If they are empty, each image has its own.
    """

    def __init__(self, mean, deviation):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            made = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, made if values else None, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardises images [n, 3, h, w], uint8 or float, to float32."""
        x = images.float()
        if self.mean is not None:
            return (x - self.mean) / self.deviation
        x = x - x.mean((1, 2, 3), keepdim=True)
        # At least one grey level, so that the noise of a flat image is not amplified.
        return x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1)
