"""Grey levels of 0..255 become the input that the network learned from."""

import torch
from torch import Tensor, nn


class Preprocessing(nn.Module):
    """By the mean and deviation of each channel, or of each image if none are given."""

    def __init__(self, mean, deviation):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            made = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, made if values else None, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Takes [n, 3, h, w], uint8 or float."""
        x = images.float()
        if self.mean is not None:
            return (x - self.mean) / self.deviation
        x = x - x.mean((1, 2, 3), keepdim=True)
        # A deviation under one grey level counts as one, lest a flat image become noise.
        return x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1)
