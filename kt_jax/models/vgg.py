"""VGG: stacks of 3x3 convolutions (Simonyan & Zisserman 2014, configuration D is VGG-16)."""

from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import BatchNorm, Conv, he_normal, identity
from kt_jax.models.pooling import max_pool


class Vgg(nnx.Module):
    """The convolutional part; by default VGG-16's 13 layers, 14,714,688 parameters at width 1.

    channels: the channels of each block, times `width`; convs: layers in each block.
    batch_norm: whether there is a batch norm between each convolution and its ReLU.
    final_pool: whether the last block ends in a pooling (VGG-16's does; small tiles are better
      without).
    """

    def __init__(
        self,
        *,
        size: int,
        channels: tuple[int, ...] = (64, 128, 256, 512, 512),
        convs: tuple[int, ...] = (2, 2, 3, 3, 3),
        width: float = 1.0,
        batch_norm: bool = False,
        final_pool: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        del size  # convolutions of 3 x 3 suit any size
        if len(channels) != len(convs):
            raise ValueError(f"channels {tuple(channels)} and convs {tuple(convs)}: one each.")
        self.channels = tuple(max(1, round(width * count)) for count in channels)
        self.pools = len(channels) if final_pool else len(channels) - 1
        blocks, inputs = [], 3
        for outputs, depth in zip(self.channels, convs, strict=True):
            block = []
            for _ in range(depth):
                block.append(_ConvNormRelu(inputs, outputs, norm=batch_norm, rngs=rngs))
                inputs = outputs
            blocks.append(nnx.List(block))
        self.blocks = nnx.List(blocks)

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default: the last of every block."""
        return tuple(f"conv{n}_{len(block)}" for n, block in enumerate(self.blocks, start=1))

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """conv1_1, conv1_2, pool1, ...; the last entry is the backbone's output."""
        del key  # there is no dropout
        activations = {}
        for number, block in enumerate(self.blocks, start=1):
            for place, layer in enumerate(block, start=1):
                x = activations[f"conv{number}_{place}"] = layer(x)
            if number <= self.pools:
                x = activations[f"pool{number}"] = max_pool(x, 2, 2)
        return activations


class _ConvNormRelu(nnx.Module):
    def __init__(self, inputs: int, outputs: int, *, norm: bool, rngs: nnx.Rngs) -> None:
        self.conv = Conv(inputs, outputs, (3, 3), kernel_init=he_normal, rngs=rngs)
        self.norm = BatchNorm(outputs) if norm else identity

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.norm(self.conv(x)))
