"""What stages that learn share: options, a network, its checkpoints and its log around `fit`."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from kt_jax import training
from kt_jax.machine import partition
from kt_jax.runs import progress
from kt_jax.runs.options import incidental, to_section
from kt_jax.runs.stage import Stage
from kt_jax.training import checkpoints, logs, optimizers, trackers
from kt_jax.training.optimizers import Optimizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a step is computed; see `training.make_step`."""

    precision: str = "auto"
    """The dtype of activations: "float32", "bfloat16", or "auto": bfloat16 on GPUs and TPUs."""
    accumulate: int = 1
    """The number of micro-batches of a step (gradient accumulation). More of them take less
    memory."""
    remat: bool = incidental(False)
    """Whether activations are computed again in the backward pass (rematerialisation). It takes
    less memory."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of all stages that train by gradient descent."""

    steps: int
    batch_size: int = 256
    """The number of images in a step, over all devices."""
    log_every: int = incidental(100)
    """The number of steps between lines of the log."""
    checkpoint_every: int = incidental(1000)
    """The number of steps between checkpoints."""
    compute: Compute = Compute()
    optimizer: Optimizer = Optimizer()

    def check(self, origin: str, *, multiple_of: int = 1) -> None:
        """Checks the options before anything is computed.

        `multiple_of` is the number of consecutive examples that must be on the same device.

        Raises:
          ValueError: devices or micro-batches cannot share the batch evenly, the precision is
            unknown, or a count is below 1.
        """
        for key in ("steps", "log_every", "checkpoint_every"):
            check_count(f"{origin}.{key}", getattr(self, key))
        parts = self.compute.accumulate
        if parts < 1:
            raise ValueError(f"{origin}.compute.accumulate = {parts}: give 1 or more")
        # Puzzles are made of whole groups before the batch is split into micro-batches.
        unit = math.lcm(multiple_of, parts)
        why = f" ({parts} micro-batches by compute.accumulate)" if parts > 1 else ""
        partition.check_batch_size(f"{origin}.batch_size{why}", self.batch_size, multiple_of=unit)
        try:
            training.compute_dtype(self.compute.precision)
        except ValueError as error:
            raise ValueError(f"{origin}.compute.{error}") from None


def check_count(origin: str, count: int) -> None:
    """Refuses a count below 1.

    Raises:
      ValueError: it names the option and the value.
    """
    if count < 1:
        raise ValueError(f"{origin} = {count}: give 1 or more")


