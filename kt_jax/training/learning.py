"""What stages that learn share: a network, its checkpoints and its log around `fit`."""

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
    """Of activations: "float32", "bfloat16", or "auto", bfloat16 on GPUs and TPUs."""
    accumulate: int = 1
    """Micro-batches of a step: their gradients are averaged, which takes less memory."""
    remat: bool = incidental(False)
    """Whether activations are computed again in the backward pass, which takes less memory."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of whatever learns."""

    steps: int
    batch_size: int = 256
    """Images of a step, over all devices."""
    log_every: int = incidental(100)
    """Steps."""
    checkpoint_every: int = incidental(1000)
    """Steps."""
    compute: Compute = Compute()
    optimizer: Optimizer = Optimizer()

    def check(self, origin: str, *, multiple_of: int = 1) -> None:
        """Refuses what asks in vain.

        `multiple_of` is the number of consecutive examples that must stay on one device.

        Raises:
          ValueError: a batch that devices or micro-batches cannot share evenly, an unknown
            precision, or a count below 1.
        """
        for key in ("steps", "log_every", "checkpoint_every"):
            check_count(f"{origin}.{key}", getattr(self, key))
        parts = self.compute.accumulate
        if parts < 1:
            raise ValueError(f"{origin}.compute.accumulate = {parts}: give 1 or more parts")
        # Puzzles are made of whole groups before the batch is cut into parts.
        unit = math.lcm(multiple_of, parts)
        why = f" ({parts} parts, as compute.accumulate says)" if parts > 1 else ""
        partition.check_batch_size(f"{origin}.batch_size{why}", self.batch_size, multiple_of=unit)
        try:
            training.compute_dtype(self.compute.precision)
        except ValueError as error:
            raise ValueError(f"{origin}.compute.{error}") from None


def check_count(origin: str, count: int) -> None:
    """Refuses a count below 1.

    Raises:
      ValueError: with the value, and where it stands.
    """
    if count < 1:
        raise ValueError(f"{origin} = {count}: give 1 or more")


def check_head(widths: Iterable[int], dropout: float) -> None:
    """Refuses what is no network.

    Raises:
      ValueError: a width below 1, or a share of dropped units that is none.
    """
    if any(width < 1 for width in widths):
        raise ValueError(f"widths {tuple(widths)}: give 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}: give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is put on the backbone; see `models.Classifier`."""

    hidden: tuple[int, ...] | None = None
    """The widths of the fully connected layers before the last; by default (4096, 4096) behind a
    map, as AlexNet has them, and none behind a vector, as ResNets have."""
    dropout: float = 0.5
    batch_norm: bool = False

    def __post_init__(self) -> None:
        """Refuses what is no network."""
        check_head(self.hidden or (), self.dropout)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned, and where its state and its numbers are kept."""

    name: str
    """In the log."""
    options: Training
    seed: int
    """Of the parameters, and of what the steps draw."""
    make_model: training.MakeModel
    make_examples: training.MakeExamples
    """Inputs and labels from a batch."""
    make_batches: Callable[[int], Iterator[training.Batch]]
    """The batches from a step on, on the devices."""
    log_directory: Path
    """Where metrics.jsonl, TensorBoard's events and profiles go."""
    store_directory: Path
    """Where checkpoints go."""
    loss_fn: training.LossFn = training.cross_entropy
    chance: float | None = None
    """The loss of guessing, if it is known."""
    ema: float = 0.0
    """As in `training.make_step`; 0 keeps no average."""
    begin: Callable[[training.TrainState], training.TrainState] | None = None
    """What puts given weights into a new network, before its first step."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a step needs, apart from images: to say what it costs before any is made."""

    options: Training
    make_model: training.MakeModel
    make_examples: training.MakeExamples
    shapes: Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
    """Shape and dtype of each array of a batch."""
    loss_fn: training.LossFn = training.cross_entropy
    ema: float = 0.0

    def disk(self) -> int:
        """Bytes of its checkpoints, of which there are three while one is written, and network."""
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
        """A line on the FLOPs and the memory of a step; with `time_steps`, also on its time.

        The memory is what XLA plans for these devices beyond parameters and optimizer: activations
        most of all. Steps are timed on zeros, after one that compiles; reading images is not
        counted.
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
    """Trains a network from its newest checkpoint, or from its beginning.

    Raises:
      FloatingPointError, SystemExit: as `training.fit`.
    """
    options = task.options
    optimizer = optimizers.make_optimizer(
        options.optimizer, steps=options.steps, batch_size=options.batch_size
    )
    _log.info("%s: compiling what makes the network", task.name)
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
        raise  # without waiting for what another process may never end
    except BaseException:
        with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):
            store.close()
        raise
    finally:
        log.close()
