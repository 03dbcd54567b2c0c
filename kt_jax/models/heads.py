"""What is put on a backbone: a classifier of images, a solver of puzzles, linear probes."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import BatchNorm, he_normal, identity, small_normal


@runtime_checkable
class Backbone(Protocol):
    """A network without a head: pictures in, every activation by name out, the last its output."""

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers that one would probe."""
        ...

    def output_shape(self, size: int) -> tuple[int, int, int]:
        """Height, width and channels of the output for pictures of `size` px."""
        ...

    def __call__(self, x: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "..."]]:
        """Activations [n, h, w, c], in the order of the layers."""
        ...


class Classifier(nnx.Module):
    """A backbone and fully connected layers: hidden ones with ReLU and dropout, then logits.

    hidden: their widths, AlexNet's (4096, 4096) by default.
    batch_norm: in the hidden layers, with He's weights; without it Caffe's Gaussian weights
      (0.005 and biases 1, the last layer 0.01), as in the paper's AlexNet.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        size: int,
        classes: int,
        hidden: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = output_shape(backbone, size)
        self.backbone = backbone
        inputs = height * width * channels
        layers = []
        for outputs in hidden:
            layers.append(_Dense(inputs, outputs, dropout=dropout, norm=batch_norm, rngs=rngs))
            inputs = outputs
        self.hidden = nnx.List(layers)
        kernel_init = small_normal if batch_norm else nnx.initializers.normal(0.01)
        self.output = nnx.Linear(inputs, classes, kernel_init=kernel_init, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """The backbone's activations, then fc6, fc7, ... and logits [b, classes].

        `key` draws the dropout; it may be None in evaluation.
        """
        activations = self.backbone(images)
        x = _flatten(activations)
        for number, layer in enumerate(self.hidden):
            x = layer(x, None if key is None else jax.random.fold_in(key, number))
            activations[f"fc{number + 6}"] = x
        activations["logits"] = self.output(x)
        return activations


class JigsawNet(nnx.Module):
    """One backbone shared by nine tiles, fc6 on each tile, fc7 on their concatenation, logits.

    The context-free network of the 2016 paper, with any backbone (fc6 1024, fc7 4096).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        size: int,
        classes: int,
        fc6: int = 1024,
        fc7: int = 4096,
        dropout: float = 0.5,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = output_shape(backbone, size)
        self.backbone = backbone
        inputs = height * width * channels
        self.fc6 = _Dense(inputs, fc6, dropout=dropout, norm=batch_norm, rngs=rngs)
        self.fc7 = _Dense(9 * fc6, fc7, dropout=dropout, norm=batch_norm, rngs=rngs)
        self.output = nnx.Linear(fc7, classes, kernel_init=small_normal, rngs=rngs)

    def __call__(
        self, tiles: Float[Array, "b tiles t t 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """The backbone's activations of all tiles [b * 9, ...], fc6, fc7, logits [b, classes]."""
        count = tiles.shape[0]
        keys = (None, None) if key is None else jax.random.split(key)
        activations = self.backbone(tiles.reshape(-1, *tiles.shape[2:]))
        x = activations["fc6"] = self.fc6(_flatten(activations), keys[0])
        x = activations["fc7"] = self.fc7(x.reshape(count, -1), keys[1])
        activations["logits"] = self.output(x)
        return activations


class LinearProbes(nnx.Module):
    """One linear classifier a layer, each behind a batch normalisation without parameters."""

    def __init__(self, dims: Mapping[str, int], *, classes: int, rngs: nnx.Rngs) -> None:
        self.norms = nnx.Dict(
            {
                name: nnx.BatchNorm(dim, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs)
                for name, dim in dims.items()
            }
        )
        self.outputs = nnx.Dict(
            {
                name: nnx.Linear(dim, classes, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
                for name, dim in dims.items()
            }
        )

    def __call__(
        self, features: Mapping[str, Float[Array, "b d"]], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "b classes"]]:
        """Logits by layer; nothing is drawn from `key`."""
        del key
        return {name: self.outputs[name](self.norms[name](x)) for name, x in features.items()}


class _Dense(nnx.Module):
    """Linear, normalisation, ReLU, dropout."""

    def __init__(
        self, inputs: int, outputs: int, *, dropout: float, norm: bool, rngs: nnx.Rngs
    ) -> None:
        self.linear = nnx.Linear(
            inputs,
            outputs,
            kernel_init=he_normal if norm else nnx.initializers.normal(0.005),
            bias_init=nnx.initializers.zeros if norm else nnx.initializers.ones,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs) if norm else identity
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, key: Array | None) -> Array:
        return self.dropout(nnx.relu(self.norm(self.linear(x))), rngs=key)


def _flatten(activations: Mapping[str, Array]) -> Array:
    """The backbone's output, its last activation, as one row an image."""
    output = list(activations.values())[-1]
    return output.reshape(output.shape[0], -1)


def output_shape(backbone: Backbone, size: int) -> tuple[int, int, int]:
    """Height, width and channels of what a backbone makes of pictures of `size` px.

    Raises:
      ValueError: nothing is left of them.
    """
    shape = backbone.output_shape(size)
    if min(shape) < 1:
        raise ValueError(
            f"{type(backbone).__name__} leaves nothing of pictures of {size} px (shape {shape}): "
            "use larger pictures or tiles, or a backbone with fewer poolings."
        )
    return shape
