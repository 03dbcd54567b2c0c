"""MobileNetV3: a network for phones (Howard et al. 2019), as in torchvision."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    DepthwiseConv,
    choose_stem,
    he_normal_out,
    keep,
)

# Table 2 of the paper: kernel, expanded channels, outputs, squeeze-and-excitation, hard swish,
# stride.
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
_EPSILON = 1e-3
# The momentum of running averages is 0.9, as in the other networks here. torchvision's 0.99 is for
# ImageNet's 10^5 steps: after 400 steps its averages would be of weights of 100 steps ago.


class MobileNetV3Small(nnx.Module):
    """The network without the classifier, 927,008 parameters at width 1.

    width: multiplies all channels, in steps of 8.
    stem: the factor by which the first block's maps are smaller than the image. With 4, the
      published one, the first convolution and the first block have a stride of 2. With 2 only the
      convolution has, with 1 neither. 0 chooses by `size`: 4 from 96 px on, 2 from 32 px on, 1
      below.

    Kernels are drawn from a normal distribution of variance 2 / (outputs * height * width). Scales
    of normalisations are 1, all biases 0.
    """

    def __init__(self, *, size: int, width: float = 1.0, stem: int = 0, rngs: nnx.Rngs) -> None:
        stem = choose_stem(stem, size)
        inputs = in_eights(width * 16)
        self.conv1 = ConvNorm(3, inputs, 3, min(stem, 2), epsilon=_EPSILON, rngs=rngs)
        blocks = []
        for number, (kernel, expanded, outputs, squeezes, hard, stride) in enumerate(BLOCKS):
            if number == 0 and stem < 4:
                stride = 1
            expanded, outputs = in_eights(width * expanded), in_eights(width * outputs)
            blocks.append(
                _Block(
                    inputs,
                    expanded,
                    outputs,
                    kernel,
                    stride,
                    squeezes=squeezes,
                    activation=nnx.hard_swish if hard else nnx.relu,
                    rngs=rngs,
                )
            )
            inputs = outputs
        self.blocks = nnx.List(blocks)
        self.conv2 = ConvNorm(inputs, 6 * inputs, 1, epsilon=_EPSILON, rngs=rngs)

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default: the last of every size, and the output."""
        return ("conv1", "block1", "block3", "block8", "block11", "conv2", "average")

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """conv1, block1..block11, conv2; the output is average, the mean [n, c] of conv2.

        conv1 and conv2 are after their hard swish. Blocks end without an activation function.
        """
        del key  # there is no dropout
        activations = {}
        x = activations["conv1"] = nnx.hard_swish(self.conv1(x))
        for number, block in enumerate(self.blocks, start=1):
            x = activations[f"block{number}"] = block(x)
        x = activations["conv2"] = nnx.hard_swish(self.conv2(x))
        activations["average"] = x.mean((1, 2))
        return activations


class _Block(nnx.Module):
    """An inverted residual: 1x1 to more channels, depthwise, squeeze-and-excitation, 1x1."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        squeezes: bool,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        self.adds = stride == 1 and inputs == outputs
        self.expand = (
            None
            if expanded == inputs
            else ConvNorm(inputs, expanded, 1, epsilon=_EPSILON, rngs=rngs)
        )
        self.depthwise = DepthwiseConv(expanded, kernel, stride, rngs=rngs)
        self.norm = BatchNorm(expanded, epsilon=_EPSILON)
        self.squeeze = _SqueezeAndExcitation(expanded, rngs=rngs) if squeezes else None
        self.project = ConvNorm(expanded, outputs, 1, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        given = x
        if self.expand is not None:
            x = self.activation(self.expand(x))
        x = self.activation(self.norm(self.depthwise(x)))
        if self.squeeze is not None:
            x = self.squeeze(x)
        x = self.project(x)
        return keep(x + given if self.adds else x)


class _SqueezeAndExcitation(nnx.Module):
    """Multiplies each channel by a factor in 0..1, computed by a small network from their means."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        squeezed = in_eights(channels // 4)
        self.reduce = Conv(channels, squeezed, (1, 1), kernel_init=he_normal_out, rngs=rngs)
        self.excite = Conv(squeezed, channels, (1, 1), kernel_init=he_normal_out, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        means = x.mean((1, 2), keepdims=True)
        return x * nnx.hard_sigmoid(self.excite(nnx.relu(self.reduce(means))))


def in_eights(channels: int | float) -> int:
    """The nearest multiple of 8, at least 8, and at most a tenth below `channels`.

    >>> [in_eights(x) for x in (2.0, 12.0, 18.0, 36.0)]
    [8, 16, 24, 40]
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
