"""What is put on a backbone: a classifier of images, a solver of puzzles, linear probes."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from kt_jax.models.layers import BatchNorm, he_normal, identity, small_normal

_BACKBONE = 1_000  # folded into a key: other draws than the layers of a head
_SIZES = 2_000  # likewise, of crops of another size


@runtime_checkable
class Backbone(Protocol):
    """A network without a head: images in, every activation by name out.

    Its class is called with `size`, the side in pixels of the images that it will learn from,
    `rngs`, and options by keyword, which have defaults.
    """

    @property
    def probe_layers(self) -> tuple[str, ...]:
        """The layers that one would probe."""
        ...

    def __call__(
        self, x: Float[Array, "n h w 3"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """Activations in the order of the layers: maps [n, h, w, c] or vectors [n, d].

        The last is the backbone's output, which a head takes. `key` draws what training drops;
        without one nothing is dropped.
        """
        ...


class Classifier(nnx.Module):
    """A backbone and fully connected layers: hidden ones with ReLU and dropout, then logits.

    hidden: their widths. By default AlexNet's (4096, 4096) where the backbone ends in a map, and
      none where it ends in a vector, as ResNets do.
    batch_norm: in the hidden layers, with He's weights; without it Caffe's Gaussian weights
      (0.005 and biases 1, the last layer 0.01), as in the paper's AlexNet.
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
        self.shape = _output_shape(backbone, size)  # of what the first layer takes
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

        A tuple holds several crops of each image, an array for each size: then logits [b, crops of
        all sizes, classes] alone. Each size is a forward pass, so that batch norms normalise it by
        itself; their running averages are those of the first size.

        Where the backbone ends in a map, that of another size than the network was made for is
        resized (bilinear), because the head has weights for each position.

        `key` draws the dropout; it may be None in evaluation.
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
            # A size draws by itself; its crops lie at other places of the batch.
            made = self(flat, _fold(key, _SIZES + number) if number else key)["logits"]
            logits.append(made.reshape(*crops.shape[:2], -1))
            if number and running:
                nnx.update(self, nnx.State(running))
        return jnp.concatenate(logits, axis=1)


class Solver(nnx.Module):
    """The head of a network of a pretext task; see `JigsawNet`."""

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
    """One backbone shared by all pictures of an example, fc6 on each, fc7 on all, logits.

    The context-free network of the 2016 paper, with any backbone (fc6 1024, fc7 4096).
    pictures: of an example: the nine tiles of a puzzle, or fewer for another pretext task.
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
    """One linear classifier a layer, each behind a batch normalisation without parameters.

    dims: how many numbers a row of each layer has.
    channels: a row is a map [h, w, channels], flattened; each channel is normalised.
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
        """Logits by layer; nothing is drawn from `key`."""
        del key

        def normalise(name: str, x: Array) -> Array:
            norm = self.norms[name]
            return norm(x.reshape(len(x), -1, norm.num_features)).reshape(x.shape)

        return {name: self.outputs[name](normalise(name, x)) for name, x in features.items()}


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


def _resize(x: Array, shape: tuple[int, ...]) -> Array:
    resized = jax.image.resize(x.astype(jnp.float32), (x.shape[0], *shape), "linear")
    return resized.astype(x.dtype)


def _make_output(inputs: int, classes: int, *, batch_norm: bool, rngs: nnx.Rngs) -> nnx.Linear:
    """Logits, with Caffe's weights where there are no batch norms."""
    kernel_init = small_normal if batch_norm else nnx.initializers.normal(0.01)
    return nnx.Linear(inputs, classes, kernel_init=kernel_init, rngs=rngs)


def _fold(key: Array | None, number: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def activation_shapes(backbone: Backbone, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the activations of one image of `size` px, by name; nothing is computed.

    Raises:
      ValueError: an activation has no elements, so that the images are too small.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    names: list[str] = []

    def activations(backbone: Backbone, x: Array) -> list[Array]:
        made = backbone(x)
        names.extend(made)  # JAX would sort a dict
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
