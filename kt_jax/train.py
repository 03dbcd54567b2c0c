"""The one training loop: every stage that learns is a classifier.

Modules are flax NNX, training is functional: a module is split once into its structure and
its arrays, plain `jax.jit` takes a state and returns one, no module crosses a jit border.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

Batch = Mapping[str, Array]
Model = Callable[..., dict[str, Array]]
MakeModel = Callable[[nnx.Rngs], nnx.Module]
# (key, batch) -> (inputs of the network, labels), inside the jitted step.
MakeExamples = Callable[[Array, Batch], tuple[Any, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes in training, and all that a checkpoint holds.

    Typed loosely: JAX also fills it with shapes, shardings and argument descriptions.
    """

    step: Any  # int32 []
    params: Any
    batch_stats: Any
    opt_state: Any


@runtime_checkable
class CheckpointStore(Protocol):
    """Where the loop's state is kept."""

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        ...

    def restore(self, step: int, like: Any) -> Any:
        """The state of that step, sharded as `like` is."""
        ...

    def save(self, step: int, state: Any) -> None:
        """Keeps the state."""
        ...


@runtime_checkable
class MetricsSink(Protocol):
    """Where the loop's numbers go."""

    def resume(self, step: int) -> None:
        """Forgets what was written for later steps."""
        ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means since the last call."""
        ...


def structure(make_model: MakeModel, *, training: bool) -> nnx.GraphDef:
    """What a network is apart from its arrays; dropout and batch statistics on in training."""
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    model.train() if training else model.eval()
    return nnx.split(model, nnx.Param, nnx.BatchStat)[0]


def init_variables(make_model: MakeModel, seed: int) -> tuple[Any, Any]:
    """Parameters and batch statistics of a new network, as nested dicts.

    Every module draws from its own stream of `seed`.
    """
    model = make_model(nnx.Rngs(params=seed))
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def bind(graphdef: nnx.GraphDef, params: Any, batch_stats: Any) -> nnx.Module:
    """The network with these arrays."""
    return nnx.merge(graphdef, nnx.State(params), nnx.State(batch_stats))


def init_state(
    make_model: MakeModel, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh
) -> TrainState:
    """A new network and optimizer on all devices, made there."""

    def init() -> TrainState:
        params, batch_stats = init_variables(make_model, seed)
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    return jax.jit(init, out_shardings=NamedSharding(mesh, P()))()


def make_optimizer(
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip: float = 5.0,
    warmup: int = 100,
) -> optax.GradientTransformation:
    """SGD with momentum; linear warm-up, then a cosine to zero at `steps`.

    Weight decay acts on kernels only: not on biases, not on normalisations.
    `clip` bounds the global norm of the gradient.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup, steps // 10), max(steps, 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.add_decayed_weights(
            weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
        ),
        # As a float: optax divides the step, which strict dtype promotion refuses of integers.
        optax.sgd(lambda step: schedule(jnp.asarray(step, jnp.float32)), momentum),
    )


def cross_entropy(
    outputs: Mapping[str, Array], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of a network with `logits`, and its metrics."""
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}


def make_step(
    make_model: MakeModel,
    make_examples: MakeExamples,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    loss_fn: Callable[..., tuple[Array, dict[str, Array]]] = cross_entropy,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The jitted step; it gives back the state it is given, one step on, in the same memory."""
    graphdef = structure(make_model, training=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        views_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        inputs, labels = make_examples(views_key, batch)

        def loss_of(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
            model = bind(graphdef, params, state.batch_stats)
            loss, metrics = loss_fn(model(inputs, dropout_key), labels)
            batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return loss, (metrics, batch_stats)

        grads, (metrics, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def fit(
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
    make_batches: Callable[[int], Iterator[Batch]],
    *,
    steps: int,
    checkpoints: CheckpointStore,
    log: MetricsSink,
    log_every: int,
    checkpoint_every: int,
) -> TrainState:
    """Trains from the newest checkpoint (or from `state`) to `steps`.

    `make_batches(first_step)` gives the batches of first_step, first_step + 1, ... .
    Metrics stay on the devices between logs, so that no step waits for the host.

    Raises:
      FloatingPointError: when the loss is no longer finite, or the parameters before they
        would be kept.
    """
    first = checkpoints.latest_step() or 0
    if first:
        state = checkpoints.restore(first, state)
    log.resume(first)
    pending: list[dict[str, Array]] = []
    batches = make_batches(first)
    for number in range(first + 1, steps + 1):
        state, metrics = step_fn(state, next(batches))
        pending.append(metrics)
        if number % log_every == 0 or number == steps:
            means = {
                name: float(np.mean([float(metrics[name]) for metrics in pending]))
                for name in pending[0]
            }
            pending.clear()
            if not np.isfinite(means["loss"]):
                raise _diverged("the loss", number, log_every)
            log.write(number, means)
        if number % checkpoint_every == 0 or number == steps:
            if not np.isfinite(float(optax.tree.norm(state.params))):
                raise _diverged("the parameters", number, log_every)
            checkpoints.save(number, state)
    return state


def _diverged(what: str, step: int, log_every: int) -> FloatingPointError:
    return FloatingPointError(
        f"{what} became NaN or infinite between steps {step - log_every} and {step}; the last "
        "checkpoint is finite. Try a lower learning rate, a longer warm-up or stronger clipping, "
        "and another --workdir."
    )
