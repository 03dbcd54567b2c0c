"""kt-jax status: shows the progress of a run, active or not, from any shell.

    kt-jax status runs/quickstart
    kt-jax status runs/quickstart --watch

Each stage is finished, running, begun or to do. For the running stage it shows the step, the time
left, the loss, images per second, the share of time that devices wait for images, and the newest
checkpoint. For the run it shows the process that works in it, and what the same command would do
now. Nothing is written. Options and images are not checked: use --dry_run for that.

--watch repeats this until the run ends. The exit status is 0 if all stages are finished, else 75.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kt_jax.runs import progress, status
from kt_jax.runs.status import BEGUN, FINISHED, RUNNING, TO_DO, RunStatus, StageStatus

_CLEAR = "\x1b[H\x1b[2J"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      FileNotFoundError, ValueError: as `status.read_config`.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=Path, metavar="W")
    parser.add_argument("--watch", action="store_true", help="repeat until the run ends")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="time between repeats (2)"
    )
    arguments = parser.parse_args(argv)
    if not 0 < arguments.every < float("inf"):
        raise ValueError(f"--every={arguments.every}: give seconds above 0")
    while True:
        found = status.read_status(arguments.workdir)
        text = "\n".join(describe(found))
        is_last = not arguments.watch or found.is_finished or found.holder.is_alive is False
        print(f"{_CLEAR}{text}" if arguments.watch and sys.stdout.isatty() else text, flush=True)
        if is_last:
            break
        if not sys.stdout.isatty():
            print()
        time.sleep(arguments.every)
    return os.EX_TEMPFAIL if arguments.watch and not found.is_finished else 0


def describe(run: RunStatus) -> Iterator[str]:
    """Describes a run for people, line by line."""
    directory = run.directory
    if run.seed is None:
        yield f"{directory}: {run.holder.name} opens the images; no stage has begun"
        return
    done = sum(each.state == FINISHED for each in run.stages)
    yield f"{directory}: a run of {len(run.stages)} stages, {done} finished, seed {run.seed}"
    width = max(len(each.name) for each in run.stages)
    for each in run.stages:
        yield f"  {each.name:{width}}  {describe_stage(each)}"
    yield f"process: {_describe_holder(run)}"
    if run.running is not None:
        yield f"ETA of the run: {_describe_eta(run)}"
    yield f"the same command: {describe_next(run)}"


def describe_stage(stage: StageStatus) -> str:
    """Describes a stage in one line, without its name."""
    if stage.state == FINISHED:
        parts = [f"finished: {stage.type}, made in {progress.format_seconds(stage.seconds)}"]
    else:
        parts = [stage.state]
    if stage.work is not None:
        parts.append(_describe_work(stage.work, is_running=stage.state == RUNNING))
    if stage.kept:
        parts.append(stage.kept)
    if stage.state == TO_DO and stage.steps:
        parts.append(f"{stage.steps:,} steps")
    if stage.problem:
        parts.append(stage.problem)
    return " | ".join(parts)


def _describe_work(work: Mapping[str, Any], *, is_running: bool) -> str:
    values = work["values"]
    parts = [f"{work['name']}: {work['done']:,} of {work['total']:,} {work['unit']}"]
    if is_running and (left := _seconds_left(work)) is not None:
        parts.append(f"ETA {progress.format_seconds(left)}")
    parts += [
        f"{name} {values[name]:.4g}" for name in ("loss", "accuracy", "inertia") if name in values
    ]
    if "images_per_second" in values:
        parts.append(f"{values['images_per_second']:,.0f} images/s")
    if "waiting" in values:
        parts.append(f"{values['waiting']:.0%} of the time waiting for images")
    parts.append(f"updated {progress.format_seconds(max(time.time() - work['time'], 0))} ago")
    return " | ".join(parts)


def _seconds_left(work: Mapping[str, Any]) -> float | None:
    left = work["seconds_left"]
    return None if left is None else max(left - (time.time() - work["time"]), 0.0)


def _describe_holder(run: RunStatus) -> str:
    name, is_alive = run.holder.name, run.holder.is_alive
    if is_alive:
        where = "" if run.running else "; between two stages, or before the first"
        return f"{name} works in it{where}"
    if is_alive is None:
        said = [each.work["time"] for each in run.stages if each.work is not None]
        words = f"{name} was the last; this host cannot see whether it still runs"
        if said:
            words += f"; it last wrote {progress.format_seconds(time.time() - max(said))} ago"
        return words
    return f"none works in it; the last was {name}" if name else "none works in it"


def _describe_eta(run: RunStatus) -> str:
    stage = run.running
    later = [each.name for each in run.stages if each.state in (TO_DO, BEGUN)]
    left = None if stage is None or stage.work is None else _seconds_left(stage.work)
    known = "not known yet" if left is None else progress.format_seconds(left)
    if not later:
        return known
    return f"{known}, plus unknown times of: {', '.join(later)}"


def describe_next(run: RunStatus) -> str:
    """Says what the command that started the run would do now."""
    if run.holder.is_alive:
        return f"would be refused: {run.holder.name} works in {run.directory}"
    problems = [f"{each.name}: {each.problem}" for each in run.stages if each.problem]
    if problems:
        return f"would be refused: {'; '.join(problems)}"
    if not os.access(run.directory, os.W_OK):
        return f"would be refused: {run.directory} cannot be written"
    if run.redo:
        return f"resumes the interrupted --redo={','.join(run.redo)}, if that is given again"
    if run.is_finished:
        return "has nothing to do: all stages are finished"
    stage = next(each for each in run.stages if each.state != FINISHED)
    if stage.state == TO_DO:
        return f"begins {stage.name}"
    return f"resumes {stage.name} from {stage.kept}" if stage.kept else f"begins {stage.name} again"
