"""The training loop: steps from the newest checkpoint on."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array

from kt_jax.models.sums import global_norm
from kt_jax.training.state import TrainState
from kt_jax.training.step import Batch
from kt_jax.training.waiting import Waiting

_log = logging.getLogger(__name__)

_STUCK_STEPS = 1000


@runtime_checkable
class CheckpointStore(Protocol):
    """Where the loop saves its state."""

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest step and its state, sharded like `like`; None if nothing was saved."""
        ...

    def save(self, step: int, state: Any) -> None:
        """Starts saving the state, unless this step is already saved."""
        ...

    def wait(self) -> None:
        """Waits until everything is saved."""
        ...


@runtime_checkable
class MetricsSink(Protocol):
    """Where the loop logs its metrics."""

    def resume(self, step: int) -> None:
        """Removes what was written for later steps."""
        ...

    def begin(self, step: int, before: Any) -> None:
        """Called before each step; the devices may still compute `before`, the last metrics."""
        ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes means since the last call. `waiting` is the share of time without images."""
        ...


@runtime_checkable
class StopNotice(Protocol):
    """Tells whether the loop should stop."""

    def deferred(self) -> contextlib.AbstractContextManager:
        """Within this context a notice waits until the loop asks; outside it stops the process."""
        ...

    def reached(self) -> bool:
        """Whether to stop after the step just finished; the same on all processes."""
        ...


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

    Metrics are fetched from the devices after the next step was started, so that steps do not wait
    for the host.

    Args:
      state: the state at step 0, on the devices.
      step_fn: one step.
      make_batches: make_batches(first_step) gives the batches of first_step, first_step + 1, ...
      steps: the total number of steps.
      checkpoints: where the state is saved.
      log: where means over `log_every` steps are written.
      notice: asked after every step whether to stop.
      log_every: in steps.
      checkpoint_every: in steps.
      chance: the loss of the best guess that ignores the input. If the loss is not better for a
        thousand steps, a warning is logged.

    Raises:
      FloatingPointError: a loss, a gradient or a parameter is not finite. Checkpoints are from
        earlier steps.
      SystemExit: with status 75 (os.EX_TEMPFAIL), after saving, if the notice says to stop.
    """
    first, state = checkpoints.restore(state) or (0, state)
    log.resume(first)
    batches = make_batches(first)
    pending: list[dict[str, Array]] = []
    due, metrics = _Due(log, first, chance), {}
    with notice.deferred(), contextlib.closing(Waiting()) as waiting:
        for number in range(first + 1, steps + 1):
            log.begin(number, metrics)
            state, metrics = step_fn(state, waiting.get(batches))
            waiting.send(metrics)
            pending.append(metrics)
            due.write()
            stop = notice.reached()
            if number % log_every == 0 or number == steps:
                due.add(number, pending, waiting.share())
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
                _log.warning(
                    "told to stop: saved at step %d of %d; the same command resumes",
                    *(number, steps),
                )
                raise SystemExit(os.EX_TEMPFAIL)
    due.write()
    return state


# One program for the tree: one per leaf would be a hundred programs, and seconds of compilation.
_norm = jax.jit(global_norm)


class _Due:
    """Metrics on the devices, to be written after the next step was started."""

    def __init__(self, log: MetricsSink, step: int, chance: float | None) -> None:
        self._log, self._chance = log, chance
        self._better = step  # the last step known to be better than chance
        self.saved = step  # the last checkpoint, 0 before the first
        self._number, self._metrics, self._waiting = step, [], 0.0

    def add(self, number: int, metrics: list[dict[str, Array]], waiting: float) -> None:
        self._number, self._metrics, self._waiting = number, metrics, waiting

    def check(self, number: int, metrics: list[dict[str, Array]]) -> list[dict[str, float]]:
        """The metrics of the steps up to `number`, fetched. Refuses values that are not finite."""
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
        self._log.write(self._number, {**means, "waiting": self._waiting})
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
        f"the checkpoint of step {saved} was saved before that, and is finite"
        if saved
        else ("there is no checkpoint yet")
    )
    return FloatingPointError(
        f"{what} became NaN or infinite in step {step}; {kept}. Try a lower learning rate, a "
        "longer warm-up or stronger clipping, and another --workdir."
    )
