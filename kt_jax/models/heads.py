"""Heads on a backbone: a classifier of images, a solver of puzzles, linear probes."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import BatchNorm, Dense, he_normal, identity, small_normal

_BACKBONE = 1_000  # folded into a key, so that the backbone draws other numbers than the head
_SIZES = 2_000  # the same for crops of another size


@runtime_checkable
class Backbone(Protocol):
    """The interface of a backbone: a network without a head. Images in, activations by name out.

    The class is called with `size` (the side of the training images in pixels), `rngs`, and options
    by keyword, which have defaults.
    """

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers to use in linear probes by default."""
        ...

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """Activations in the order of the layers: maps [n, h, w, c] or vectors [n, d].

        The last one is the output of the backbone, the input of a head. `key` is for dropout and
        the like; without a key nothing is dropped.
        """
        ...


class Classifier(nnx.Module):
    """A backbone and fully connected layers: hidden ones with ReLU and dropout, then logits.

    hidden: widths of the hidden layers. The default is AlexNet's (4096, 4096) if the backbone's
      output is a map, and none if it is a vector, as in ResNets.
    batch_norm: whether hidden layers have batch norms, and He's weights. Otherwise weights are
      Caffe's Gaussian (0.005 and biases 1, the last layer 0.01), as in the paper's AlexNet.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        size: int,
        classes: int,
        hidden: Sequence[int] | None = None,
        dropout: float = 0.5,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.backbone = backbone
        self.shape = _output_shape(backbone, size)  # of the first layer's input
        if hidden is None:
            hidden = (4096, 4096) if len(self.shape) > 1 else ()
        inputs, layers = math.prod(self.shape), []
        for outputs in hidden:
            layers.append(_Dense(inputs, outputs, dropout=dropout, norm=batch_norm, rngs=rngs))
            inputs = outputs
        self.hidden = nnx.List(layers)
        self.output = _make_output(inputs, classes, batch_norm=batch_norm, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b h w 3"] | tuple[Float[Array, "b _ _ _ 3"], ...],
        key: Key[Array, ""] | None = None,
    ) -> dict[str, Float[Array, "..."]]:
        """The backbone's activations, then fc6, fc7, ... and logits [b, classes].

        A tuple has several crops of each image, one array for each size. The result is then only
        the logits [b, crops of all sizes, classes]. Each size is a forward pass, so batch norms
        normalise each size separately; their running averages are those of the first size.

        If the backbone's output is a map, the map of another size is resized (bilinear) to that of
        the network's own size, because the head has weights for each position.

        `key` is for dropout; it may be None in evaluation.
        """
        if isinstance(images, tuple):
            return {"logits": self._classify_crops(images, key)}
        activations = self.backbone(images, _fold(key, _BACKBONE))
        output = list(activations.values())[-1]
        if output.shape[1:] != self.shape:
            output = _resize(output, self.shape)
        x = output.reshape(output.shape[0], -1)
        for number, layer in enumerate(self.hidden):
            x = layer(x, _fold(key, number))
            activations[f"fc{number + 6}"] = x
        activations["logits"] = self.output(x)
        return activations

    def _classify_crops(self, sizes: tuple[Array, ...], key: Array | None) -> Array:
        logits = []
        for number, crops in enumerate(sizes):
            running = nnx.to_pure_dict(nnx.state(self, nnx.BatchStat))
            flat = crops.reshape(-1, *crops.shape[2:])
            # Each size has its own draws: its crops have other positions in the batch.
            made = self(flat, _fold(key, _SIZES + number) if number else key)["logits"]
            logits.append(made.reshape(*crops.shape[:2], -1))
            if number and running:
                nnx.update(self, nnx.State(running))
        return jnp.concatenate(logits, axis=1)


class Solver(nnx.Module):
    """The head for a pretext task; see `JigsawNet`."""

    def __init__(
        self,
        inputs: int,
        *,
        classes: int,
        pictures: int,
        fc6: int,
        fc7: int,
        dropout: float,
        batch_norm: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.fc6 = _Dense(inputs, fc6, dropout=dropout, norm=batch_norm, rngs=rngs)
        self.fc7 = _Dense(pictures * fc6, fc7, dropout=dropout, norm=batch_norm, rngs=rngs)
        self.output = _make_output(fc7, classes, batch_norm=batch_norm, rngs=rngs)

    def solve(self, backbone: Backbone, pictures: Array, key: Array | None) -> dict[str, Array]:
        """The backbone's activations of all pictures [b * p, ...], fc6, fc7 and logits [b, k]."""
        count = pictures.shape[0]
        fc6_key, fc7_key = (None, None) if key is None else jax.random.split(key)
        activations = backbone(pictures.reshape(-1, *pictures.shape[2:]), _fold(key, _BACKBONE))
        x = activations["fc6"] = self.fc6(_flatten(activations), fc6_key)
        x = activations["fc7"] = self.fc7(x.reshape(count, -1), fc7_key)
        activations["logits"] = self.output(x)
        return activations


