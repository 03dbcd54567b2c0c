"""Names and layouts of a network's tensors in PyTorch, and the conversion to and from them.

Names are torchvision's for VGG, ResNet, MobileNetV3 and `alexnet_torchvision`, and timm's for ViT
(DeiT, DINO), with DINOv2's own for its additional tensors. The paper's AlexNet and its batch-norm
variant have no equivalent there: their tensors are called conv1.weight, norm1.weight and so on.
ViTs are also read with the names of torchvision and of Hugging Face's transformers. A head is not
part of a backbone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kt_jax import models
from kt_jax.models import torch_tables
from kt_jax.models.torch_tables import Path, Table

Tree = dict[Any, Any]

# From our layout to PyTorch's, and back.
_LAYOUTS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "as it is": (lambda x: x, lambda x: x),
    "linear": (np.transpose, np.transpose),
    # Ours is [height, width, inputs, outputs], PyTorch's [outputs, inputs, height, width].
    "convolution": (lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0)),
    "tokens": (lambda x: x[None], lambda x: x[0]),
    "positions": (lambda x: x[None], lambda x: _with_class_row(x[0])),
}

_FAMILIES: dict[Any, Callable[[Mapping[str, Any]], tuple[Table, ...]]] = {
    models.Vgg: lambda chosen: (tuple(torch_tables.vgg(chosen)),),
    models.AlexNet: lambda chosen: (tuple(torch_tables.alexnet(chosen)),),
    models.TorchvisionAlexNet: lambda _: (tuple(torch_tables.torchvision_alexnet()),),
    models.ResNet: lambda chosen: (tuple(torch_tables.resnet(chosen)),),
    models.MobileNetV3Small: lambda chosen: (tuple(torch_tables.mobilenet(chosen)),),
    models.ViT: lambda chosen: tuple(
        tuple(torch_tables.vit(chosen, names)) for names in torch_tables.VIT_NAMES
    ),
}


def to_torch(
    architecture: Mapping[str, Any], params: Mapping[Any, Any], batch_stats: Mapping[Any, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a backbone by PyTorch's names, in PyTorch's layouts.

    Args:
      architecture: its name and its options, as in `Backbone.architecture` of an artifact.
      params: nested dicts of arrays, without a head.
      batch_stats: the same; empty for a network without batch norms.

    Raises:
      ValueError: no names are known for this architecture.
    """
    made = arrange(tables(architecture)[0], params, batch_stats)
    return {name: np.ascontiguousarray(array) for name, array in made.items()}


def arrange(
    table: Table, params: Mapping[Any, Any], batch_stats: Mapping[Any, Any]
) -> dict[str, np.ndarray]:
    """As `to_torch`, with the names of one table. Most arrays are views of the inputs."""
    tree, made = {"params": params, "batch_stats": batch_stats}, {}
    for row in table:
        there, _ = _LAYOUTS[row.layout]
        whole = _join([there(np.asarray(_get(tree, path))) for path in row.ours])
        for name, part in zip(row.theirs, np.split(whole, len(row.theirs)), strict=True):
            made[name] = part
    return made


def from_torch(
    architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[Tree, Tree]:
    """The parameters and batch statistics, float32, from tensors as `to_torch` gives.

    Tensors may have the names of any of the architecture's `tables`. Other tensors are skipped.

    Raises:
      ValueError: no names are known for this architecture, or a tensor is missing.
    """
    known = tables(architecture)
    missing = [[n for row in table for n in row.theirs if n not in tensors] for table in known]
    table = min(range(len(known)), key=lambda number: len(missing[number]))
    if missing[table]:
        raise ValueError(f"there is no tensor {missing[table][0]!r}")
    return collect(known[table], tensors)


def collect(table: Table, tensors: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """As `from_torch`, with the names of one table, all of which exist."""
    tree: Tree = {"params": {}, "batch_stats": {}}
    for row in table:
        _, back = _LAYOUTS[row.layout]
        whole = _join([np.asarray(tensors[name], np.float32) for name in row.theirs])
        for path, part in zip(row.ours, np.split(whole, len(row.ours)), strict=True):
            *parents, leaf = path
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = np.ascontiguousarray(back(part))
    return tree["params"], tree["batch_stats"]


def tables(architecture: Mapping[str, Any]) -> tuple[Table, ...]:
    """The tables of names of an architecture. `to_torch` uses the first.

    Raises:
      ValueError: no names are known, because a user registered the architecture.
    """
    made = models.class_of(architecture)
    if made not in _FAMILIES:
        known = ", ".join(each.__name__ for each in _FAMILIES)
        raise ValueError(
            f"backbone.name = {architecture['name']!r}: PyTorch's names are known for {known} alone"
        )
    return _FAMILIES[made](models.complete(architecture))


def as_published(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture with the first layers of the published weights, for images of any size.

    These are stem 4 of ResNet and MobileNetV3, patches of 16 px of ViT, and a kernel of 11 with
    stride 4 of the paper's AlexNet. Options that are given do not change.

    Raises:
      ValueError: as `models.complete`.
    """
    whole = models.complete(architecture)
    published = {"stem": 4, "patch": 16, "stem_kernel": 11, "stem_stride": 4}
    return {name: published.get(name, x) if x == 0 else x for name, x in whole.items()}


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _get(tree: Mapping[Any, Any], path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _with_class_row(positions: np.ndarray) -> np.ndarray:
    """Position embeddings of the class token and the patches [1 + n, d].

    In timm, networks with registers have embeddings of the patches only: the class token already
    includes its own.
    """
    if math.isqrt(len(positions)) ** 2 == len(positions):
        positions = np.concatenate([np.zeros_like(positions[:1]), positions])
    return positions
