"""Frozen backbones: trained networks, and the features that they give.

Several stages read features of whole images (such as features, label, probe). They must agree to
the bit on the view of an image, the layer and the pooling.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from kt_jax import data, models, training
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Notice
from kt_jax.training import structure

_log = logging.getLogger(__name__)

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


def extract(
    backbone: FrozenBackbone,
    images: Any,
    grids: Mapping[str, int],
    *,
    size: int,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
    shown: Sequence[views.View] = (views.View(),),
) -> Iterator[tuple[np.ndarray, dict[str, Float[np.ndarray, "rows d"]]]]:
    """Yields (indices, {layer: features}) batch by batch, in the order of the images.

    A feature is the mean of `see` over the views in `shown`, as float16. Features on disk are
    float16 too, so those computed again are equal to them.

    Raises:
      ValueError: an activation exceeds the range of float16.
      SystemExit: `notice`, asked before every batch, says to stop.
    """
    for batch, seen in see(
        backbone,
        images,
        grids,
        size=size,
        batch_size=batch_size,
        mesh=mesh,
        reading=reading,
        notice=notice,
        shown=shown,
    ):
        rows, index, mask = partition.fetch((_mean(seen), batch["index"], batch["mask"]))
        for name, x in rows.items():
            if not np.isfinite(x[mask]).all():
                raise ValueError(
                    f"layer {name!r} exceeds the range of float16 (65504) or is not finite: use "
                    "an earlier layer, or a backbone with batch_norm."
                )
        yield index[mask], {name: x[mask] for name, x in rows.items()}


def see(
    backbone: FrozenBackbone,
    images: Any,
    grids: Mapping[str, int],
    *,
    size: int,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
    shown: Sequence[views.View] = (views.View(),),
) -> Iterator[tuple[dict[str, jax.Array], list[dict[str, jax.Array]]]]:
    """Yields every batch of images on the devices, and the features that a network gives.

    A batch has `index`, `mask` (False in the rows after the last image) and, if images are
    labelled, `label`. For each view there are {layer: features [b, d] float32}: the layer's
    activation on the view of `size` px, max-pooled to grids[layer] x grids[layer] if it is a map,
    and flattened.

    Raises:
      SystemExit: `notice`, asked before every batch, says to stop.
    """
    cut = any(view.share != 1 for view in shown)
    program = _make_program(to_json(backbone.about), tuple(grids.items()), size, cut)
    variables = jax.device_put((backbone.params, backbone.batch_stats), partition.replicated(mesh))
    places = [to_place(view) for view in shown]
    for batch in data.eval_batches(images, batch_size, reading=reading):
        notice.check()
        batch = partition.put_batch(batch, mesh)
        pixels = batch.pop("image")
        yield batch, [program(variables, pixels, place) for place in places]


def to_place(view: views.View) -> np.ndarray:
    """A view in the form that `views.cut_view` takes."""
    return np.array(dataclasses.astuple(view), np.float32)


@jax.jit
def _mean(seen: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """The means over the views as float16."""
    total = functools.reduce(lambda a, b: {name: a[name] + b[name] for name in a}, seen)
    return {name: (x / len(seen)).astype(jnp.float16) for name, x in total.items()}


# A service calls with the same network many times: it must not compile each time.
@functools.lru_cache(maxsize=16)
def _make_program(
    about: str, grids: tuple[tuple[str, int], ...], size: int, cut: bool
) -> Callable[[Any, jax.Array, np.ndarray], dict[str, jax.Array]]:
    """The program for the features by layer of one view of a batch [b, s, s, 3].

    `about` is a Backbone as JSON. `cut` says whether views may be other squares than the centre.
    """
    graphdef, mean, deviation = from_json(about, training=False)
    layers = ", ".join(name for name, _ in grids)
    _log.info("compiling %s (features of %s)", json.loads(about)["architecture"]["name"], layers)

    @jax.jit
    def features(variables: Any, pixels: jax.Array, place: jax.Array) -> dict[str, jax.Array]:
        if cut:
            x = views.cut_view(pixels, size, place, mean=mean, deviation=deviation)
        else:
            x = views.centre_view(pixels, size, mean=mean, deviation=deviation)
            x = jnp.where(place[3] > 0, views.mirror(x), x)
        activations = training.bind(graphdef, *variables)(x)
        pooled = {name: models.pool(activations[name], grid) for name, grid in grids}
        return {name: x.reshape(x.shape[0], -1).astype(jnp.float32) for name, x in pooled.items()}

    return features


def to_json(about: artifacts.Backbone) -> str:
    """A description as JSON, which can be a key of a cache."""
    return json.dumps(dataclasses.asdict(about))


def from_json(about: str, *, training: bool) -> tuple[nnx.GraphDef, list[float], list[float]]:
    """The structure of a network, and the mean and the standard deviation of its input."""
    backbone = json.loads(about)
    make_model = _maker(backbone["architecture"], backbone["size"])
    graphdef = structure(make_model, training=training)
    return graphdef, backbone["mean"], backbone["deviation"]


def unwritten_shards(
    images: data.Images, rows: int, path: Callable[[int, int], Path]
) -> Iterator[tuple[Path, data.Images]]:
    """Yields the shards that are not on disk yet: their files and their images.

    Args:
      images: all images.
      rows: the number of images in a shard; the last may have fewer.
      path: the file of shard i of n.
    """
    starts = range(0, len(images), rows)
    for number, begin in enumerate(starts):
        file = path(number, len(starts))
        if not partition.decided_by_first(file.exists):
            yield file, data.take_rows(images, range(begin, min(begin + rows, len(images))))


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
