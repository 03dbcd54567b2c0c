"""torchvision's AlexNet without its classifier; the parameters have torchvision's names."""

from preprocessing import Preprocessing
from torch import Tensor, nn

NAMES = {1: "conv1", 2: "pool1", 4: "conv2", 5: "pool2", 7: "conv3", 9: "conv4", 11: "conv5"}


class Network(nn.Module):
    """Images [n, 3, h, w] of 0..255 in; conv1, pool1, ... [n, c, h, w] out."""

    def __init__(self, channels, mean=(), deviation=()):
        super().__init__()
        self.preprocessing = Preprocessing(mean, deviation)
        one, two, three, four, five = channels
        self.features = nn.Sequential(
            nn.Conv2d(3, one, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(one, two, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(two, three, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(three, four, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(four, five, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """conv1..conv5 after ReLU, and the pooled maps; pool5 is the output."""
        x, activations = self.preprocessing(images), {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in NAMES:
                activations[NAMES[place]] = x
        return {**activations, "pool5": x}
