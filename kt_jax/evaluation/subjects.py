"""Subjects of an evaluation: frozen networks, given features, and baselines without a network."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones, calibration, descriptors, extraction
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Stage

Features = artifacts.Artifact[artifacts.Features]
Seen = Iterator[tuple[dict[str, jax.Array], list[dict[str, jax.Array]]]]

PIXELS, HOG = "pixels", "hog_colour"
BASELINES = (PIXELS, HOG)
# More pixels do not improve a linear classifier.
_MOST_PIXELS = 32
# Zhang et al. 2016 resize AlexNet's maps to these sides. Maps of other networks get the last.
_SIDES = {"conv1": 10, "conv2": 6, "conv3": 5, "conv4": 5, "conv5": 6}
_SIDE = 6
_WHOLE = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3}


@dataclass(frozen=True, eq=False)
class Subject:
    """A source of features: rows of numbers for images, by layer."""

    name: str
    role: str
    """"network", "random" (a network with random weights), "given" (features) or "baseline"."""
    channels: Mapping[str, int]
    """The number of channels by layer: rows are flattened maps [h, w, channels]."""
    see: Callable[[str, Sequence[int], Sequence[views.View]], Seen]
    """(split, rows, views) -> as `extraction.see`, for these images of "train" or "test"."""

    def describe_views(self, views: str) -> str:
        """The views of an image in words. Given features have only their own."""
        return "the rows as they were given" if self.role == "given" else views

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in the order of the network."""
        return tuple(self.channels)


def names(inputs: Inputs) -> dict[str, str]:
    """The role of every subject of a stage, by name."""
    roles = dict.fromkeys(BASELINES, "baseline")
    roles |= {pair[0].name: "given" for pair in pairs(inputs)}
    for each in inputs.artifacts["backbones"]:
        roles[each.name] = "random" if each.is_random else "network"
    return roles


def pairs(inputs: Inputs) -> list[tuple[Features, Features]]:
    """Given features of the training and of the test images, in pairs."""
    both = (inputs.artifacts.get(option, ()) for option in ("train_features", "test_features"))
    return list(zip(*both, strict=True))


def make_subject(stage: Stage, name: str, *, seed: int) -> Subject:
    """The subject called `name` of a stage whose options have `size` and `max_dims`.

    `random:NAME` has weights drawn from `seed`, and batch statistics measured on the training
    images.
    """
    chosen, role = stage.options, names(stage.inputs)[name]
    if role == "baseline":
        return _make_baseline(stage, name)
    if role == "given":
        pair = next(pair for pair in pairs(stage.inputs) if pair[0].name == name)
        dims = pair[0].about.dims
        see = functools.partial(_see_given, stage, pair)
        return Subject(name, role, {pair[0].about.layer: dims}, see)
    artifact = next(each for each in stage.inputs.artifacts["backbones"] if each.name == name)
    backbone = backbones.open_backbone(artifact, seed=seed)
    if artifact.is_random:
        backbone = calibration.calibrate(
            backbone,
            stage.inputs.images["train_images"],
            size=chosen.size,
            seed=seed,
            mesh=stage.mesh,
            reading=stage.reading,
            notice=stage.notice,
        )
    sides = grids(backbone.about, size=chosen.size, max_dims=chosen.max_dims)
    shapes = backbones.layer_shapes(backbone.about, chosen.size)

    def see(split: str, rows: Sequence[int], shown: Sequence[views.View]) -> Seen:
        return extraction.see(
            backbone,
            data.take_rows(stage.inputs.images[f"{split}_images"], rows),
            sides,
            size=chosen.size,
            batch_size=chosen.batch_size,
            mesh=stage.mesh,
            reading=stage.reading,
            notice=stage.notice,
            shown=shown,
        )

    return Subject(name, role, {layer: shapes[layer][-1] for layer in sides}, see)


