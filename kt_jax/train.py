"""The one training loop: every stage that learns is a classifier.

Modules are flax NNX, training is functional: a module is split once into its structure and
its arrays, plain `jax.jit` takes a state and returns one, no module crosses a jit border.
"""

import contextlib
import logging
import os
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

from kt_jax.sums import global_norm

_log = logging.getLogger(__name__)

_STUCK_STEPS = 1000

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

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest step and its state, sharded as `like` is; None if nothing was saved."""
        ...

    def save(self, step: int, state: Any) -> None:
        """Begins to keep the state, unless that of this step is kept already."""
        ...

    def wait(self) -> None:
        """Returns when all that was saved is kept."""
        ...


@runtime_checkable
class MetricsSink(Protocol):
    """Where the loop's numbers go."""

    def resume(self, step: int) -> None:
        """Forgets what was written for later steps."""
        ...

    def begin(self, step: int) -> None:
        """A step is about to begin."""
        ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means since the last call."""
        ...


@runtime_checkable
class StopNotice(Protocol):
    """Whether the loop has been told to stop."""

    def deferred(self) -> contextlib.AbstractContextManager:
        """While this lasts, the loop asks; otherwise a notice stops the process at once."""
        ...

    def reached(self) -> bool:
        """Whether to stop after the step that has just been made; the same on all processes."""
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


def cross_entropy(
    outputs: Mapping[str, Array], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of a network with `logits`, and its metrics."""
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}


def compute_dtype(precision: str) -> Any:
    """The dtype of activations: float32 or bfloat16; "auto" asks the devices.

    Raises:
      ValueError: any other word.
    """
    if precision == "auto":
        # CPUs compute bfloat16 convolutions in float32, and convert on top.
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision = {precision!r}: choose auto, float32 or bfloat16")
    return jnp.dtype(precision)


