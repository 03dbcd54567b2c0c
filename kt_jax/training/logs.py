"""The log of a training: metrics.jsonl, TensorBoard events, console lines, profiles."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import image, scalar

from kt_jax.machine import processes
from kt_jax.runs import progress
from kt_jax.training.trackers import Tracker

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 30.0

_proto: Any = event_pb2  # its classes are made at run time, and type checkers cannot see them


class StageLog:
    """The metrics of one stage's training.

    Lines of metrics.jsonl are {"step", ...}. After a kill, the lines that the resumed run will
    write again are removed first, so every step has one line. All processes write to their
    consoles, and the first one writes files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stage: str,
        steps: int,
        images_per_step: int,
        profile_steps: tuple[int, int] | None = None,
        progress_file: Path | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._directory, self._progress_file = directory, progress_file
        self._trackers = trackers
        self._profile_steps, self._profiling = profile_steps, False
        self._stage, self._steps, self._images_per_step = stage, steps, images_per_step
        self._started = self._last_time = self._said = time.monotonic()
        self._first = self._last_step = 0
        self._values: dict[str, float] = {}  # the newest
        self._events: EventsWriter | None = None

    def resume(self, step: int) -> None:
        """Removes what an interrupted run wrote after `step`."""
        self._first = self._last_step = step
        self._started = self._last_time = self._said = time.monotonic()
        self._write_progress(step, None)
        if step:
            _log.info("%s: resuming from step %d of %d", self._stage, step, self._steps)
        if self._profile_steps is not None and self._profile_steps[0] > self._steps:
            _log.warning(
                "%s: none of the steps %d to %d is profiled: its last is %d",
                *(self._stage, *self._profile_steps, self._steps),
            )
        if jax.process_index() > 0:
            return
        path = self._directory / "metrics.jsonl"
        if path.exists():
            kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(kept))
            os.replace(partial, path)
        # Not SummaryWriter: if its thread cannot write, the training waits for ever.
        (self._directory / "tensorboard").mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(self._directory / "tensorboard/events"))
        # The start of a session hides what an earlier run wrote for later steps.
        begun = _proto.SessionLog(status=_proto.SessionLog.START)
        self._write_event(step + 1, session_log=begun)

    def begin(self, step: int, before: Any) -> None:
        """Starts and ends the requested profile.

        It waits for the metrics `before` of the previous step, so that the profile has exactly the
        requested steps.
        """
        if step == self._first + 2:
            # Compilation is over: the first step is computed only now.
            self._started = self._last_time = self._said = time.monotonic()
        if step == self._first + 1:
            _log.info("%s: compiling its training step", self._stage)
        elif time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._say_where(step - 1, before)
        first, last = self._profile_steps or (0, 0)
        if step == first and jax.process_index() == 0:
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._directory / "profile")
            self._profiling = True
        elif step > last and self._profiling:
            jax.block_until_ready(before)
            self._end_profile()

    def _say_where(self, step: int, metrics: Any) -> None:
        """Logs progress between two calls of `write`, which may be minutes apart."""
        jax.block_until_ready(metrics)  # the host runs ahead of the devices
        self._said = time.monotonic()
        left = self._seconds_left(step)
        self._write_progress(step, left)
        words = (self._stage, step, self._steps, progress.format_seconds(left))
        _log.info("%s %d/%d | ETA %s", *words)

    def _seconds_left(self, step: int) -> float:
        seconds = time.monotonic() - self._started
        return progress.seconds_left(seconds, step - self._first, self._steps - self._first)

    def _write_progress(self, step: int, left: float | None) -> None:
        if self._progress_file is not None:
            words = (self._stage, step, self._steps, "steps")
            progress.write(self._progress_file, *words, left, self._values)

    def _end_profile(self) -> None:
        jax.profiler.stop_trace()
        self._profiling = False
        _log.info("%s: profile in %s", self._stage, self._directory / "profile")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the means since the last call, and the speed."""
        now = time.monotonic()
        rate = (step - self._last_step) * self._images_per_step / max(now - self._last_time, 1e-9)
        left = self._seconds_left(step)
        self._last_step, self._last_time, self._said = step, now, now
        self._values = values = {**metrics, "images_per_second": rate}
        self._write_progress(step, left)
        if self._events is not None:
            with (self._directory / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._write_event(step, summary=scalar(name, value))
            self._events.flush()
        for tracker in self._trackers:
            tracker.log(step, values)
        numbers = " | ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        _log.info(
            "%s %d/%d | ETA %s | %.0f images/s | %s",
            self._stage,
            step,
            self._steps,
            progress.format_seconds(left),
            rate,
            numbers,
        )

    def _write_event(self, step: int, **what: Any) -> None:
        if self._events is not None:
            self._events.write_event(_proto.Event(step=step, wall_time=time.time(), **what))

    def close(self) -> None:
        """Closes all open files and trackers."""
        for tracker in self._trackers:
            tracker.close()
        if self._profiling:
            self._end_profile()
        if self._events is not None:
            self._events.close()


def show_once(directory: Path, name: str, draw: Callable[[], UInt8[np.ndarray, "h w 3"]]) -> None:
    """Shows a picture in TensorBoard at step 0, if the stage has not logged anything yet."""
    place = directory / "tensorboard"
    if place.exists() or not processes.writes():
        return
    summary = image(name, draw(), dataformats="HWC")
    place.mkdir(parents=True)
    events = EventsWriter(str(place / "pictures"))
    events.write_event(_proto.Event(step=0, wall_time=time.time(), summary=summary))
    events.close()


def read_metrics(path: Path) -> list[dict[str, int | float]]:
    """The lines of a metrics.jsonl; empty if the stage wrote none."""
    return [json.loads(line) for line in _complete_lines(path)] if path.exists() else []


def _complete_lines(path: Path) -> list[str]:
    """The lines that end in a newline. A killed run may leave an incomplete line."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