def grids(about: artifacts.Backbone, *, size: int, max_dims: int) -> dict[str, int]:
    """The side to which each layer of a network is pooled, for views of `size` px.

    10, 6, 5, 5 and 6 for conv1 to conv5, and 6 for other names (Zhang et al. 2016). The side is
    smaller if max_dims requires it, and at least 1.
    """
    shapes = backbones.layer_shapes(about, size)
    return {
        layer: max(1, min(_SIDES.get(layer, _SIDE), int((max_dims / shapes[layer][-1]) ** 0.5)))
        for layer in about.probe_layers
    }


def widths(about: artifacts.Backbone, *, size: int, max_dims: int) -> dict[str, int]:
    """The number of dimensions of each layer."""
    shapes = backbones.layer_shapes(about, size)
    sides = grids(about, size=size, max_dims=max_dims)
    return {
        layer: math.prod(min(each, side) for each in shapes[layer][:-1]) * shapes[layer][-1]
        for layer, side in sides.items()
    }


def _make_baseline(stage: Stage, name: str) -> Subject:
    size, most = stage.options.size, stage.options.max_dims
    side = max(1, min(size, _MOST_PIXELS, int((most / 3) ** 0.5)))
    fitting = [n for n in range(2, descriptors.CELLS + 1) if descriptors.hog_dims(n) <= most]
    cells = max(fitting, default=2)
    describe = {
        PIXELS: lambda images: descriptors.small_pixels(images, side),
        HOG: lambda images: descriptors.hog_and_colour(images, cells),
    }[name]

    @jax.jit
    def program(pixels: jax.Array, place: jax.Array) -> dict[str, jax.Array]:
        return {name: describe(views.cut_view(pixels, size, place, **_WHOLE))}

    def see(split: str, rows: Sequence[int], shown: Sequence[views.View]) -> Seen:
        images = data.take_rows(stage.inputs.images[f"{split}_images"], rows)
        places = [extraction.to_place(view) for view in shown]
        batches = data.eval_batches(images, stage.options.batch_size, reading=stage.reading)
        for batch in batches:
            stage.notice.check()
            on_devices = partition.put_batch(batch, stage.mesh)
            pixels = on_devices.pop("image")
            yield on_devices, [program(pixels, place) for place in places]

    batch = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    shapes = jax.eval_shape(program, batch, jax.ShapeDtypeStruct((4,), np.float32))
    return Subject(name, "baseline", {name: 3 if name == PIXELS else shapes[name].shape[1]}, see)


def _see_given(
    stage: Stage,
    pair: tuple[Features, Features],
    split: str,
    rows: Sequence[int],
    shown: Sequence[views.View],
) -> Seen:
    """Given features have one view, so `shown` is not used."""
    del shown
    features = pair[("train", "test").index(split)]
    matrix, size = _open(features), stage.options.batch_size
    for begin in range(0, len(rows), size):
        stage.notice.check()
        some = np.asarray(rows[begin : begin + size])
        x = np.zeros((size, matrix.shape[1]), np.float32)
        x[: len(some)] = matrix[some]
        batch = {"index": np.arange(begin, begin + size, dtype=np.int32)}
        batch = partition.put_rows({**batch, "mask": np.arange(size) < len(some)}, stage.mesh)
        yield batch, [partition.put_rows({features.about.layer: x}, stage.mesh)]


def _open(features: Features) -> np.ndarray:
    """The matrix [n, d] float16 of given features."""
    shards = sorted(features.directory.glob("features-*-of-*.npy"))
    parts = [np.load(shard, mmap_mode="r", allow_pickle=False) for shard in shards]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def collect(
    subject: Subject, split: str, rows: Sequence[int], shown: Sequence[views.View]
) -> dict[str, np.ndarray]:
    """The rows [n, d] float32 of some images by layer, as means over the views."""
    parts: dict[str, list[Any]] = {layer: [] for layer in subject.layers}
    for batch, seen in subject.see(split, rows, shown):
        means = {layer: sum(each[layer] for each in seen) / len(seen) for layer in parts}
        found, mask = partition.fetch((means, batch["mask"]))
        for layer, x in found.items():
            parts[layer].append(x[mask])
    return {layer: np.concatenate(some) for layer, some in parts.items()}
