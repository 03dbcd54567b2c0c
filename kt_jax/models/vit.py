"""Vision transformers (Dosovitskiy et al. 2020) of DeiT's sizes (Touvron et al. 2020)."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import Conv, keep
from kt_jax.models.sums import spread
from kt_jax.models.views import example_keys

_normal = nnx.initializers.normal(0.02)


class ViT(nnx.Module):
    """A vision transformer with a class token and learned position embeddings, without a head.

    The defaults are timm's vit_tiny_patch16_224: 5,524,416 parameters for images of 224 px.
    vit_small_patch16_224 has 6 heads. The initial weights are DeiT's: linear layers, class token
    and position embeddings are Gaussian with deviation 0.02 (DeiT truncates at 100 deviations), and
    biases are 0. The patch embedding has PyTorch's default for convolutions: weights and biases are
    uniform within 1 / sqrt(3 patch^2).

    heads: attention heads of each block; the network has `heads` x `head_dim` channels.
    width: multiplies the number of heads, rounded, at least 1. Their dimension does not change.
    patch: the side of the patches in px; a remainder at the right and at the bottom is cut off. 0
      chooses by `size`: 16 from 128 px on, below that an eighth of `size` (8 x 8 patches), at least
      2.
    layer_scale: whether attention and MLP are multiplied by learned factors of each channel, as in
      DINOv2. The factors start at 1e-5.
    registers: additional tokens after the class token that are not in any activation (Darcet et al.
      2023), as in DINOv2's later weights.
    drop_path: stochastic depth (Huang et al. 2016). In training, the attention and the MLP of the
      last block are each skipped at this rate, those of the first block never, and the rate is
      linear in between.

    Raises:
      ValueError: `drop_path` is not a rate, or a patch is larger than the images.
    """

    def __init__(
        self,
        *,
        size: int,
        depth: int = 12,
        heads: int = 3,
        head_dim: int = 64,
        width: float = 1.0,
        patch: int = 0,
        layer_scale: bool = False,
        registers: int = 0,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path = {drop_path}: give a rate from 0 to below 1")
        self.patch = patch or (16 if size >= 128 else max(2, size // 8))
        _check_patch(self.patch, size)
        self.side = size // self.patch
        self.drop_path, self.deterministic = drop_path, False  # `eval()` sets `deterministic`
        heads = max(1, round(width * heads))
        dim = heads * head_dim
        uniform = _uniform(1 / math.sqrt(3 * self.patch**2))
        self.patches = Conv(
            3,
            dim,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding="VALID",
            kernel_init=uniform,
            bias_init=uniform,
            rngs=rngs,
        )
        self.class_token = nnx.Param(_normal(rngs.params(), (1, dim), jnp.float32))
        # For the class token, then for the patches, row by row.
        self.positions = nnx.Param(_normal(rngs.params(), (1 + self.side**2, dim), jnp.float32))
        tokens = _normal(rngs.params(), (registers, dim), jnp.float32) if registers else None
        self.registers = None if tokens is None else nnx.Param(tokens)
        self.blocks = nnx.List(
            [_Block(dim, heads=heads, layer_scale=layer_scale, rngs=rngs) for _ in range(depth)]
        )
        self.norm = _LayerNorm(dim)

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers for linear probes by default: a block per quarter of the depth, the output."""
        depth = len(self.blocks)
        numbers = sorted({math.ceil(depth * quarter / 4) for quarter in range(1, 5)})
        return (*(f"block{number}" for number in numbers), "class_token")

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """The maps embedding, block1, block2, ... [n, rows, columns, d], then class_token [n, d].

        The maps are those of the patches. `embedding` includes the position embeddings, which are
        resized (bicubic, antialiased) for images of another side than `size`. The class token,
        which is the output, is normalised; the maps of blocks are not.

        Raises:
          ValueError: a patch is larger than the images.
        """
        _check_patch(self.patch, *x.shape[1:3])
        x = self.patches(x)
        count, rows, columns, dim = shape = x.shape
        first, positions = (each.astype(x.dtype) for each in self._positions(rows, columns))
        x = x + jnp.broadcast_to(positions, shape)
        activations = {"embedding": x}
        if self.registers is not None:
            first = jnp.concatenate([first, self.registers[...].astype(x.dtype)])
        others = len(first)
        first = jnp.broadcast_to(first, (count, others, dim))
        x = jnp.concatenate([first, x.reshape(count, rows * columns, dim)], axis=1)
        factors = self._factors(key, x)
        for number, block in enumerate(self.blocks, start=1):
            x = keep(block(x, factors[number - 1]))
            activations[f"block{number}"] = x[:, others:].reshape(shape)
        activations["class_token"] = self.norm(x[:, 0])
        return activations

    def _positions(self, rows: int, columns: int) -> tuple[Array, Array]:
        """The class token [1, d], and the position embeddings of the patches [rows, columns, d]."""
        first, grid = jnp.split(self.positions[...].astype(jnp.float32), [1])
        grid = grid.reshape(self.side, self.side, -1)
        if (rows, columns) != grid.shape[:2]:
            grid = jax.image.resize(grid, (rows, columns, grid.shape[-1]), "bicubic")
        return self.class_token[...].astype(jnp.float32) + first, grid

    def _factors(self, key: Array | None, x: Array) -> Sequence[Array | None]:
        """The factors of each block's attention and MLP, [n, 2]; None: no factor."""
        count, depth = x.shape[0], len(self.blocks)
        if key is None or self.deterministic or not self.drop_path:
            return [None] * depth
        rates = jnp.linspace(0.0, self.drop_path, depth)
        rates = jnp.broadcast_to(rates[None, :, None], (count, depth, 2))
        draw = functools.partial(jax.random.uniform, shape=(depth, 2))
        draws = jax.vmap(draw)(example_keys(key, count))
        return jnp.unstack(jnp.where(draws < rates, 0.0, 1 / (1 - rates)).astype(x.dtype), axis=1)


