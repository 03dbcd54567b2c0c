"""What stages that learn share: a network, its checkpoints and its log around `fit`."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from kt_jax import training
from kt_jax.machine import partition
from kt_jax.runs import artifacts
from kt_jax.training import checkpoints, logs, optimizers


def learn(
    stage: artifacts.Stage,
    make_model: training.MakeModel,
    make_examples: training.MakeExamples,
    make_batches: Callable[[int], Iterator[training.Batch]],
    *,
    name: str,
    seed: int,
    steps: int,
    log_every: int,
    checkpoint_every: int,
    log_directory: Path,
    store_directory: Path,
    chance: float | None = None,
    **step_options: Any,
) -> training.TrainState:
    """Trains a network as the stage's section says, or carries on with it.

    Args:
      stage: whose section holds `batch_size`, `optimizer` and, but for probes, `compute`
        (precision, accumulate and remat of `training.make_step`).
      make_model: the network.
      make_examples: inputs and labels from a batch.
      make_batches: the batches from a step on, on the devices.
      name: in the log.
      seed: of the parameters, and of what the steps draw.
      steps: how many in all.
      log_every: in steps.
      checkpoint_every: in steps.
      log_directory: where metrics.jsonl, TensorBoard's events and profiles go.
      store_directory: where checkpoints go.
      chance: the loss of guessing, if it is known.
      **step_options: of `training.make_step`.

    Raises:
      FloatingPointError, SystemExit: as `training.fit`.
    """
    section = stage.section
    optimizer = make_optimizer(section, steps)
    store = checkpoints.Checkpoints(store_directory)
    log = logs.StageLog(
        log_directory,
        stage=name,
        steps=steps,
        images_per_step=section.batch_size,
        profile_steps=stage.profile_steps,
    )
    try:
        state = training.fit(
            training.init_state(make_model, optimizer, seed=seed, mesh=stage.mesh),
            training.make_step(
                make_model,
                make_examples,
                optimizer,
                key=jax.random.key(seed),
                **_compute(section),
                **step_options,
            ),
            make_batches,
            steps=steps,
            checkpoints=store,
            log=log,
            notice=stage.notice,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            chance=chance,
        )
        store.close()
        return state
    except jax.errors.JaxRuntimeError:
        raise  # without waiting for what another process may never end
    except BaseException:
        with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):
            store.close()
        raise
    finally:
        log.close()


def check(config: Any, name: str, *, multiple_of: int = 1) -> None:
    """Refuses what the section of a stage that learns asks for in vain.

    `multiple_of` is the number of consecutive examples that must stay on one device.

    Raises:
      ValueError: a batch that devices or parts cannot share evenly, an optimizer that cannot learn,
        an unknown precision, or a count below 1.
    """
    section, origin = config[name], f"config.{name}"
    for key in ("steps", "epochs", "log_every", "checkpoint_every", "test_repeats"):
        if key in section and section[key] < 1:
            raise ValueError(f"{origin}.{key} = {section[key]}: give 1 or more")
    compute = _compute(section)
    parts = compute["accumulate"]
    if parts < 1:
        raise ValueError(f"{origin}.compute.accumulate = {parts}: give 1 or more parts")
    # Puzzles are made of whole groups before the batch is cut into parts.
    unit = math.lcm(multiple_of, parts)
    why = f" ({parts} parts, as compute.accumulate says)" if parts > 1 else ""
    partition.check_batch_size(f"{origin}.batch_size{why}", section.batch_size, multiple_of=unit)
    try:
        make_optimizer(section, 1)
        training.compute_dtype(compute["precision"])
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def _compute(section: Any) -> dict[str, Any]:
    """How steps are computed; probes, which are small, are left no choice."""
    if "compute" not in section:
        return {"precision": "float32", "accumulate": 1, "remat": False}
    return artifacts.plain(section.compute)


def make_optimizer(section: Any, steps: int) -> Any:
    """The optimizer that a section describes.

    Raises:
      ValueError: as `optimizers.make_optimizer`.
    """
    options = artifacts.plain(section.optimizer)
    return optimizers.make_optimizer(steps=steps, batch_size=section.batch_size, **options)
