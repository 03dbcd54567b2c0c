"""Features of images from frozen backbones.

Several stages read features of whole images (such as features, label, probe). They must agree to
the bit on the view of an image, the layer and the pooling.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from kt_jax import data, models, training
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs.stage import Notice

_log = logging.getLogger(__name__)


def extract(
    backbone: backbones.FrozenBackbone,
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
            check_range(name, x[mask])
        yield index[mask], {name: x[mask] for name, x in rows.items()}


def see(
    backbone: backbones.FrozenBackbone,
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
    program = _make_program(backbones.to_json(backbone.about), tuple(grids.items()), size, cut)
    variables = jax.device_put((backbone.params, backbone.batch_stats), partition.replicated(mesh))
    places = [to_place(view) for view in shown]
    for batch in data.eval_batches(images, batch_size, reading=reading):
        notice.check()
        batch = partition.put_batch(batch, mesh)
        pixels = batch.pop("image")
        yield batch, [program(variables, pixels, place) for place in places]


def check_range(layer: str, rows: np.ndarray) -> None:
    """Raises ValueError if a value is not finite, or would not be as float16."""
    with np.errstate(over="ignore"):
        good = np.isfinite(rows.astype(np.float16)).all()
    if not good:
        raise ValueError(
            f"layer {layer!r} exceeds the range of float16 (65504) or is not finite: use "
            "an earlier layer, or a backbone with batch_norm."
        )


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
    graphdef, mean, deviation = backbones.from_json(about, training=False)
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
