"""Networks from which a training starts: a backbone's weights, perhaps with other options."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import data, models
from kt_jax.evaluation import backbones, calibration, freezing
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Stage
from kt_jax.training.learning import Head


@dataclass(frozen=True)
class Start:
    """The start of a training."""

    name: str
    about: artifacts.Backbone
    arrays: Mapping[freezing.Path, np.ndarray]
    """The arrays of the backbone and of its own hidden fully connected layers, if any, by their
    paths in a `models.Classifier`."""

    @property
    def own_head(self) -> Head:
        """The hidden layers of the network's own training; without widths if there were none."""
        kernels = {path[1]: x for path, x in self.arrays.items() if path[2:] == _KERNEL}
        widths = tuple(kernels[number].shape[1] for number in sorted(kernels))
        return Head(hidden=widths, batch_norm=("hidden", 0, "norm", "scale") in self.arrays)


_KERNEL = ("linear", "kernel")


def open_start(
    stage: Stage,
    artifact: backbones.Given,
    overrides: Mapping[str, Any],
    *,
    seed: int,
    calibrated_on: data.Images | None,
) -> Start:
    """The network from which a stage starts.

    Args:
      stage: the stage; its images have `stage.options.size` px.
      artifact: a finished backbone. `random:NAME` gets random weights.
      overrides: options of the architecture, see `override`.
      seed: the seed of random weights.
      calibrated_on: the images whose statistics the batch norms of random weights get, because
        frozen ones would have none. None: mean 0 and variance 1.
    """
    about = override(artifact.about, overrides)
    if artifact.is_random:
        made = backbones.open_backbone(dataclasses.replace(artifact, about=about), seed=seed)
        if calibrated_on is not None:
            made = calibration.calibrate(
                made,
                calibrated_on,
                size=stage.options.size,
                seed=seed,
                mesh=stage.mesh,
                reading=stage.reading,
                notice=stage.notice,
            )
        trees = {"backbone": made.params}, {"backbone": made.batch_stats}
    else:
        tree = files.read_tensors(artifact / backbones.NETWORK)
        trees = tree["params"], tree.get("batch_stats", {})
    arrays = {
        path: np.asarray(x)
        for each in trees
        for path, x in freezing.flatten(each).items()
        if path[0] in ("backbone", "hidden")
    }
    return Start(artifact.name, about, arrays)


def override(about: artifacts.Backbone, overrides: Mapping[str, Any]) -> artifacts.Backbone:
    """The backbone with other options, which its parameters must fit.

    Raises:
      ValueError: an option is unknown, or changes the shapes of parameters.
    """
    if not overrides:
        return about
    architecture = models.complete({**about.architecture, **overrides})
    changed = dataclasses.replace(about, architecture=architecture)
    before, after = (
        {
            path: x.shape
            for tree in backbones.variable_shapes(each)
            for path, x in freezing.flatten(tree).items()
        }
        for each in (about, changed)
    )
    if before != after:
        different = {*before.items()} ^ {*after.items()}
        path, _ = min(different, key=str)
        raise ValueError(
            f"backbone = {dict(overrides)} changes the shapes of parameters of the "
            f"{about.architecture['name']}, such as {'/'.join(map(str, path))}: give options that "
            "the learned weights fit"
        )
    return changed


def describe_changes(before: artifacts.Backbone, overrides: Mapping[str, Any]) -> str:
    """The changes that `override` makes, for people; empty if there are none."""
    after = override(before, overrides).architecture
    changes = [
        f"{option} {before.architecture.get(option)} -> {value}"
        for option, value in after.items()
        if value != before.architecture.get(option)
    ]
    return f"options changed after pre-training: {', '.join(changes)}" if changes else ""
