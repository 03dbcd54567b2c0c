"""The network to export: a finished Backbone as a function of images."""

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
    """A trained backbone, and the size of its input images."""

    backbone: FrozenBackbone
    size: int
    """The side of the input images in pixels."""
    layers: dict[str, tuple[int, ...]]
    """The shape of every activation of one image, by name and in order: (h, w, c) or (d,)."""

    @property
    def about(self) -> artifacts.Backbone:
        """The description of the backbone."""
        return self.backbone.about


def open_network(directory: Path, *, size: int = 0) -> tuple[Network, Artifact[Any]]:
    """Opens the network of a finished Backbone, or of Features or Clusters, which contain one.

    Args:
      directory: the directory of the artifact.
      size: the side of the input images in pixels; 0: as in training.

    Raises:
      FileNotFoundError: the artifact is not finished, or files are missing.
      ValueError: the artifact has no backbone, its files have changed, its architecture is not
        known, or the images are too small for its layers.
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
    """Makes a network for images of `size` px.

    Raises:
      ValueError: the architecture is not known, or the images are too small for its layers.
    """
    if size < 1:
        raise ValueError(f"size = {size}: give the side of the images in pixels")
    return Network(backbone, size, backbones.layer_shapes(backbone.about, size))


def _find_backbone(artifact: Artifact[Any]) -> tuple[artifacts.Backbone, Path]:
    """The description of an artifact's backbone, and the directory of its files."""
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
    """A function of (params, batch_stats) and images that returns all activations in order.

    Args:
      network: the network.
      rewrite: may replace layers of the module by others that compute the same.
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
    """Computes the activations of images by name, in float32."""
    apply = jax.jit(make_apply(network))
    variables = network.backbone.params, network.backbone.batch_stats
    # By default, GPUs and TPUs multiply with fewer bits.
    with jax.default_matmul_precision("highest"):
        made = jax.device_get(apply(variables, images))
    return dict(zip(network.layers, made, strict=True))


def describe(network: Network) -> dict[str, Any]:
    """The facts that are needed to use the weights, as JSON values."""
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
        # A list keeps the order, which a JSON object may lose.
        "layers": [{"name": name, "shape": shape} for name, shape in network.layers.items()],
        "probe_layers": about.probe_layers,
        "parameters": about.parameters,
    }


def make_metadata(network: Network) -> dict[str, str]:
    """`describe` as texts, for the header of a .safetensors or .onnx file."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in describe(network).items()
    }