class _Block(nnx.Module):
    """Attention and an MLP; the input of each is normalised, and added to its output."""

    def __init__(self, dim: int, *, heads: int, layer_scale: bool, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.norm1 = _LayerNorm(dim)
        self.qkv = _Linear(dim, 3 * dim, rngs=rngs)
        self.projection = _Linear(dim, dim, rngs=rngs)
        self.norm2 = _LayerNorm(dim)
        self.fc1 = _Linear(dim, 4 * dim, rngs=rngs)
        self.fc2 = _Linear(4 * dim, dim, rngs=rngs)
        self.scale1 = nnx.Param(jnp.full(dim, 1e-5)) if layer_scale else None
        self.scale2 = nnx.Param(jnp.full(dim, 1e-5)) if layer_scale else None

    def __call__(self, x: Array, factors: Array | None) -> Array:
        branches = (self._attention, self.scale1), (self._mlp, self.scale2)
        for number, (branch, scale) in enumerate(branches):
            y = branch(x)
            if scale is not None:
                y = y * spread(scale[...].astype(x.dtype), x.shape)
            if factors is not None:
                y = y * jnp.broadcast_to(factors[:, number, None, None], y.shape)
            x = x + y
        return x

    def _attention(self, x: Array) -> Array:
        # As in timm: queries, then keys, then values.
        qkv = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = (qkv[:, :, each] for each in range(3))
        logits = jnp.einsum("nqhd,nkhd->nhqk", q * q.shape[-1] ** -0.5, k)
        weights = jax.nn.softmax(logits.astype(jnp.float32)).astype(x.dtype)
        return self.projection(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))

    def _mlp(self, x: Array) -> Array:
        return self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class _Linear(nnx.Module):
    """In the dtype of the input; flax's own would promote it."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_normal(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        x = x @ self.kernel[...].astype(x.dtype)
        return x + spread(self.bias[...].astype(x.dtype), x.shape)


class _LayerNorm(nnx.Module):
    """Over the last axis, in float32; the result has the dtype of the input."""

    def __init__(self, dim: int) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(dim)), nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
        scale, bias = (
            spread(each[...].astype(jnp.float32), x.shape) for each in (self.scale, self.bias)
        )
        return (centred / deviation * scale + bias).astype(x.dtype)


def _uniform(bound: float) -> nnx.Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _check_patch(patch: int, *sides: int) -> None:
    if patch > min(sides):
        raise ValueError(f"a patch of {patch} px is larger than the images of {min(sides)} px")