def check_head(widths: Iterable[int], dropout: float) -> None:
    """Refuses widths and dropout that are out of range.

    Raises:
      ValueError: a width is below 1, or dropout is not a share from 0 to below 1.
    """
    if any(width < 1 for width in widths):
        raise ValueError(f"widths {tuple(widths)}: give 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}: give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The fully connected layers on the backbone; see `models.Classifier`."""

    hidden: tuple[int, ...] | None = None
    """The widths of the hidden layers before the last. The default is (4096, 4096) if the
    backbone's output is a map, as in AlexNet, and none if it is a vector, as in ResNets."""
    dropout: float = 0.5
    batch_norm: bool = False

    def __post_init__(self) -> None:
        """Refuses widths and dropout that are out of range."""
        check_head(self.hidden or (), self.dropout)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training: what is learned, and where state and metrics are kept."""

    name: str
    """The name in the log."""
    options: Training
    seed: int
    """The seed of the parameters, and of the draws in steps."""
    make_model: training.MakeModel
    make_examples: training.MakeExamples
    """Makes inputs and labels from a batch."""
    make_batches: Callable[[int], Iterator[training.Batch]]
    """The batches from a step on, on the devices."""
    log_directory: Path
    """The directory of metrics.jsonl, TensorBoard events and profiles."""
    store_directory: Path
    """The directory of the checkpoints."""
    loss_fn: training.LossFn = training.cross_entropy
    chance: float | None = None
    """The loss of guessing, if it is known."""
    ema: float = 0.0
    """As in `training.make_step`; 0 keeps no average."""
    begin: Callable[[training.TrainState], training.TrainState] | None = None
    """Puts given weights into a new network, before its first step."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training step without images: it tells what a step costs before training."""

    options: Training
    make_model: training.MakeModel
    make_examples: training.MakeExamples
    shapes: Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
    """Shape and dtype of each array of a batch."""
    loss_fn: training.LossFn = training.cross_entropy
    ema: float = 0.0

    def disk(self) -> int:
        """The largest size on disk in bytes: the network and up to three checkpoints."""
        optimizer = optimizers.make_optimizer(
            self.options.optimizer, steps=self.options.steps, batch_size=self.options.batch_size
        )

        def init() -> training.TrainState:
            return training.init_state(
                self.make_model,
                optimizer,
                seed=0,
                mesh=partition.make_mesh(),
                averages=self.ema > 0,
            )

        state = jax.eval_shape(init)
        whole, network = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
            for tree in (state, (state.params, state.batch_stats))
        )
        return 3 * whole + network

    def describe(self, time_steps: int) -> str:
        """A line with the FLOPs and the memory of a step; with `time_steps`, also its time.

        The memory is what XLA plans for these devices in addition to parameters and optimizer,
        mostly activations. Steps are timed on zeros, after one step that compiles. Reading images
        is not included.
        """
        options, mesh = self.options, partition.make_mesh()
        optimizer = optimizers.make_optimizer(
            options.optimizer, steps=options.steps, batch_size=options.batch_size
        )
        step = _make_step(self, optimizer, jax.random.key(0))

        def init() -> training.TrainState:
            return training.init_state(
                self.make_model, optimizer, seed=0, mesh=mesh, averages=self.ema > 0
            )

        # XLA counts the body of a scan once.
        whole = dataclasses.replace(options.compute, accumulate=1)
        counted = dataclasses.replace(self, options=dataclasses.replace(options, compute=whole))
        zeros = {name: np.zeros(*each) for name, each in self.shapes.items()}
        batch = partition.put_rows(zeros, mesh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=partition.replicated(mesh)),
            jax.eval_shape(init),
        )
        lowered = _make_step(counted, optimizer, jax.random.key(0)).lower(shapes, batch)
        flops = (lowered.cost_analysis() or {}).get("flops", float("nan"))
        memory = step.lower(shapes, batch).compile().memory_analysis().temp_size_in_bytes
        line = (
            f"{flops / 1e9:,.3g} GFLOP a step, {flops * options.steps / 1e12:,.3g} TFLOP in all; "
            f"{memory / 1e9:,.3g} GB of activations and scratch memory a device"
        )
        if not time_steps:
            return line
        state, times = init(), []
        for _ in range(1 + time_steps):
            begun = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - begun)
        seconds = float(np.median(times[1:]))
        whole = progress.format_seconds(seconds * options.steps)
        return f"{line}; {seconds:.3g} s a step, about {whole} without reading images"


def _make_step(task: Task | Trial, optimizer: optax.GradientTransformation, key: jax.Array) -> Any:
    """The jitted step."""
    compute = task.options.compute
    return training.make_step(
        task.make_model,
        task.make_examples,
        optimizer,
        key=key,
        loss_fn=task.loss_fn,
        precision=compute.precision,
        accumulate=compute.accumulate,
        remat=compute.remat,
        ema=task.ema,
    )


def learn(stage: Stage, task: Task) -> training.TrainState:
    """Trains a network from its newest checkpoint, or from the start.

    Raises:
      FloatingPointError, SystemExit: as `training.fit`.
    """
    options = task.options
    optimizer = optimizers.make_optimizer(
        options.optimizer, steps=options.steps, batch_size=options.batch_size
    )
    _log.info("%s: compiling the initialisation of the network", task.name)
    store = checkpoints.Checkpoints(task.store_directory)
    shown, leads = to_section(options), jax.process_index() == 0
    log = logs.StageLog(
        task.log_directory,
        stage=task.name,
        steps=options.steps,
        images_per_step=options.batch_size,
        profile_steps=stage.profile_steps,
        progress_file=stage.directory / progress.FILE,
        trackers=trackers.start(stage.log_to, task.log_directory, shown) if leads else (),
    )
    try:
        new = training.init_state(
            task.make_model,
            optimizer,
            seed=task.seed,
            mesh=stage.mesh,
            averages=task.ema > 0,
        )
        state = training.fit(
            new if task.begin is None else task.begin(new),
            _make_step(task, optimizer, jax.random.key(task.seed)),
            task.make_batches,
            steps=options.steps,
            checkpoints=store,
            log=log,
            notice=stage.notice,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            chance=task.chance,
        )
        store.close()
        return state
    except jax.errors.JaxRuntimeError:
        raise  # without waiting for another process that may never finish
    except BaseException:
        with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):
            store.close()
        raise
    finally:
        log.close()
