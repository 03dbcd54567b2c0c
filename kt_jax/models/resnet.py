"""ResNet: residual networks (He et al. 2015), as in torchvision."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import ConvNorm, choose_stem, identity, keep
from kt_jax.models.pooling import max_pool


class ResNet(nnx.Module):
    """The network without the classifier; by default ResNet-18, 11,176,512 parameters at width 1.

    blocks: residual blocks in each stage. The first stage has 64 channels. Each further stage has
      twice as many channels, and maps of half the side. A bottleneck's output has four times as
      many.
    bottleneck: whether blocks are a 1x1, a 3x3 and a 1x1 convolution, instead of two of 3x3.
    width: multiplies all channels.
    stem: the factor by which the first stage's maps are smaller than the image. 4 is the published
      stem, a 7x7 convolution of stride 2 and a pooling; 2 and 1 are a 3x3 convolution of that
      stride. 0 chooses by `size`: 4 from 96 px on, 2 from 32 px on, 1 below.

    Kernels are drawn from a normal distribution of variance 2 / (outputs * height * width). Scales
    of normalisations are 1, their biases 0.
    """

    def __init__(
        self,
        *,
        size: int,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: float = 1.0,
        stem: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        stem = choose_stem(stem, size)
        inputs = max(1, round(width * 64))
        self.conv1 = ConvNorm(3, inputs, 7 if stem == 4 else 3, min(stem, 2), rngs=rngs)
        self.pools = stem == 4
        stages = []
        for number, count in enumerate(blocks):
            channels = max(1, round(width * 64 * 2**number))
            stage = []
            for place in range(count):
                stride = 2 if number > 0 and place == 0 else 1
                block = _Block(inputs, channels, stride, bottleneck=bottleneck, rngs=rngs)
                stage.append(block)
                inputs = block.outputs
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default."""
        return ("conv1", *(f"layer{n}" for n in range(1, len(self.stages) + 1)), "average")

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """conv1, pool1 (of stem 4), layer1..layer4; the output is average, their mean [n, c].

        Maps are after ReLU.
        """
        del key  # there is no dropout
        activations = {}
        x = activations["conv1"] = nnx.relu(self.conv1(x))
        if self.pools:
            # After a ReLU, zero padding never is the maximum.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = activations["pool1"] = max_pool(x, 3, 2)
        for number, stage in enumerate(self.stages, start=1):
            for block in stage:
                x = block(x)
            activations[f"layer{number}"] = x
        activations["average"] = x.mean((1, 2))
        return activations


class _Block(nnx.Module):
    """Convolutions plus their input. A projection adapts the input to a stride or new channels.

    The stride of a bottleneck is in the 3x3 convolution, not in the first 1x1: as torchvision's
    v1.5.
    """

    def __init__(
        self, inputs: int, channels: int, stride: int, *, bottleneck: bool, rngs: nnx.Rngs
    ) -> None:
        self.outputs = 4 * channels if bottleneck else channels
        if bottleneck:
            plan = [(channels, 1, 1), (channels, 3, stride), (self.outputs, 1, 1)]
        else:
            plan = [(channels, 3, stride), (channels, 3, 1)]
        ins = (inputs, *(outputs for outputs, _, _ in plan))
        self.convs = nnx.List(
            [ConvNorm(before, *each, rngs=rngs) for before, each in zip(ins, plan, strict=False)]
        )
        projects = stride > 1 or inputs != self.outputs
        self.shortcut = (
            ConvNorm(inputs, self.outputs, 1, stride, rngs=rngs) if projects else identity
        )

    def __call__(self, x: Array) -> Array:
        shortcut = self.shortcut(x)
        for number, conv in enumerate(self.convs):
            x = conv(nnx.relu(x) if number else x)
        return keep(nnx.relu(x + shortcut))
