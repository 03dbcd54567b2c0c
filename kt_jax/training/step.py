"""One training step: examples from a batch, the loss, its gradient, the update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt32

from kt_jax.models.layers import KEPT
from kt_jax.models.sums import global_norm
from kt_jax.training.state import AveragedState, MakeModel, TrainState, bind, structure

Batch = Mapping[str, Array]
# (key, batch) -> (inputs of the network, labels), inside the jitted step.
MakeExamples = Callable[[Array, Batch], tuple[Any, Any]]
# (outputs of the network in float32, labels) -> (loss, metrics).
LossFn = Callable[..., tuple[Array, dict[str, Array]]]


def cross_entropy(
    outputs: Mapping[str, Array], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean softmax cross entropy of `logits`, and its metrics."""
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}


def compute_dtype(precision: str) -> Any:
    """The dtype of activations: float32 or bfloat16. "auto" depends on the devices.

    Raises:
      ValueError: `precision` is another word.
    """
    if precision == "auto":
        # CPUs compute bfloat16 convolutions in float32, plus conversions.
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision = {precision!r}: choose auto, float32 or bfloat16")
    return jnp.dtype(precision)


@dataclass(frozen=True, eq=False)
class Step:
    """A compiled step with its key.

    The key is an argument of the program, not a constant in it. So trainings that differ only in
    their seeds share the compiled program, in memory and in the cache on disk.
    """

    program: Any
    """(state, batch, key's data) -> (state, metrics), jitted."""
    key_data: UInt32[np.ndarray, "..."]

    def __call__(
        self, state: TrainState, batch: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, Array]]:
        """Runs one step: returns the new state and the metrics."""
        found: tuple[TrainState, dict[str, Array]] = self.program(state, batch, self.key_data)
        return found

    def lower(self, state: Any, batch: Any) -> Any:
        """As `jax.jit(...).lower`, for arrays or their shapes."""
        return self.program.lower(state, batch, self.key_data)


def make_step(
    make_model: MakeModel,
    make_examples: MakeExamples,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    loss_fn: LossFn = cross_entropy,
    precision: str = "float32",
    accumulate: int = 1,
    remat: bool = False,
    ema: float = 0.0,
) -> Step:
    """The jitted step. The new state reuses the memory of the old one (donation).

    Args:
      make_model: makes the network.
      make_examples: makes inputs and labels from a batch, with a key of the step.
      optimizer: turns gradients into updates.
      key: key of the training. Each step folds its number into it.
      loss_fn: (outputs in float32, labels) -> (loss, metrics).
      precision: "float32"; "bfloat16": activations and the weights that multiply them are rounded,
        while parameters, statistics, loss and updates stay float32; or "auto".
      accumulate: the number of micro-batches, which are computed one after the other; their
        gradients are averaged. It takes less memory. Normalisations see one micro-batch at a time.
        Devices sum the gradient of each one, unless XLA moves the sum behind the last.
      remat: keeps the activations that the network marks (`layers.keep`), and computes the others
        again in the backward pass (a third more products). It takes less memory. XLA:CPU recognises
        most of the repeated computations, and keeps their results after all.
      ema: the decay of the average in an `AveragedState`, from above 0 to below 1; see
        `move_average`. It does not change the training itself.
    """
    graphdef = structure(make_model, training=True)
    dtype = compute_dtype(precision)

    def loss_of(
        weights: Any, batch_stats: Any, inputs: Any, labels: Any, key: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        model = bind(graphdef, weights, batch_stats)
        loss, metrics = loss_fn(_cast(model(_cast(inputs, dtype), key), jnp.float32), labels)
        return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    if remat:
        policy = jax.checkpoint_policies.save_only_these_names(KEPT)
        loss_of = jax.checkpoint(loss_of, policy=policy)
    differentiate = jax.grad(loss_of, has_aux=True)

    def step(
        state: TrainState, batch: Batch, key_data: UInt32[Array, "..."]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.wrap_key_data(key_data, impl=kind)
        views_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        examples = make_examples(views_key, batch)
        weights = _cast(state.params, dtype)  # once for all micro-batches
        if accumulate == 1:
            grads, (metrics, batch_stats) = differentiate(
                weights, state.batch_stats, *examples, dropout_key
            )
            grads = jax.tree.map(lambda x, like: x.astype(like.dtype), grads, state.params)
        else:
            grads, (metrics, batch_stats) = _in_parts(
                differentiate, state, weights, examples, dropout_key, accumulate
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "gradient_norm": global_norm(grads)}
        number = state.step + 1
        following = (number, params, batch_stats, opt_state)
        if not isinstance(state, AveragedState):
            return TrainState(*following), metrics
        average = move_average(state.average, (params, batch_stats), ema, number)
        return AveragedState(*following, average), metrics

    kind = jax.random.key_impl(key)
    return Step(jax.jit(step, donate_argnums=0), np.asarray(jax.random.key_data(key)))


def move_average(average: Any, values: Any, decay: float, number: Int[Array, ""]) -> Any:
    """The exponential moving average of `values`, after those of step `number` (1, 2, ...).

    It is bias-corrected like Adam's moments (Kingma & Ba 2015, section 3): the values of step i
    have the weight decay ** (number - i) / sum over j of decay ** (number - j). After step 1 the
    average is the values of step 1; the values before training have no weight.
    """
    # (1 - decay) / (1 - decay ** number), without the cancellation of 1 - 0.9999 in float32.
    rate = math.log(decay)
    weight = math.expm1(rate) / jnp.expm1(rate * number.astype(jnp.float32))
    return jax.tree.map(lambda old, new: old + weight * (new - old), average, values)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _in_parts(
    differentiate: Callable[..., Any],
    state: TrainState,
    weights: Any,
    examples: Any,
    key: Array,
    parts: int,
) -> Any:
    """The mean gradient and metrics of the micro-batches, and the last statistics."""
    # Row r is in micro-batch r % parts: each device splits its own rows, and sends none to another.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), examples)

    def add(carried: Any, number: Array) -> tuple[Any, dict[str, Array]]:
        total, batch_stats = carried
        part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, 1, False), cut)
        part_key = jax.random.fold_in(key, number)
        grads, (metrics, batch_stats) = differentiate(weights, batch_stats, *part, part_key)
        total = jax.tree.map(lambda x, grad: x + grad.astype(x.dtype), total, grads)
        return (total, batch_stats), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (total, batch_stats), metrics = jax.lax.scan(add, (zeros, state.batch_stats), jnp.arange(parts))
    metrics = {name: values.mean() for name, values in metrics.items()}
    return jax.tree.map(lambda x: x / parts, total), (metrics, batch_stats)
