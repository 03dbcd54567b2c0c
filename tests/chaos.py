"""Kills a run again and again, and looks whether it ends as one that was left alone: `make chaos`.

    python tests/chaos.py --kills=20 --config=configs/quickstart.py

The moments are drawn from a seed, over all stages. Prints a summary, and
ends with status 1 if any byte of the results differs.
"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = (
    "pretext/network.safetensors",
    "pretext/results.json",
    "features/index.parquet",
    "clusters/centroids.safetensors",
    "clusters/assignment.npy",
    "pseudo_labels/labels.parquet",
    "student/network.safetensors",
    "probe/scores.json",
)


# Seconds into a stage: about as long as two checkpoints of the teacher are apart.
LATEST = 20


def start(config: str, workdir: Path, log: Path) -> subprocess.Popen:
    """The command, its words appended to `log`."""
    command = [sys.executable, "-m", "kt_jax.main", f"--config={config}", f"--workdir={workdir}"]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def stage_of(text: str) -> str:
    """The stage at which a log ends."""
    begun = re.findall(r"(\w+): begins", text)
    return begun[-1] if begun else "before any stage"


def read_durations(text: str) -> dict[str, int]:
    """Seconds of each stage, in their order, from the log of an uninterrupted run."""
    found = re.findall(r"(\w+): finished in (\d+)m(\d+)s", text)
    return {stage: 60 * int(minutes) + int(seconds) for stage, minutes, seconds in found}


def draw_moments(
    durations: dict[str, int], kills: int, draw: random.Random
) -> list[tuple[str, float]]:
    """Stages, and seconds after their begin: each stage at least once, long ones more often."""
    stages = list(durations)
    more = draw.choices(stages, [*durations.values()], k=max(0, kills - len(stages)))
    chosen = sorted([*stages, *more], key=stages.index)[:kills]
    # A resumed stage has less before it than when it began.
    return [(stage, draw.uniform(0, min(durations[stage], LATEST))) for stage in chosen]


def wait_for(
    process: subprocess.Popen, log: Path, stages: list[str], stage: str, seconds: float
) -> None:
    """Waits until the process is so long in the stage, or in a later one, or at its end."""
    before, begun = log.stat().st_size, None
    while process.poll() is None:
        said = stage_of(log.read_bytes()[before:].decode(errors="replace"))
        at = stages.index(said) if said in stages else -1
        if at == stages.index(stage):
            begun = begun or time.monotonic()
        if at > stages.index(stage) or (begun and time.monotonic() - begun >= seconds):
            return
        time.sleep(0.02)


def finish(process: subprocess.Popen, log: Path) -> None:
    """Waits for the end; a run that fails ends the test."""
    if process.wait() != 0:
        sys.exit(f"status {process.returncode}: {log.read_text()[-2000:]}")


def main() -> None:
    """Runs once untouched, once with kills, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        whole, killed = Path(place, "whole"), Path(place, "killed")
        begun = time.monotonic()
        finish(start(arguments.config, whole, whole.with_suffix(".log")), whole.with_suffix(".log"))
        took = time.monotonic() - begun
        print(f"uninterrupted: {took:.0f} s", flush=True)

        durations = read_durations(whole.with_suffix(".log").read_text())
        log = killed.with_suffix(".log")
        kills: list[str] = []
        for stage, seconds in draw_moments(durations, arguments.kills, draw):
            process = start(arguments.config, killed, log)
            wait_for(process, log, list(durations), stage, seconds)
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills.append(stage_of(log.read_text()))
            print(f"kill {len(kills)}: {kills[-1]}", flush=True)
        process = start(arguments.config, killed, log)
        finish(process, log)

        print(f"\n{len(kills)} kills, as many starts again, over these stages:")
        for stage in dict.fromkeys(kills):
            print(f"  {stage}: {kills.count(stage)}")
        different = 0
        for name in RESULTS:
            one, other = (
                hashlib.sha256((run / name).read_bytes()).hexdigest() for run in (whole, killed)
            )
            different += one != other
            print(f"  {one[:16]} {'=' if one == other else '!='} {other[:16]}  {name}")
        if different or len(kills) < arguments.kills:
            sys.exit(f"{different} results differ; {len(kills)} of {arguments.kills} kills")
        print("every byte is the same")


if __name__ == "__main__":
    main()
