"""VGG without its classifier; the parameters have torchvision's names."""

from preprocessing import Preprocessing
from torch import Tensor, nn


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; conv1_1, conv1_2, pool1, ... [n, c, h, w] out."""

    def __init__(self, channels, convs, batch_norm, pools, mean=(), deviation=()):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        layers, self.names, inputs = [], {}, 3
        for number, (outputs, depth) in enumerate(zip(channels, convs), start=1):
            for place in range(1, depth + 1):
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                layers.extend([nn.BatchNorm2d(outputs)] if batch_norm else [])
                layers.append(nn.ReLU())
                self.names[len(layers) - 1] = f"conv{number}_{place}"
                inputs = outputs
            if number <= pools:
                layers.append(nn.MaxPool2d(2))
                self.names[len(layers) - 1] = f"pool{number}"
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps after ReLU; the last is the output."""
        x, activations = self.preprocessing(images), {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.names:
                activations[self.names[place]] = x
        return activations
