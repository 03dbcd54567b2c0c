"""AlexNet: the paper's (Caffe's CaffeNet), a variant with batch norms, and torchvision's."""

from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import (
    BatchNorm,
    Conv,
    GroupedConv,
    he_normal,
    identity,
    local_response_norm,
)
from kt_jax.models.pooling import max_pool

# From a side of this many px on: the kernel and the stride of conv1.
_STEMS = ((128, 11, 4), (64, 7, 2), (24, 5, 2), (0, 3, 1))
# Kernel, stride and padding of each convolution.
_TORCHVISION = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))


class AlexNet(nnx.Module):
    """The convolutional part of AlexNet.

    Without batch_norm it is the paper's: pooling before LRN; two groups in conv2, conv4 and conv5;
    Gaussian weights of deviation 0.01, and biases 1 in those three layers. Its standardised inputs
    are multiplied by 50, the scale that this initialisation was made for (authors' code). With
    batch_norm it has no groups, no LRN, and He's weights. Both have poolings in ceil mode.

    stem_kernel, stem_stride: of conv1. 0 chooses by `size`: 11 and 4 from 128 px on, 7 and 2 from
      64 px on, 5 and 2 from 24 px on, 3 and 1 below. The authors' puzzle network has 11 and 2 for
      tiles of 64 px.
    """

    def __init__(
        self,
        *,
        size: int,
        channels: tuple[int, ...] = (96, 256, 384, 384, 256),
        stem_kernel: int = 0,
        stem_stride: int = 0,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if len(channels) != 5:
            raise ValueError(f"channels {tuple(channels)}: AlexNet has five convolutions.")
        self.channels = tuple(channels)
        usual = next(stem for least, *stem in _STEMS if size >= least)
        stem_kernel, stem_stride = stem_kernel or usual[0], stem_stride or usual[1]
        self.lrn = not batch_norm
        self.scale = 1.0 if batch_norm else 50.0
        kernels = (stem_kernel, 5, 3, 3, 3)
        inputs = (3, *self.channels[:-1])
        self.layers = nnx.List(
            [
                _Layer(
                    inputs[place],
                    self.channels[place],
                    kernel=kernels[place],
                    stride=stem_stride if place == 0 else 1,
                    padding="VALID" if place == 0 else "SAME",
                    grouped=place in (1, 3, 4) and not batch_norm,
                    norm=batch_norm,
                    rngs=rngs,
                )
                for place in range(5)
            ]
        )

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default."""
        return tuple(f"conv{number}" for number in range(1, 6))

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """conv1..conv5 after ReLU, and the pooled maps; the last entry is the output, pool5."""
        del key  # there is no dropout
        activations = {}
        x = x * self.scale
        for number, layer in enumerate(self.layers, start=1):
            x = activations[f"conv{number}"] = layer(x)
            if number in (1, 2, 5):
                x = activations[f"pool{number}"] = max_pool(x, 3, 2, ceil=True)
            if number in (1, 2) and self.lrn:
                x = activations[f"norm{number}"] = local_response_norm(x)
        return activations


class TorchvisionAlexNet(nnx.Module):
    """The convolutional part of torchvision's AlexNet (Krizhevsky 2014): 2,469,696 parameters.

    It has no groups and no LRN, pads the image with zeros, and its poolings drop an incomplete
    window. Images need 63 px or more. The initial weights are He's.
    """

    def __init__(
        self,
        *,
        size: int,
        channels: tuple[int, ...] = (64, 192, 384, 256, 256),
        rngs: nnx.Rngs,
    ) -> None:
        del size  # the stem is the published one
        if len(channels) != 5:
            raise ValueError(f"channels {tuple(channels)}: AlexNet has five convolutions.")
        inputs, layers = 3, []
        for outputs, (kernel, stride, zeros) in zip(channels, _TORCHVISION, strict=True):
            around = (zeros, zeros)
            shape = inputs, outputs, (kernel, kernel), (stride, stride)
            layers.append(Conv(*shape, padding=(around, around), rngs=rngs))
            inputs = outputs
        self.convs = nnx.List(layers)

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default."""
        return tuple(f"conv{number}" for number in range(1, 6))

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """conv1..conv5 after ReLU, and the pooled maps; the last entry is the output, pool5."""
        del key  # there is no dropout
        activations = {}
        for number, conv in enumerate(self.convs, start=1):
            x = activations[f"conv{number}"] = nnx.relu(conv(x))
            if number in (1, 2, 5):
                x = activations[f"pool{number}"] = max_pool(x, 3, 2)
        return activations


class _Layer(nnx.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        padding: str,
        grouped: bool,
        norm: bool,
        rngs: nnx.Rngs,
    ) -> None:
        options = {
            "kernel_size": (kernel, kernel),
            "strides": (stride, stride),
            "padding": padding,
            "kernel_init": he_normal if norm else nnx.initializers.normal(0.01),
            "rngs": rngs,
        }
        if grouped:
            self.conv = GroupedConv(
                inputs, outputs, groups=2, bias_init=nnx.initializers.ones, **options
            )
        else:
            self.conv = Conv(inputs, outputs, **options)
        self.norm = BatchNorm(outputs) if norm else identity

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.norm(self.conv(x)))
