"""What tests of several files share: images, finished artifacts, and stages to run by hand."""

import dataclasses

import jax
import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones
from kt_jax.machine import partition, signals
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Inputs, Stage


def make_images(count, *, size, load=None, **others):
    """Images without labels, black unless `load` gives others."""
    keys = tuple(str(number) for number in range(count))
    nothing = {"labels": None, "class_names": (), "excluded": (), "origin": "", "fingerprint": ""}
    black = np.zeros((size, size, 3), np.uint8)
    return data.Images(
        **{"keys": keys, "size": size, "load": load or (lambda index: black), **nothing, **others}
    )


def finish(directory, about, *, facts=None):
    """The artifact of what is in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    artifacts.finish(directory, about, {}, section={}, facts=facts or {}, seconds=61.0)
    return artifacts.open_artifact(directory, name=directory.name, reader="a test")


def make_stage(directory, options, *, given=None, images=None, seed=0):
    """A stage with `given` (artifacts) and `images`, each by option."""
    return Stage(
        name=directory.name,
        options=options,
        seed=seed,
        directory=directory,
        inputs=Inputs(f"config.{directory.name}", given or {}, images or {}),
        reading=data.Reading(),
        mesh=partition.make_mesh(),
        notice=signals.Notice(),
    )


def make_backbone(directory, architecture, size, *, mean=(), deviation=()):
    """A finished Backbone with random weights, all of which matter; loaded."""
    about = backbones.describe(architecture, size)
    about = dataclasses.replace(about, mean=mean, deviation=deviation)
    generator = np.random.default_rng(0)
    tree = backbones.random_backbone(about, seed=0)
    params, batch_stats = (
        jax.tree_util.tree_map_with_path(lambda path, x: _vary(generator, path[-1].key, x), each)
        for each in (tree.params, tree.batch_stats)
    )
    backbones.save_network(directory, about, {"backbone": params}, {"backbone": batch_stats})
    finish(directory, about)
    return backbones.load_backbone(directory, about)


def _vary(generator, name, x):
    if name == "kernel":
        return x
    drawn = 0.3 * generator.normal(size=x.shape)
    if name in ("scale", "scale1", "scale2", "var"):
        drawn = np.exp(drawn)
    return drawn.astype(np.float32)
