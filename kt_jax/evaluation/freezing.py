"""Partly frozen networks: the arrays that a layer depends on, found by tracing.

There is no list of names for each architecture. Everything that the program of an activation reads
is frozen.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kt_jax import models, training

Path = tuple[str | int, ...]


class Frozen(nnx.BatchStat):
    """An array that training does not change.

    It is part of the batch statistics of the training state. It has no gradient and no weight
    decay, and does not count in the norm for gradient clipping.
    """


class PartlyFrozen(models.Classifier):
    """A classifier in which some arrays are `Frozen`.

    Modules with frozen arrays stay in evaluation mode while others train: batch norms use their
    running statistics and do not change them, and nothing is dropped. (DeepCluster's result for VOC
    fc6-8 fell from 72.0 to 70.4 when its frozen batch norms were really frozen; see the authors'
    erratum.)
    """

    def freeze(self, paths: Collection[Path]) -> None:
        """Freezes the parameters and batch statistics at these paths, such as ("output", "bias").

        Raises:
          ValueError: there is no such array.
        """
        wanted = set(paths)
        for path, module in nnx.iter_modules(self):
            for name, variable in list(vars(module).items()):
                if isinstance(variable, nnx.Variable) and (*path, name) in wanted:
                    setattr(module, name, Frozen(variable[...]))
                    wanted.discard((*path, name))
        if wanted:
            raise ValueError(f"a network has no array {sorted(map(str, wanted))[0]} to freeze")

    def train(self, **attributes: Any) -> None:
        """Turns training on, except for frozen modules."""
        super().train(**attributes)
        for _, module in nnx.iter_modules(self):
            if any(isinstance(each, Frozen) for each in vars(module).values()):
                for name, value in (("use_running_average", True), ("deterministic", True)):
                    if hasattr(module, name):
                        setattr(module, name, value)


def find_needed(make_model: training.MakeModel, layer: str, size: int) -> frozenset[Path]:
    """The parameters and batch statistics that an activation of a network depends on.

    The network is in evaluation mode, for images of `size` px; nothing is computed. JAX drops
    inputs of a program that its result does not need, and tells which it kept.

    Raises:
      ValueError: the network has no such activation.
    """
    graphdef = training.structure(make_model, training=False)
    variables = jax.eval_shape(lambda: training.init_variables(make_model, 0))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def activation(variables: Any, image: jax.Array) -> jax.Array:
        found: Any = training.bind(graphdef, *variables)
        activations = found(image)
        if layer not in activations:
            raise ValueError(f"{layer!r} is no layer: choose from {', '.join(activations)}")
        return activations[layer]

    exported = jax.export.export(jax.jit(activation))(variables, image)
    leaves = jax.tree_util.tree_leaves_with_path((variables, image))
    paths = [leaves[number][0] for number in exported.module_kept_var_idx]
    return frozenset(to_path(each[2:]) for each in paths if len(each) > 2)


def to_path(keys: Collection[Any]) -> Path:
    """The path to an array in nested dicts, from JAX's keys of a leaf."""
    return tuple(each.key for each in keys)


def flatten(tree: Any) -> dict[Path, Any]:
    """Nested dicts as one dict by paths."""
    return {to_path(keys): x for keys, x in jax.tree_util.tree_leaves_with_path(tree)}


def put(tree: Any, arrays: dict[Path, np.ndarray]) -> Any:
    """The tree with these arrays in their places, on the same devices as those before.

    Arrays that have no place in the tree are skipped.

    Raises:
      ValueError: an array has another shape than the one in its place.
    """

    def choose(keys: Any, x: jax.Array) -> jax.Array:
        array = arrays.get(to_path(keys))
        if array is None:
            return x
        if array.shape != x.shape:
            name = "/".join(map(str, to_path(keys)))
            raise ValueError(f"{name} has the shape {array.shape}, but {x.shape} is needed")
        return jax.device_put(array.astype(x.dtype), x.sharding)

    return jax.tree_util.tree_map_with_path(choose, tree)
