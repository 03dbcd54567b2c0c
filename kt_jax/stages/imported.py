"""A network with published weights (torchvision, timm, DINO) instead of a teacher of kt_jax."""

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
    """Options of an imported network."""

    weights: str = options.file()
    """A file of PyTorch tensors, .safetensors or .pth; see `models.torch_files`."""
    backbone: dict[str, Any]
    """The name of the architecture, and its options. By default the first layers are the published
    ones for every size."""
    size: int = 224
    """The side of the images that the network was trained on, in pixels. Position embeddings must
    fit it."""
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """The value to subtract from each channel, in grey levels 0..255; the default is ImageNet's. If
    mean and deviation are empty, each image is standardised by its own."""
    deviation: tuple[float, ...] = (58.395, 57.12, 57.375)
    """The value by which each channel is then divided."""
    prefix: str = ""
    """The prefix of the tensors' names, such as "encoder_q.". It is found unless several fit."""

    def __post_init__(self) -> None:
        """Writes out the options of the first layers, and refuses values that cannot be used."""
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
    """Writes network.safetensors and backbone.json. The training images are not known."""
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
    """The parameters and batch statistics of the backbone.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file does not have the tensors of this network.
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
    """Checks the file, and describes the stage.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read, or its tensors are not those of this network.
    """
    about = _describe(chosen, inputs.origin)
    _load(chosen, about, inputs.origin)
    line = f"{chosen.backbone['name']} of {chosen.weights}, {about.parameters:,} parameters"
    whole = models.complete(chosen.backbone)
    if models.class_of(chosen.backbone) is models.ViT:  # shapes do not depend on heads
        heads = max(1, round(whole["width"] * whole["heads"]))
        line += f", {heads} heads of {whole['head_dim']} channels, which no shape can confirm"
    return Plan(about, (line,), disk=lambda: 4 * about.parameters)
