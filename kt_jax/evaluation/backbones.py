"""Frozen backbones: trained networks, their description, their files and their layers."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from kt_jax import models, training
from kt_jax.runs import artifacts, files
from kt_jax.training import structure

NETWORK = "network.safetensors"
DESCRIPTION = "backbone.json"
IMAGES = "images.parquet"  # the images that a network learned from
# The directory of a copied backbone in features and clusters.
CARRIED = "backbone"
Given = artifacts.Artifact[artifacts.Backbone]
_PREPROCESSING = "per-image standardisation"


@dataclass(frozen=True)
class FrozenBackbone:
    """The convolutional part of a network: its description and its arrays."""

    about: artifacts.Backbone
    params: Any
    batch_stats: Any


def describe(architecture: Mapping[str, Any], size: int, *, origin: str = "") -> artifacts.Backbone:
    """The description of a network of this architecture for views of `size` px.

    Nothing is computed.

    Raises:
      ValueError: the architecture or an option is unknown, or the views are too small for the
        network. `origin` is where the options stand.
    """
    try:
        about = _describe(json.dumps(architecture, sort_keys=True), size)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}" if origin else str(error)) from None
    return dataclasses.replace(about, architecture=models.complete(architecture))


# A config of many networks asks for the same few again and again, a second each time.
@functools.lru_cache(maxsize=128)
def _describe(architecture: str, size: int) -> artifacts.Backbone:
    """`architecture` is JSON."""
    make_model = _maker(json.loads(architecture), size)
    made = _make_abstract(make_model)
    layers = models.activation_shapes(made, size)
    unknown = [layer for layer in made.probe_layers if layer not in layers]
    if unknown or not made.probe_layers:
        raise ValueError(
            f"{type(made).__name__}.probe_layers is {tuple(made.probe_layers)}: name activations "
            f"that it gives: {', '.join(layers)}"
        )
    return artifacts.Backbone(
        architecture={},
        size=size,
        preprocessing=_PREPROCESSING,
        layers=layers,
        probe_layers=tuple(made.probe_layers),
        parameters=parameter_count(make_model),
    )


def save_network(directory: Path, about: artifacts.Backbone, params: Any, batch_stats: Any) -> None:
    """Writes a trained network (params/... and batch_stats/...), and its description."""
    tree = jax.device_get({"params": params, "batch_stats": batch_stats})
    files.write_tensors(directory / NETWORK, tree)
    files.write_json(directory / DESCRIPTION, dataclasses.asdict(about))


def carry_backbone(directory: Path, backbone: FrozenBackbone, origin: Given) -> None:
    """Writes a backbone, without a head, into an artifact that was made with it.

    It also copies images.parquet, if `origin`, the backbone's own artifact, has it.
    """
    save_network(
        directory / CARRIED,
        backbone.about,
        {"backbone": backbone.params},
        {"backbone": backbone.batch_stats},
    )
    learned = origin / IMAGES
    if not origin.is_random and learned.exists():
        files.copy(learned, directory / CARRIED / IMAGES)


def load_backbone(directory: Path, about: artifacts.Backbone) -> FrozenBackbone:
    """The backbone of the network in `directory`."""
    tree = files.read_tensors(directory / NETWORK)
    batch_stats = tree.get("batch_stats", {}).get("backbone", {})
    return FrozenBackbone(about, tree["params"]["backbone"], batch_stats)


def open_backbone(artifact: Given, *, seed: int) -> FrozenBackbone:
    """The backbone that a stage reads; the weights of `random:NAME` are drawn from `seed`."""
    if artifact.is_random:
        return random_backbone(artifact.about, seed=seed)
    return load_backbone(artifact.directory, artifact.about)


def random_backbone(about: artifacts.Backbone, *, seed: int) -> FrozenBackbone:
    """A backbone with random weights, as before training."""
    make_model = _maker(about.architecture, about.size)
    make = jax.jit(functools.partial(training.init_variables, make_model))
    params, batch_stats = make(np.uint32(seed))
    return FrozenBackbone(about, params, batch_stats)


def to_json(about: artifacts.Backbone) -> str:
    """A description as JSON, which can be a key of a cache."""
    return json.dumps(dataclasses.asdict(about))


def from_json(about: str, *, training: bool) -> tuple[nnx.GraphDef, list[float], list[float]]:
    """The structure of a network, and the mean and the standard deviation of its input."""
    backbone = json.loads(about)
    make_model = _maker(backbone["architecture"], backbone["size"])
    graphdef = structure(make_model, training=training)
    return graphdef, backbone["mean"], backbone["deviation"]


def _maker(architecture: Mapping[str, Any], size: int) -> training.MakeModel:
    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return cast(nnx.Module, models.make_backbone(size=size, rngs=rngs, **architecture))

    return make_model


def _make_abstract(make_model: training.MakeModel) -> models.Backbone:
    """The network without its arrays."""
    return cast(models.Backbone, nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))


def layer_shapes(about: artifacts.Backbone, size: int) -> dict[str, tuple[int, ...]]:
    """The shape of every activation on images of `size` px, by name: (h, w, c) or (d,).

    Raises:
      ValueError: the images are too small for the network.
    """
    return dict(_layer_shapes(json.dumps(about.architecture, sort_keys=True), about.size, size))


@functools.lru_cache(maxsize=256)
def _layer_shapes(architecture: str, made_for: int, size: int) -> dict[str, tuple[int, ...]]:
    """`architecture` is JSON."""
    return models.activation_shapes(
        _make_abstract(_maker(json.loads(architecture), made_for)), size
    )


def variable_shapes(about: artifacts.Backbone) -> tuple[Any, Any]:
    """The shapes and dtypes of the parameters and batch statistics of a backbone."""
    make_model = _maker(about.architecture, about.size)
    return jax.eval_shape(lambda: training.init_variables(make_model, 0))


def check_layers(origin: str, layers: Iterable[str], about: artifacts.Backbone, size: int) -> None:
    """Refuses layers that a backbone does not have.

    Raises:
      ValueError: it names the layers that the backbone has.
    """
    try:
        known = layer_shapes(about, size)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None
    for layer in layers:
        if layer not in known:
            raise ValueError(
                f"{origin} names {layer!r}, which the {about.architecture['name']} does not have: "
                f"choose from {', '.join(known)}."
            )


def parameter_count(make_model: training.MakeModel) -> int:
    """The number of parameters of a network; nothing is computed."""
    params, _ = jax.eval_shape(lambda: training.init_variables(make_model, 0))
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
