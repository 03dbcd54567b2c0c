"""Layers that flax lacks, or that XLA makes slow as it spells them."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from kt_jax.models.sums import channel_sums, spread

he_normal = nnx.initializers.he_normal()
# A tenth of He's deviation: the first logits are near zero and the first loss near ln(classes).
small_normal = nnx.initializers.variance_scaling(0.02, "fan_in", "truncated_normal")


def pooled_size(size: int, window: int, stride: int) -> int:
    """The side of a map of `size` after pooling in Caffe's ceil mode."""
    return -(-(size - window) // stride) + 1


def max_pool(
    x: Float[Array, "n h w c"], window: int, stride: int, *, ceil: bool = False
) -> Float[Array, "n p q c"]:
    """Maxima over window x window squares.

    `ceil` keeps the last, incomplete window, as Caffe does: the map is padded with -inf at the
    right and at the bottom. Written as maxima of strided slices because the gradient of
    `reduce_window` becomes scatters on XLA:CPU.
    """
    height, width = x.shape[1:3]
    if ceil:
        rows, columns = (pooled_size(side, window, stride) for side in (height, width))
        extra = [(n - 1) * stride + window - side for n, side in ((rows, height), (columns, width))]
        padding = ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0))
        x = jnp.pad(x, padding, constant_values=-jnp.inf)
    else:
        rows, columns = ((side - window) // stride + 1 for side in (height, width))

    def maximum(x: Array, axis: int, count: int) -> Array:
        slices = [
            jax.lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
            for start in range(window)
        ]
        return functools.reduce(jnp.maximum, slices)

    # The name is what `training.make_step(remat=True)` keeps.
    return checkpoint_name(maximum(maximum(x, 1, rows), 2, columns), "pooled")


def adaptive_max_pool(x: Float[Array, "n h w c"], grid: int) -> Float[Array, "n g g c"]:
    """Maxima over grid x grid nearly equal windows; a map no larger than the grid stays as it is.

    Window i covers floor(i h / g) .. ceil((i + 1) h / g), as in PyTorch.

    >>> adaptive_max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    for axis in (1, 2):
        side = x.shape[axis]
        if side > grid:
            windows = [(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
            maxima = [
                jax.lax.slice_in_dim(x, start, stop, axis=axis).max(axis) for start, stop in windows
            ]
            x = jnp.stack(maxima, axis)
    return x


def local_response_norm(
    x: Float[Array, "n h w c"], *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Float[Array, "n h w c"]:
    """Caffe's LRN: x / (1 + alpha / size * sum of `size` neighbouring squares) ** beta."""
    half = size // 2
    squares = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (half, half)))
    total = sum(
        jax.lax.slice_in_dim(squares, start, start + x.shape[-1], axis=3) for start in range(size)
    )
    return x / (1 + alpha / size * total) ** beta


class Conv(nnx.Module):
    """A convolution of pictures and a bias, whose gradient flax's makes slow on CPUs."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        *,
        padding: str = "SAME",
        kernel_init: nnx.Initializer = he_normal,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ) -> None:
        self.strides, self.padding = strides, padding
        shape = (*kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), jnp.float32))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q d"]:
        """In the precision of `x`."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        x = jax.lax.conv_general_dilated(
            x, kernel, self.strides, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x + spread(bias, x.shape)


class GroupedConv(nnx.Module):
    """A convolution in groups, as dense convolutions of the channel groups and a concatenation.

    XLA's partitioner gathers the whole batch on every device for a grouped convolution, and
    XLA:CPU and GPU differentiate one slowly (openxla/xla#47945, jax-ml/jax#13800).
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


class BatchNorm(nnx.Module):
    """Batch normalisation over the global batch, with sums that are quick on CPUs.

    Moments in float32, the result in the precision of what comes in; running averages, which
    `eval()` normalises with.
    """

    momentum = 0.9  # of the running averages
    epsilon = 1e-5

    def __init__(self, features: int) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))
        self.use_running_average = False

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalises over all but the last axis."""
        scale, bias = (each[...].astype(jnp.float32) for each in (self.scale, self.bias))
        wide = x.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            count = x.size // x.shape[-1]
            mean = channel_sums(wide) / count
            variance = channel_sums(jnp.square(wide)) / count - jnp.square(mean)
            variance = jnp.maximum(variance, 0.0)  # rounding may say less
            for running, now in ((self.mean, mean), (self.var, variance)):
                running[...] = self.momentum * running[...] + (1 - self.momentum) * now
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        centred = wide - spread(mean, x.shape)
        return (centred * spread(factor, x.shape) + spread(bias, x.shape)).astype(x.dtype)


def identity(x: Array) -> Array:
    """Stands where a variant of a network has no normalisation."""
    return x
