"""Optimizers by name: the paper's SGD, and what large batches ask for."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kt_jax.models.sums import global_norm

NAMES = ("sgd", "lars", "adamw")
SCHEDULES = ("cosine", "step", "constant")


def make_optimizer(
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    name: str = "sgd",
    reference_batch: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip: float = 5.0,
    bias_rate: float = 1.0,
    schedule: str = "cosine",
    drop_every: int = 0,
    warmup: int = 100,
) -> optax.GradientTransformation:
    """The optimizer that a config describes.

    Weight decay (and LARS's trust ratio) act on kernels only: not on biases, not on
    normalisations.

    Args:
      steps: how many there will be.
      batch_size: of the global batch.
      learning_rate: its peak.
      name: "sgd" (with Caffe's momentum, v = m v + rate g and w -= v: a drop of the rate does not
        cut what the velocity holds), "lars" (You et al. 2017) or "adamw" (Loshchilov & Hutter
        2019).
      reference_batch: the batch that `learning_rate` is for: it is multiplied by batch_size /
        reference_batch, the linear scaling rule (Goyal et al. 2017). 0 takes it as it is.
      momentum: of SGD and LARS; AdamW's first.
      weight_decay: in SGD and LARS added to the gradient, in AdamW apart from it.
      clip: bounds the global norm of the gradient.
      bias_rate: what the rate of biases, those of normalisations too, is multiplied by; Caffe's
        AlexNet has 2.
      schedule: "cosine" to zero at `steps`, "step" (a tenth every `drop_every` steps) or
        "constant".
      drop_every: of the schedule "step".
      warmup: steps of linear warm-up, at most a tenth of all.

    Raises:
      ValueError: unknown names; a step schedule without `drop_every`, or it without one; numbers
        that nothing can be learned with.
    """
    for option, value, good, wanted in (
        ("learning_rate", learning_rate, 0 < learning_rate < math.inf, "a number above 0"),
        ("clip", clip, clip > 0, "a number above 0"),
        ("bias_rate", bias_rate, 0 < bias_rate < math.inf, "a number above 0"),
        ("momentum", momentum, 0 <= momentum < 1, "a number from 0 to below 1"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
        ("reference_batch", reference_batch, reference_batch >= 0, "0 or more"),
        ("warmup", warmup, warmup >= 0, "0 or more steps"),
    ):
        if not good:
            raise ValueError(f"optimizer.{option} = {value}: give {wanted}")
    if name not in NAMES:
        raise ValueError(f"optimizer.name = {name!r}: choose one of {', '.join(NAMES)}")
    if schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule = {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if (schedule == "step") != (drop_every > 0):
        raise ValueError(
            f"optimizer.drop_every = {drop_every} with schedule = {schedule!r}: the schedule "
            "'step' needs a number of steps, such as 100000, and the others need 0"
        )
    rate = learning_rate * (batch_size / reference_batch if reference_batch else 1.0)
    rates = _make_schedule(schedule, rate, steps, min(warmup, steps // 10), drop_every)
    decay = {"weight_decay": weight_decay}
    rule = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay, mask=_kernels),
            optax.scale_by_learning_rate(rates),
            optax.trace(momentum),
        ),
        "lars": lambda: optax.lars(
            rates,
            momentum=momentum,
            weight_decay_mask=_kernels,
            trust_ratio_mask=_kernels,
            **decay,
        ),
        "adamw": lambda: optax.adamw(rates, b1=momentum, mask=_kernels, **decay),
    }[name]()
    if bias_rate == 1.0:
        return optax.chain(_clip_by_global_norm(clip), rule)
    return optax.chain(
        _clip_by_global_norm(clip), rule, optax.masked(optax.scale(bias_rate), _biases)
    )


def _make_schedule(
    name: str, rate: float, steps: int, warmup: int, drop_every: int
) -> optax.Schedule:
    if name == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, 1))
    else:
        drops = range(drop_every, steps, drop_every) if name == "step" else ()
        after = optax.piecewise_constant_schedule(rate, dict.fromkeys(drops, 0.1))
        # Drops are counted from the first step, as Caffe does, not from the end of the warm-up.
        rising = optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(0)
        schedule = optax.join_schedules([rising, lambda step: after(step + warmup)], [warmup])
    # As a float: optax divides the step, which strict dtype promotion refuses of integers.
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """As optax has it, with a norm that is quick on CPUs."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1.0, most / global_norm(updates))
        return jax.tree.map(lambda x: x * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def _biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "bias", params
    )