class JigsawNet(Solver):
    """A backbone shared by all pictures of an example, fc6 on each, fc7 on all, then logits.

    This is the context-free network of the 2016 paper with any backbone (fc6 1024, fc7 4096).
    pictures: pictures of an example: the nine tiles of a puzzle, or fewer in another pretext task.
    batch_norm: as in `Classifier`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        size: int,
        classes: int,
        pictures: int = 9,
        fc6: int = 1024,
        fc7: int = 4096,
        dropout: float = 0.5,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.backbone = backbone
        super().__init__(
            math.prod(_output_shape(backbone, size)),
            classes=classes,
            pictures=pictures,
            fc6=fc6,
            fc7=fc7,
            dropout=dropout,
            batch_norm=batch_norm,
            rngs=rngs,
        )

    def __call__(
        self, pictures: Float[Array, "b p t t 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """The backbone's activations of all pictures [b * p, ...], fc6, fc7 and logits [b, k]."""
        return self.solve(self.backbone, pictures, key)


class LinearProbes(nnx.Module):
    """One linear classifier per layer, each after a batch normalisation without parameters.

    dims: the number of dimensions of each layer.
    channels: rows are flattened maps [h, w, channels]; each channel is normalised.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        channels: Mapping[str, int],
        classes: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.norms = nnx.Dict(
            {
                name: nnx.BatchNorm(
                    channels[name], momentum=0.9, use_scale=False, use_bias=False, rngs=rngs
                )
                for name in dims
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
        """Logits by layer. `key` is not used."""
        del key

        def normalise(name: str, x: Array) -> Array:
            norm = self.norms[name]
            return norm(x.reshape(len(x), -1, norm.num_features)).reshape(x.shape)

        return {name: self.outputs[name](normalise(name, x)) for name, x in features.items()}


class _Dense(nnx.Module):
    """Linear layer, normalisation, ReLU, dropout."""

    def __init__(
        self, inputs: int, outputs: int, *, dropout: float, norm: bool, rngs: nnx.Rngs
    ) -> None:
        self.linear = Dense(
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
    """The backbone's output (its last activation), one row per image."""
    output = list(activations.values())[-1]
    return output.reshape(output.shape[0], -1)


def _resize(x: Array, shape: tuple[int, ...]) -> Array:
    resized = jax.image.resize(x.astype(jnp.float32), (x.shape[0], *shape), "linear")
    return resized.astype(x.dtype)


def _make_output(inputs: int, classes: int, *, batch_norm: bool, rngs: nnx.Rngs) -> Dense:
    """The layer of logits, with Caffe's weights if there are no batch norms."""
    kernel_init = small_normal if batch_norm else nnx.initializers.normal(0.01)
    return Dense(inputs, classes, kernel_init=kernel_init, rngs=rngs)


def _fold(key: Array | None, number: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def activation_shapes(backbone: Backbone, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the activations of one image of `size` px, by name; nothing is computed.

    Raises:
      ValueError: an activation has no elements, because the images are too small.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    names: list[str] = []

    def activations(backbone: Backbone, x: Array) -> list[Array]:
        made = backbone(x)
        names.extend(made)  # in this order: JAX would sort a dict
        return list(made.values())

    try:
        made = nnx.eval_shape(activations, backbone, image)
        shapes = {name: tuple(x.shape[1:]) for name, x in zip(names, made, strict=True)}
        for name, shape in shapes.items():
            if min(shape) < 1:
                raise ValueError(f"{name} has the shape {shape}")
    except ValueError as error:
        raise ValueError(
            f"{type(backbone).__name__} leaves nothing of images of {size} px ({error}): use "
            "larger images or tiles, or a network with fewer poolings"
        ) from None
    return shapes


def _output_shape(backbone: Backbone, size: int) -> tuple[int, ...]:
    return list(activation_shapes(backbone, size).values())[-1]
