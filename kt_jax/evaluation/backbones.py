"""Frozen backbones: a trained network at rest, and the features that it gives.

Three stages read features of whole images (features, pseudo_labels, probe); they must agree
to the bit on how an image is viewed, which layer is taken and how it is pooled.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from kt_jax import data, models, training
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts

NETWORK = "network.safetensors"
DESCRIPTION = "backbone.json"


@dataclass(frozen=True)
class FrozenBackbone:
    """The convolutional part of a network: its name and options, and its arrays."""

    options: Mapping[str, Any]
    params: Any
    batch_stats: Any


def save_network(
    directory: Path, options: Mapping[str, Any], params: Any, batch_stats: Any
) -> None:
    """Writes a trained network (params/... and batch_stats/...), and what its backbone is."""
    tree = jax.device_get({"params": params, "batch_stats": batch_stats})
    artifacts.write_tensors(directory / NETWORK, tree)
    artifacts.write_json(directory / DESCRIPTION, dict(options))


def load_backbone(directory: Path) -> FrozenBackbone:
    """The backbone of the network that a stage left in `directory`."""
    tree = artifacts.read_tensors(directory / NETWORK)
    options = artifacts.read_json(directory / DESCRIPTION)
    batch_stats = tree.get("batch_stats", {}).get("backbone", {})
    return FrozenBackbone(options, tree["params"]["backbone"], batch_stats)


def random_backbone(options: Mapping[str, Any], *, seed: int) -> FrozenBackbone:
    """A backbone as it is before training."""
    params, batch_stats = jax.jit(
        lambda: training.init_variables(
            lambda rngs: models.make_backbone(rngs=rngs, **options), seed
        )
    )()
    return FrozenBackbone(options, params, batch_stats)


def extract(
    backbone: FrozenBackbone,
    images: Any,
    grids: Mapping[str, int],
    *,
    size: int,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Any,
    mirrored: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, Float[np.ndarray, "rows d"]]]]:
    """Yields (indices, {layer: features}) batch by batch, in the order of the images.

    A feature is the layer's activation on the central view of `size` px, max-pooled to
    grids[layer] x grids[layer] and flattened, as float16: the precision at rest, so that what
    is computed again equals what was stored.

    Raises:
      ValueError: for activations beyond float16.
      SystemExit: when `notice`, asked before every batch, says to stop.
    """

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return models.make_backbone(rngs=rngs, **backbone.options)

    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def features(variables: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        view = views.centre_view(pixels, size)
        model = training.bind(graphdef, *variables)
        activations = model(views.mirror(view) if mirrored else view)
        pooled = {name: models.adaptive_max_pool(activations[name], g) for name, g in grids.items()}
        return {name: x.reshape(x.shape[0], -1).astype(jnp.float16) for name, x in pooled.items()}

    variables = jax.device_put((backbone.params, backbone.batch_stats), partition.replicated(mesh))
    for batch in data.eval_batches(images, batch_size, reading=reading):
        notice.check()
        shown = partition.put_batch(
            {name: batch[name] for name in ("image", "index", "mask")}, mesh
        )
        pixels = shown.pop("image")
        rows, shown = partition.fetch((features(variables, pixels), shown))
        mask = shown["mask"]
        for name, x in rows.items():
            if not np.isfinite(x[mask]).all():
                raise ValueError(
                    f"layer {name!r} exceeds the range of float16 (65504) or is not finite: use "
                    "an earlier layer, or a backbone with batch_norm."
                )
        yield shown["index"][mask], {name: x[mask] for name, x in rows.items()}


def layer_shapes(options: Mapping[str, Any], size: int) -> dict[str, tuple[int, int, int]]:
    """Height, width and channels of every activation on pictures of `size` px, by name."""

    def activations(pixels: jax.Array) -> dict[str, jax.Array]:
        return models.make_backbone(rngs=nnx.Rngs(0), **options)(pixels)

    shapes = jax.eval_shape(activations, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return {name: shape.shape[1:] for name, shape in shapes.items()}


def check_layers(origin: str, layers: Iterable[str], options: Mapping[str, Any], size: int) -> None:
    """Refuses layers that a backbone has not.

    Raises:
      ValueError: naming those that it has.
    """
    known = layer_shapes(options, size)
    for layer in layers:
        if layer not in known:
            raise ValueError(
                f"{origin} names {layer!r}, which the {options['name']} has not: choose from "
                f"{', '.join(known)}."
            )


def parameter_count(make_model: training.MakeModel) -> int:
    """How many parameters a network has; nothing is computed."""
    params, _ = jax.eval_shape(lambda: training.init_variables(make_model, 0))
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
