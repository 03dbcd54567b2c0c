"""Layers that flax does not have, or whose flax versions are slow with XLA."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from kt_jax.models.sums import channel_sums, spread

KEPT = "kept"  # the name of activations that rematerialisation keeps

he_normal = nnx.initializers.he_normal()
# As torchvision's residual networks: by the outputs of a kernel instead of its inputs.
he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# A tenth of He's deviation: the first logits are near zero and the first loss near ln(classes).
small_normal = nnx.initializers.variance_scaling(0.02, "fan_in", "truncated_normal")


def keep(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks what `training.make_step(remat=True)` keeps. It computes everything else again."""
    return checkpoint_name(x, KEPT)


def local_response_norm(
    x: Float[Array, "n h w c"], *, size: int = 5, alpha: float = 1e-4
) -> Float[Array, "n h w c"]:
    """Caffe's LRN: x / (1 + alpha / size * sum of `size` neighbouring squares) ** 0.75.

    It is computed in float32 for any dtype of `x`: in bfloat16 sums below 98 would vanish beside
    the 1. The power is made of square roots, because powers are slow on CPUs.
    """
    half = size // 2
    # Exports recognise the operation by this name; profiles show it.
    with jax.named_scope(f"local_response_norm_{size}_{alpha}_0.75"):
        wide = x.astype(jnp.float32)
        squares = jnp.pad(jnp.square(wide), ((0, 0), (0, 0), (0, 0), (half, half)))
        total = sum(
            jax.lax.slice_in_dim(squares, start, start + x.shape[-1], axis=3)
            for start in range(size)
        )
        root = jnp.sqrt(1 + alpha / size * total)
        return (wide / (root * jnp.sqrt(root))).astype(x.dtype)


class Conv(nnx.Module):
    """A convolution of images. flax's own has a gradient that is slow on CPUs.

    use_bias: False if a normalisation follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        *,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        use_bias: bool = True,
        kernel_init: nnx.Initializer = he_normal,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ) -> None:
        self.strides, self.padding = strides, padding
        shape = (*kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (out_features,), jnp.float32)) if use_bias else None
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q d"]:
        """In the dtype of `x`."""
        x = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            self.strides,
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x if self.bias is None else x + spread(self.bias[...].astype(x.dtype), x.shape)


class Dense(nnx.Linear):
    """nnx.Linear whose bias has a gradient that is summed in float32.

    nnx.Linear's own is summed in the dtype of the inputs: a GPU would add up the rows in bfloat16.
    """

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n e"]:
        """In the dtype of `x` and the weights."""
        assert self.bias is not None
        given = x, self.kernel[...], self.bias[...]
        x, kernel, bias = self.promote_dtype(given, dtype=self.dtype)
        x = x @ kernel
        return x + spread(bias, x.shape)


class GroupedConv(nnx.Module):
    """A convolution in groups: dense convolutions of the channel groups, concatenated.

    For a grouped convolution XLA's partitioner gathers the whole batch on every device, and XLA:CPU
    and GPU have slow gradients (openxla/xla#47945, jax-ml/jax#13800).
    """

    def __init__(self, in_features: int, out_features: int, *, groups: int, **options) -> None:
        self.convs = nnx.List(
            [Conv(in_features // groups, out_features // groups, **options) for _ in range(groups)]
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q d"]:
        """Applies convolution g to channel group g."""
        parts = jnp.split(x, len(self.convs), axis=-1)
        return jnp.concatenate(
            [conv(part) for conv, part in zip(self.convs, parts, strict=True)], axis=-1
        )


class DepthwiseConv(nnx.Module):
    """A convolution of each channel with its own kernel, padded with half a kernel of zeros.

    It is a sum of shifted products in float32. On two cores and 64 images of 48 px, forward and
    backward passes of MobileNetV3-Small's eleven take 0.09 s. lax's grouped convolution takes 1.0
    s, and XLA's partitioner gathers the batch for it (see `GroupedConv`).
    """

    def __init__(self, features: int, kernel_size: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        self.stride = stride
        shape = (kernel_size, kernel_size, 1, features)
        self.kernel = nnx.Param(he_normal_out(rngs.params(), shape, jnp.float32))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
        """In the dtype of `x`."""
        kernel = self.kernel[...].astype(jnp.float32)[:, :, None, None]
        size, stride = kernel.shape[0], self.stride
        rows, columns = ((side - 1) // stride * stride + 1 for side in x.shape[1:3])
        around = (size // 2, size // 2)
        wide = jnp.pad(x.astype(jnp.float32), ((0, 0), around, around, (0, 0)))
        products = [
            wide[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j]
            for i in range(size)
            for j in range(size)
        ]
        return functools.reduce(jnp.add, products).astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over the global batch, with sums that are fast on CPUs.

    Moments are in float32, and the result has the dtype of the input. After `eval()` it normalises
    with the running averages.
    """

    def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5) -> None:
        self.momentum, self.epsilon = momentum, epsilon  # momentum of the running averages
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))
        self.use_running_average = False

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalises over all axes but the last."""
        scale, bias = (each[...].astype(jnp.float32) for each in (self.scale, self.bias))
        wide = x.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            count = x.size // x.shape[-1]
            mean = channel_sums(wide) / count
            variance = channel_sums(jnp.square(wide)) / count - jnp.square(mean)
            variance = jnp.maximum(variance, 0.0)  # rounding may make it negative
            for running, now in ((self.mean, mean), (self.var, variance)):
                running[...] = self.momentum * running[...] + (1 - self.momentum) * now
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        centred = wide - spread(mean, x.shape)
        return (centred * spread(factor, x.shape) + spread(bias, x.shape)).astype(x.dtype)


class ConvNorm(nnx.Module):
    """A convolution without bias and its batch normalisation, as in torchvision's networks.

    The map is padded with half a kernel of zeros. "SAME" would pad differently in strided
    convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        stride: int = 1,
        *,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ) -> None:
        around = (kernel_size // 2, kernel_size // 2)
        self.conv = Conv(
            inputs,
            outputs,
            (kernel_size, kernel_size),
            (stride, stride),
            padding=(around, around),
            use_bias=False,
            kernel_init=he_normal_out,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, epsilon=epsilon)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q d"]:
        """Without a ReLU."""
        return self.norm(self.conv(x))


def choose_stem(stem: int, size: int) -> int:
    """The factor by which maps after the stem are smaller than the image: 1, 2 or 4.

    `stem` is the factor, or 0 to choose it by the side of the images: 4 from 96 px on, 2 from 32 px
    on, otherwise 1.

    Raises:
      ValueError: `stem` is another number.
    """
    if stem not in (0, 1, 2, 4):
        raise ValueError(f"stem = {stem}: maps are 1, 2 or 4 times smaller; 0 chooses by the size")
    return stem or (4 if size >= 96 else 2 if size >= 32 else 1)


def identity(x: Array) -> Array:
    """Replaces a normalisation in networks without one."""
    return x
