"""The network that is exported: a finished Backbone, and what it computes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from kt_jax import models, training
from kt_jax.evaluation import backbones
from kt_jax.evaluation.backbones import FrozenBackbone
from kt_jax.models import views
from kt_jax.runs import artifacts
from kt_jax.runs.artifacts import Artifact


@dataclass(frozen=True)
class Network:
    """A trained backbone, and the images that it is exported for."""

    backbone: FrozenBackbone
    size: int
    """The side of the images, in pixels."""
    layers: dict[str, tuple[int, ...]]
    """The shape of every activation of an image, by name and in order: (h, w, c) or (d,)."""

    @property
    def about(self) -> artifacts.Backbone:
        """What the backbone is."""
        return self.backbone.about


def open_network(directory: Path, *, size: int = 0) -> tuple[Network, Artifact[Any]]:
    """Opens a finished artifact that is a backbone or carries one (Features, Clusters).

    Args:
      directory: of the artifact.
      size: the side of the images, in pixels; 0 takes that of the images it learned from.

    Raises:
      FileNotFoundError: there is no finished artifact, or files of it have gone.
      ValueError: it has no backbone, its files are not what was written, its architecture is not
        known, or nothing is left of images that small.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    artifact = artifacts.open_artifact(directory, name=str(directory), reader="export")
    about, place = _find_backbone(artifact)
    try:
        return make_network(backbones.load_backbone(place, about), size or about.size), artifact
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from None


def make_network(backbone: FrozenBackbone, size: int) -> Network:
    """A backbone for images of `size` px.

    Raises:
      ValueError: its architecture is not known, or nothing is left of images that small.
    """
    if size < 1:
        raise ValueError(f"size = {size}: give the side of the images in pixels")
    return Network(backbone, size, backbones.layer_shapes(backbone.about, size))


def _find_backbone(artifact: Artifact[Any]) -> tuple[artifacts.Backbone, Path]:
    """What the backbone of an artifact is, and where its files are."""
    about = artifact.about
    if isinstance(about, artifacts.Backbone):
        return about, artifact.directory
    if isinstance(about, artifacts.Clusters):
        about = about.features
    if isinstance(about, artifacts.Features) and about.backbone is not None:
        return about.backbone, artifact / backbones.CARRIED
    raise ValueError(
        f"{artifact.directory} is of type {artifact.manifest['type']}, without a network: name a "
        "Backbone, such as RUN/student or RUN/pretext"
    )


Variables = tuple[Any, Any]
Apply = Callable[[Variables, UInt8[Array, "b s s 3"]], list[Float[Array, "b ..."]]]


def make_structure(network: Network) -> nnx.Module:
    """The network as an NNX module, in evaluation mode and without arrays."""
    about = network.about

    def make() -> nnx.Module:
        made = models.make_backbone(size=about.size, rngs=nnx.Rngs(0), **about.architecture)
        return cast(nnx.Module, made)

    model = nnx.eval_shape(make)
    model.eval()
    return model


def make_apply(network: Network, rewrite: Callable[[nnx.Module], None] | None = None) -> Apply:
    """A function of (params, batch_stats) and images: all activations, in the order of the layers.

    Args:
      network: what it computes.
      rewrite: changes layers of the structure into others that compute the same.
    """
    about, model = network.about, make_structure(network)
    if rewrite is not None:
        rewrite(model)
    graphdef, _, _ = nnx.split(model, nnx.Param, nnx.BatchStat)

    def apply(variables: Variables, images: Array) -> list[Array]:
        shown = views.centre_view(images, network.size, mean=about.mean, deviation=about.deviation)
        return list(training.bind(graphdef, *variables)(shown).values())

    return apply


def compute(
    network: Network, images: UInt8[np.ndarray, "b s s 3"]
) -> dict[str, Float[np.ndarray, "b ..."]]:
    """The activations of images, in float32."""
    apply = jax.jit(make_apply(network))
    variables = network.backbone.params, network.backbone.batch_stats
    # GPUs and TPUs would multiply in fewer bits.
    with jax.default_matmul_precision("highest"):
        made = jax.device_get(apply(variables, images))
    return dict(zip(network.layers, made, strict=True))


def describe(network: Network) -> dict[str, Any]:
    """What a reader must know to use the weights, as JSON can hold it."""
    about = network.about
    options = dict(about.architecture)
    return {
        "architecture": options.pop("name"),
        "options": options,
        "preprocessing": about.preprocessing,
        "mean": about.mean,
        "deviation": about.deviation,
        "built_for_size": about.size,
        "image_size": network.size,
        # In their order, which a dict loses in a file.
        "layers": [{"name": name, "shape": shape} for name, shape in network.layers.items()],
        "probe_layers": about.probe_layers,
        "parameters": about.parameters,
    }


def make_metadata(network: Network) -> dict[str, str]:
    """`describe` for the header of a .safetensors or .onnx file, which holds nothing but text."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in describe(network).items()
    }
