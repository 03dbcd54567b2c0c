"""Networks as structure and arrays, and the state of a training.

Modules are flax NNX, and training is functional. A module is split once into its structure and its
arrays; plain `jax.jit` takes a state and returns one. No module crosses the border of a jit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

MakeModel = Callable[[nnx.Rngs], nnx.Module]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that changes in training, and that a checkpoint contains.

    The fields are typed loosely because JAX also fills them with shapes, shardings and descriptions
    of arguments.
    """

    step: Any  # int32 []
    params: Any
    batch_stats: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AveragedState(TrainState):
    """A state with an average of the network; see `make_step`.

    It is a class of its own, so that checkpoints without an average do not change.
    """

    average: Any
    """(parameters, batch statistics), averaged over the steps."""


def learned(state: TrainState) -> tuple[Any, Any]:
    """Parameters and batch statistics of the trained network: the average if there is one."""
    if isinstance(state, AveragedState):
        return state.average
    return state.params, state.batch_stats


def structure(make_model: MakeModel, *, training: bool) -> nnx.GraphDef:
    """The structure of a network, with dropout and batch statistics on in training."""
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    model.train() if training else model.eval()
    return nnx.split(model, nnx.Param, nnx.BatchStat)[0]


def init_variables(make_model: MakeModel, seed: int | Array) -> tuple[Any, Any]:
    """Parameters and batch statistics of a new network, as nested dicts.

    Every module draws from its own stream of `seed`, which may be an argument of a program.
    """
    model = make_model(nnx.Rngs(params=jax.random.key(seed)))
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def bind(graphdef: nnx.GraphDef, params: Any, batch_stats: Any) -> nnx.Module:
    """The network with these arrays."""
    return nnx.merge(graphdef, nnx.State(params), nnx.State(batch_stats))


def init_state(
    make_model: MakeModel,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    averages: bool = False,
) -> TrainState:
    """A new network and optimizer, created on all devices.

    averages: whether the state is an `AveragedState`.
    """

    def init(seed: Array) -> TrainState:
        variables = init_variables(make_model, seed)
        start = (jnp.zeros((), jnp.int32), *variables, optimizer.init(variables[0]))
        if not averages:
            return TrainState(*start)
        # There is nothing to average before the first step.
        return AveragedState(*start, jax.tree.map(jnp.zeros_like, variables))

    # As an argument: networks that differ only in their seeds share the compiled program.
    return jax.jit(init, out_shardings=NamedSharding(mesh, P()))(np.uint32(seed))
