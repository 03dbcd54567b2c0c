"""A network with somebody's weights: torchvision's, timm's, DINO's, in the place of a teacher."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_jax import models
from kt_jax.evaluation import backbones
from kt_jax.models import torch_files, torch_matching, torch_names
from kt_jax.runs import artifacts, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Backbone


@dataclass(frozen=True, kw_only=True)
class Options:
    """A network with given weights."""

    weights: str = options.file()
    """A file of PyTorch's tensors, .safetensors or .pth; see `models.torch_files`."""
    backbone: dict[str, Any]
    """The name of the architecture, and its options; its first layers are the published ones unless
    they say otherwise, whatever the size."""
    size: int = 224
    """The side of the images that it learned from, in pixels. Position embeddings must fit it."""
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """What is subtracted from each channel, in grey levels of 0..255: ImageNet's. With an empty
    mean and deviation each image is standardised by itself."""
    deviation: tuple[float, ...] = (58.395, 57.12, 57.375)
    """What each channel is then divided by."""
    prefix: str = ""
    """What stands before the tensors' names, such as "encoder_q."; found unless several fit."""

    def __post_init__(self) -> None:
        """Writes out the sizes of the first layers."""
        published = torch_names.as_published(self.backbone)
        object.__setattr__(self, "backbone", models.shorten(published))
        if len(self.mean) != len(self.deviation) or len(self.mean) not in (0, 3):
            raise ValueError(
                f"mean = {self.mean}, deviation = {self.deviation}: give three of each, or none"
            )
        if any(each <= 0 for each in self.deviation):
            raise ValueError(f"deviation = {self.deviation}: give numbers above 0")
        if self.size < 1:
            raise ValueError(f"size = {self.size}: give 1 or more")


def run(stage: Stage) -> tuple[artifacts.Backbone, dict[str, Any]]:
    """Writes network.safetensors and backbone.json; from which images it learned is not known."""
    chosen, origin = stage.options, stage.inputs.origin
    about = _describe(chosen, origin)
    params, batch_stats = _load(chosen, about, origin)
    arrays = {"backbone": params}, {"backbone": batch_stats}
    backbones.save_network(stage.directory, about, *arrays)
    return about, {"weights": Path(chosen.weights).name, "parameters": about.parameters}


def _describe(chosen: Options, origin: str) -> artifacts.Backbone:
    about = backbones.describe(chosen.backbone, chosen.size, origin=origin)
    if not chosen.mean:
        return about
    return dataclasses.replace(
        about,
        preprocessing="mean and deviation of each channel",
        mean=chosen.mean,
        deviation=chosen.deviation,
    )


def _load(chosen: Options, about: artifacts.Backbone, origin: str) -> tuple[Any, Any]:
    """The arrays of the backbone.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it does not hold the tensors of this network.
    """
    if not chosen.weights:
        raise ValueError(f"{origin}.weights is missing: name a file, .safetensors or .pth")
    try:
        tensors = torch_files.read(Path(chosen.weights))
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{origin}.weights: {error}") from None
    try:
        like = backbones.variable_shapes(about)
        return torch_matching.load(chosen.backbone, tensors, like, prefix=chosen.prefix)
    except ValueError as error:
        raise ValueError(f"{origin}.weights = {chosen.weights}: {error}") from None


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      FileNotFoundError: there is no file of weights.
      ValueError: it cannot be read, or holds no such network.
    """
    about = _describe(chosen, inputs.origin)
    _load(chosen, about, inputs.origin)
    line = f"{chosen.backbone['name']} of {chosen.weights}, {about.parameters:,} parameters"
    whole = models.complete(chosen.backbone)
    if models.class_of(chosen.backbone) is models.ViT:  # its tensors have the same shapes with any
        heads = max(1, round(whole["width"] * whole["heads"]))
        line += f", {heads} heads of {whole['head_dim']} channels, which no shape can confirm"
    return Plan(about, (line,), disk=lambda: 4 * about.parameters)
