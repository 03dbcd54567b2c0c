"""The batch statistics of a network, measured on whole images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from kt_jax import data, training
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs.stage import Notice

_BATCH = 128
_BATCHES = 36


def calibrate(
    backbone: backbones.FrozenBackbone,
    images: data.Images,
    *,
    size: int,
    seed: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
) -> backbones.FrozenBackbone:
    """The backbone with batch statistics of these images, on central views of `size` px.

    A network with random weights has no statistics, and a puzzle solver has those of tiles. Means
    and variances are over up to 36 batches of 128 images, which `seed` chooses. In each batch the
    layers below normalise as in training. No labels are used.

    Raises:
      SystemExit: `notice` says to stop.
    """
    if not jax.tree.leaves(backbone.batch_stats):
        return backbone
    unit = jax.device_count()
    batch_size = -(-_BATCH // unit) * unit
    program = _make_program(backbones.to_json(backbone.about), size)
    variables = jax.device_put((backbone.params, backbone.batch_stats), partition.replicated(mesh))
    batches = data.train_batches(
        images,
        data.Shuffled(len(images), seed),
        batch_size,
        first_step=0,
        last_step=min(_BATCHES, -(-len(images) // batch_size)),
        reading=reading,
    )
    found = []
    for batch in batches:
        notice.check()
        pixels = partition.put_batch({"image": batch["image"]}, mesh)["image"]
        found.append(jax.device_get(program(variables, pixels)))
    return backbones.FrozenBackbone(backbone.about, backbone.params, _combine(found))


@functools.lru_cache(maxsize=16)
def _make_program(about: str, size: int) -> Callable[[Any, jax.Array], Any]:
    """The program for the moments of one batch [b, s, s, 3]; `about` is a Backbone as JSON."""
    graphdef, mean, deviation = backbones.from_json(about, training=True)

    @jax.jit
    def moments(variables: Any, pixels: jax.Array) -> Any:
        params, batch_stats = variables
        x = views.centre_view(pixels, size, mean=mean, deviation=deviation)

        def update(old: float) -> Any:
            stats = jax.tree.map(lambda leaf: jnp.full_like(leaf, old), batch_stats)
            model = training.bind(graphdef, params, stats)
            model(x)
            return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        # A running average is m * old + (1 - m) * moment, for the layer's own m. XLA computes the
        # two forward passes once: they do not depend on `old`.
        return jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), update(0.0), update(1.0))

    return moments


def _combine(found: Sequence[Any]) -> Any:
    """The moments of several equally large batches together.

    >>> batches = [{"mean": np.array([0.0]), "var": np.array([1.0])},
    ...            {"mean": np.array([2.0]), "var": np.array([1.0])}]
    >>> {name: x.tolist() for name, x in _combine(batches).items()}
    {'mean': [1.0], 'var': [2.0]}
    """
    first = found[0]
    if not isinstance(first, Mapping):
        return np.mean(found, axis=0, dtype=np.float64).astype(np.float32)
    combined = {name: _combine([each[name] for each in found]) for name in first}
    if {"mean", "var"} <= first.keys() and not isinstance(first["var"], Mapping):
        means = np.array([each["mean"] for each in found], np.float64)
        variance = np.mean([each["var"] for each in found], axis=0) + means.var(axis=0)
        combined["var"] = variance.astype(np.float32)
    return combined