def make_step(
    make_model: MakeModel,
    make_examples: MakeExamples,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    loss_fn: Callable[..., tuple[Array, dict[str, Array]]] = cross_entropy,
    precision: str = "float32",
    accumulate: int = 1,
    remat: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The jitted step; it gives back the state it is given, one step on, in the same memory.

    Args:
      make_model: the network.
      make_examples: inputs and labels from a batch, drawn with a key of the step.
      optimizer: what turns gradients into updates.
      key: of the training; each step folds its number into it.
      loss_fn: (outputs in float32, labels) -> (loss, metrics).
      precision: "float32"; "bfloat16", in which activations and the weights that meet them are
        rounded, while parameters, statistics, loss and updates stay float32; or "auto".
      accumulate: the batch is worked off in so many parts, one after the other, whose gradients
        are averaged: it takes less memory. Normalisations see one part at a time.
      remat: of the activations, keeps those that the network names "pooled", and computes the
        others again in the backward pass: it takes less memory, and a third more time.
    """
    graphdef = structure(make_model, training=True)
    dtype = compute_dtype(precision)

    def loss_of(
        params: Any, batch_stats: Any, inputs: Any, labels: Any, key: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        model = bind(graphdef, _cast(params, dtype), batch_stats)
        loss, metrics = loss_fn(_cast(model(_cast(inputs, dtype), key), jnp.float32), labels)
        return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    if remat:
        policy = jax.checkpoint_policies.save_only_these_names("pooled")
        loss_of = jax.checkpoint(loss_of, policy=policy)
    differentiate = jax.grad(loss_of, has_aux=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        views_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        examples = make_examples(views_key, batch)
        if accumulate == 1:
            grads, (metrics, batch_stats) = differentiate(
                state.params, state.batch_stats, *examples, dropout_key
            )
        else:
            grads, (metrics, batch_stats) = _in_parts(
                differentiate, state, examples, dropout_key, accumulate
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "gradient_norm": global_norm(grads)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _in_parts(
    differentiate: Callable[..., Any], state: TrainState, examples: Any, key: Array, parts: int
) -> Any:
    """The mean gradient and metrics of the parts of a batch, and the last statistics."""
    # Row r is in part r % parts: each device cuts its own rows, and sends none to another.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), examples)

    def add(carried: Any, number: Array) -> tuple[Any, dict[str, Array]]:
        total, batch_stats = carried
        part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, 1, False), cut)
        part_key = jax.random.fold_in(key, number)
        grads, (metrics, batch_stats) = differentiate(state.params, batch_stats, *part, part_key)
        return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (total, batch_stats), metrics = jax.lax.scan(add, (zeros, state.batch_stats), jnp.arange(parts))
    metrics = {name: values.mean() for name, values in metrics.items()}
    return jax.tree.map(lambda x: x / parts, total), (metrics, batch_stats)


def fit(
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
    make_batches: Callable[[int], Iterator[Batch]],
    *,
    steps: int,
    checkpoints: CheckpointStore,
    log: MetricsSink,
    notice: StopNotice,
    log_every: int,
    checkpoint_every: int,
    chance: float | None = None,
) -> TrainState:
    """Trains from the newest checkpoint (or from `state`) to `steps`.

    Metrics stay on the devices until the next step is on its way, so that no step waits for the
    host.

    Args:
      state: at step 0, where the devices want it.
      step_fn: one step.
      make_batches: make_batches(first_step) gives the batches of first_step, first_step + 1, ...
      steps: how many in all.
      checkpoints: where the state is kept.
      log: where means over `log_every` steps go.
      notice: asked after every step whether to stop.
      log_every: in steps.
      checkpoint_every: in steps.
      chance: the loss of the best guess that does not look; when the loss has been no better for a
        thousand steps, a warning is logged.

    Raises:
      FloatingPointError: a loss, a gradient or the parameters are no longer finite; checkpoints
        are from before.
      SystemExit: with status 75 (os.EX_TEMPFAIL), after saving, when the notice says to stop.
    """
    first, state = checkpoints.restore(state) or (0, state)
    log.resume(first)
    batches = make_batches(first)
    pending: list[dict[str, Array]] = []
    due = _Due(log, first, chance)
    with notice.deferred():
        for number in range(first + 1, steps + 1):
            log.begin(number)
            state, metrics = step_fn(state, next(batches))
            pending.append(metrics)
            due.write()
            stop = notice.reached()
            if number % log_every == 0 or number == steps:
                due.add(number, pending)
                pending = []
            if number % checkpoint_every == 0 or number == steps or stop:
                due.write()
                due.check(number, pending)
                if not np.isfinite(float(_norm(state.params))):
                    raise _diverged("a parameter", number, due.saved)
                checkpoints.save(number, state)
                due.saved = number
            if stop:
                checkpoints.wait()
                _log.warning("told to stop: saved at step %d of %d", number, steps)
                raise SystemExit(os.EX_TEMPFAIL)
    due.write()
    return state


# One program: leaf by leaf it would be a hundred, compiled for seconds.
_norm = jax.jit(global_norm)


class _Due:
    """Metrics that wait, on the devices, to be written when the next step is on its way."""

    def __init__(self, log: MetricsSink, step: int, chance: float | None) -> None:
        self._log, self._chance = log, chance
        self._better = step  # the last step known to be better than chance
        self.saved = step  # the last checkpoint, 0 before the first
        self._number, self._metrics = step, []

    def add(self, number: int, metrics: list[dict[str, Array]]) -> None:
        self._number, self._metrics = number, metrics

    def check(self, number: int, metrics: list[dict[str, Array]]) -> list[dict[str, float]]:
        """The metrics of the steps up to `number`, fetched; refuses those that are not finite."""
        fetched = [{name: float(x) for name, x in each.items()} for each in metrics]
        for step, each in enumerate(fetched, start=number - len(fetched) + 1):
            for name, what in (("loss", "the loss"), ("gradient_norm", "a gradient")):
                if not np.isfinite(each[name]):
                    raise _diverged(what, step, self.saved)
        return fetched

    def write(self) -> None:
        if not self._metrics:
            return
        fetched = self.check(self._number, self._metrics)
        means = {name: float(np.mean([each[name] for each in fetched])) for name in fetched[0]}
        self._log.write(self._number, means)
        if self._chance is not None and means["loss"] < 0.99 * self._chance:
            self._better = self._number
        elif self._chance is not None and self._number - self._better >= _STUCK_STEPS:
            _log.warning(
                "step %d: the loss is %.4g, no better than chance (%.4g), for %d steps now. Try a "
                "lower or higher learning rate, a longer warm-up, or batch_norm.",
                *(self._number, means["loss"], self._chance, self._number - self._better),
            )
        self._metrics = []


def _diverged(what: str, step: int, saved: int) -> FloatingPointError:
    kept = (
        f"the checkpoint of step {saved} is from before, and finite"
        if saved
        else ("there is no checkpoint yet")
    )
    return FloatingPointError(
        f"{what} became NaN or infinite in step {step}; {kept}. Try a lower learning rate, a "
        "longer warm-up or stronger clipping, and another --workdir."
    )
