"""Optimizers by name: the paper's SGD, and those for large batches."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kt_jax.models.sums import global_norm

NAMES = ("sgd", "lars", "adamw")
SCHEDULES = ("cosine", "step", "constant")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Options of the optimizer.

    Weight decay (and LARS's trust ratio) apply only to parameters called "kernel": not to biases,
    normalisations, position embeddings and class tokens.

    Raises:
      ValueError: a name is unknown, `drop_every` does not fit the schedule, or a number is out of
        range.
    """

    name: str = "sgd"
    """"sgd", "lars" (You et al. 2017) or "adamw" (Loshchilov & Hutter 2019). "sgd" has Caffe's
    momentum, v = m v + rate g and w -= v: a drop of the rate does not change the velocity."""
    learning_rate: float = 0.01
    """The peak learning rate."""
    momentum: float = 0.9
    """The momentum of SGD and LARS, and the first one of AdamW."""
    weight_decay: float = 5e-4
    """Added to the gradient in SGD and LARS; decoupled in AdamW."""
    clip: float = 5.0
    """The largest global norm of the gradient; 0: no clipping."""
    warmup: int = 100
    """The number of steps of linear warm-up, at most a tenth of all steps."""
    reference_batch: int = 0
    """The batch size that `learning_rate` is for. The rate is multiplied by batch_size /
    reference_batch, the linear scaling rule (Goyal et al. 2017). 0: no scaling."""
    schedule: str = "cosine"
    """"cosine" to zero at the last step, "step" (times `drop` every `drop_every` steps) or
    "constant"."""
    drop_every: int = 0
    """The number of steps between drops in the schedule "step"."""
    drop: float = 0.1
    """The factor of a drop in the schedule "step". Krahenbuhl's schedule for VOC classification has
    0.5."""
    bias_rate: float = 1.0
    """The factor of the learning rate for biases, including those of normalisations. Caffe's
    AlexNet has 2."""

    def __post_init__(self) -> None:
        """Refuses values that cannot be used."""
        for option, good, wanted in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("clip", self.clip >= 0, "0 or more"),
            ("bias_rate", 0 < self.bias_rate < math.inf, "a number above 0"),
            ("momentum", 0 <= self.momentum < 1, "a number from 0 to below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("reference_batch", self.reference_batch >= 0, "0 or more"),
            ("drop", 0 < self.drop <= 1, "a number above 0 up to 1"),
            ("warmup", self.warmup >= 0, "0 or more steps"),
        ):
            if not good:
                raise ValueError(f"{option} = {getattr(self, option)}: give {wanted}")
        if self.name not in NAMES:
            raise ValueError(f"name = {self.name!r}: choose one of {', '.join(NAMES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule = {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if (self.schedule == "step") != (self.drop_every > 0):
            raise ValueError(
                f"drop_every = {self.drop_every} with schedule = {self.schedule!r}: the "
                "schedule 'step' needs a number of steps, such as 100000, and the others need 0"
            )


def make_optimizer(
    options: Optimizer, *, steps: int, batch_size: int
) -> optax.GradientTransformation:
    """The optimizer for a training of `steps` steps with global batches of `batch_size`."""
    scaled = batch_size / options.reference_batch if options.reference_batch else 1.0
    rates = _make_schedule(options, options.learning_rate * scaled, steps)
    momentum, decay = options.momentum, {"weight_decay": options.weight_decay}
    rule = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(mask=_kernels, **decay),
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
    }[options.name]()
    rules = [_clip_by_global_norm(options.clip), rule] if options.clip else [rule]
    if options.bias_rate != 1.0:
        rules.append(optax.masked(optax.scale(options.bias_rate), _biases))
    return optax.chain(*rules)


def _make_schedule(options: Optimizer, rate: float, steps: int) -> optax.Schedule:
    warmup = min(options.warmup, steps // 10)
    if options.schedule == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, 1))
    else:
        every = options.drop_every
        drops = range(every, steps, every) if options.schedule == "step" else ()
        after = optax.piecewise_constant_schedule(rate, dict.fromkeys(drops, options.drop))
        # Drops are counted from the first step, as in Caffe, not from the end of the warm-up.
        rising = optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(0)
        schedule = optax.join_schedules([rising, lambda step: after(step + warmup)], [warmup])
    # As a float: optax divides the step, and strict dtype promotion refuses integers.
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """As in optax, with a norm that is fast on CPUs."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1.0, most / global_norm(updates))
        return jax.tree.map(lambda x: x * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _kernels(params: Any) -> Any:
    return _called("kernel", params)


def _biases(params: Any) -> Any:
    return _called("bias", params)


def _called(name: str, params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == name, params
    )
