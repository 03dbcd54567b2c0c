"""MobileNetV3-Small without its classifier; the parameters have torchvision's names."""

from preprocessing import Preprocessing
from torch import Tensor, nn
from torch.nn import functional


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; conv1, block1, ..., conv2, average out.

    stem: the stride and the channels of the first convolution.
    blocks: for each block its kernel size, expanded channels, output channels, channels of
      squeeze-and-excitation (0: none), whether it uses hard swish, and stride.
    """

    def __init__(self, stem, blocks, mean=(), deviation=()):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        stride, inputs = stem
        features = [ConvNorm(3, inputs, 3, stride, activation=nn.Hardswish())]
        for kernel, expanded, outputs, squeezed, hard, step in blocks:
            features.append(Block(inputs, kernel, expanded, outputs, squeezed, hard, step))
            inputs = outputs
        features.append(ConvNorm(inputs, 6 * inputs, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps [n, c, h, w]; the output is average, the mean [n, c] of conv2."""
        x, activations = self.preprocessing(images), {}
        last = len(self.features) - 1
        for place, layer in enumerate(self.features):
            name = {0: "conv1", last: "conv2"}.get(place, f"block{place}")
            x = activations[name] = layer(x)
        activations["average"] = x.mean((2, 3))
        return activations


class ConvNorm(nn.Sequential):
    """A convolution, its batch norm and perhaps an activation function."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, activation=None):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
            *([] if activation is None else [activation]),
        )


class Squeeze(nn.Module):
    """Multiplies each channel by a factor in 0..1."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w]."""
        means = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.fc2(functional.relu(self.fc1(means))))


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs, kernel, expanded, outputs, squeezed, hard, stride):
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        layers = []
        if expanded != inputs:
            layers.append(ConvNorm(inputs, expanded, 1, activation=activation()))
        depthwise = ConvNorm(expanded, expanded, kernel, stride, expanded, activation())
        layers.append(depthwise)
        if squeezed:
            layers.append(Squeeze(expanded, squeezed))
        layers.append(ConvNorm(expanded, outputs, 1))
        self.block = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w]."""
        return self.block(x) + x if self.adds else self.block(x)
