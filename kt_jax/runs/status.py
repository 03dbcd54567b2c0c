"""The progress of a run, active or not, read from its directory.

Nothing is written, and JAX is not imported. Options, images and the content of files are not
checked: the run itself does that.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kt_jax.runs import artifacts, files, lock, marks, progress

CONFIG = "config.json"
_SHARD = re.compile(r"(features|labels)-\d+-of-(\d+)\.(?:npy|parquet)")
FINISHED, RUNNING, BEGUN, TO_DO = "finished", "running", "begun", "to do"


@dataclass(frozen=True)
class StageStatus:
    """The progress of a stage."""

    name: str
    kind: str
    state: str
    """FINISHED, RUNNING, BEGUN (and interrupted) or TO_DO."""
    type: str = ""
    """The type of the artifact, if finished."""
    seconds: float = 0.0
    """How long the stage took, if finished."""
    work: Mapping[str, Any] | None = None
    """The content of progress.json (see `progress.write`), if not finished; None if missing."""
    kept: str = ""
    """What an interrupted stage resumes from, in words; empty if it starts over."""
    problem: str = ""
    """Why the run would be refused because of this stage; else empty."""
    steps: int = 0
    """The number of training steps."""


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run."""

    directory: Path
    seed: int | None
    """None before the run has written its config."""
    stages: tuple[StageStatus, ...]
    """In the order in which they run."""
    holder: lock.Holder
    redo: tuple[str, ...] = ()
    """The stages of a --redo that was interrupted."""

    @property
    def is_finished(self) -> bool:
        """Whether all stages are finished."""
        return bool(self.stages) and all(each.state == FINISHED for each in self.stages)

    @property
    def running(self) -> StageStatus | None:
        """The running stage, if any."""
        return next((each for each in self.stages if each.state == RUNNING), None)


def read_config(directory: Path) -> dict[str, Any]:
    """Reads the config.json of a run.

    Raises:
      FileNotFoundError: the directory does not exist.
      ValueError: it is not a run, another version of kt_jax made it, or it has no stages.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    path = directory / CONFIG
    if not path.exists():
        is_stage = marks.is_finished(directory) or (directory / marks.STARTED).exists()
        hint = (
            f"it is a stage: name its run, {directory.parent}" if is_stage else "name a --workdir"
        )
        raise ValueError(f"{directory} holds no run ({CONFIG}): {hint}")
    config = files.read_json(path)
    is_ours = isinstance(config, dict) and isinstance(config.get("stages"), list)
    if not is_ours or any(not _is_section(config.get(name)) for name in config["stages"]):
        raise ValueError(f"{path} is not that of a run of this version of kt_jax")
    if not config["stages"]:
        raise ValueError(f"{path} names no stages: there is nothing to do in this run")
    return config


def _is_section(section: Any) -> bool:
    return isinstance(section, dict) and "kind" in section


def read_status(directory: Path) -> RunStatus:
    """Reads the progress of a run.

    Raises:
      FileNotFoundError, ValueError: as `read_config`, unless a run is about to write its config.
    """
    holder = lock.look(directory) if directory.is_dir() else lock.Holder("", False, 0.0)
    if holder.is_alive and not (directory / CONFIG).exists():
        return RunStatus(directory, None, (), holder)
    config = read_config(directory)
    ordered = _order(config)
    current = _find_current(directory, ordered, holder)
    stages = tuple(_read_stage(directory, config, name, name == current) for name in ordered)
    pending = directory / marks.PENDING_REDO
    redo = files.read_json(pending)["redo"] if pending.exists() else ()
    return RunStatus(directory, config["seed"], stages, holder, tuple(redo))


def _order(config: Mapping[str, Any]) -> list[str]:
    """The stages, sorted so that each comes after the stages that its section names."""
    ordered: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        for values in config[name].values():
            for text in values if isinstance(values, list) else [values]:
                needed = str(text).removeprefix("random:")
                if needed in config["stages"] and needed not in (*path, name):
                    add(needed, (*path, name))
        ordered.append(name)

    for name in config["stages"]:
        add(name, ())
    return ordered


def _find_current(directory: Path, names: Sequence[str], holder: lock.Holder) -> str:
    """The running stage; empty if there is none."""
    begun = {
        name: (directory / name / marks.STARTED).stat().st_mtime
        for name in names
        if (directory / name / marks.STARTED).exists() and not marks.is_finished(directory / name)
    }
    newest = max(begun, key=begun.__getitem__, default="")
    # A stage that began before this process was interrupted.
    return newest if newest and holder.is_alive and begun[newest] >= holder.since else ""


def _read_stage(
    directory: Path, config: Mapping[str, Any], name: str, is_current: bool
) -> StageStatus:
    place, kind = directory / name, config[name]["kind"]
    try:
        problem = _find_problem(directory, config, name)
        found = marks.read(place / marks.MANIFEST) if marks.is_finished(place) else None
    except (ValueError, OSError) as error:
        return StageStatus(name, kind, BEGUN, problem=str(error))
    if found is not None:
        seconds, made = found["seconds"], found["type"]
        return StageStatus(name, kind, FINISHED, made, seconds, problem=problem)
    if not (place / marks.STARTED).exists():
        steps = int(config[name].get("steps") or 0)
        return StageStatus(name, kind, TO_DO, problem=problem, steps=steps)
    path = place / progress.FILE
    work = files.read_json(path) if path.exists() else None
    state = RUNNING if is_current else BEGUN
    kept = _find_kept(place, config[name])
    return StageStatus(name, kind, state, work=work, kept=kept, problem=problem)


def _find_problem(directory: Path, config: Mapping[str, Any], name: str) -> str:
    """Why the run would be refused because of the directory of a stage; else empty.

    Raises:
      ValueError: another version of kt_jax made it.
      FileNotFoundError: files are missing.
    """
    place, section = directory / name, config[name]
    found = marks.find(place)
    if found is None:
        return ""
    if found.files is not None:
        artifacts.read_manifest(place, name=name, reader="status")
    for option, inputs in found.request.get("inputs", {}).items():
        for key, digest in inputs.items():
            # An option with one input has no name of the input here: see `provenance._key`.
            text = str(section.get(option)) if key.startswith("artifact") else key
            text = text.removeprefix("random:")
            source = directory / text if text in config else Path(text)
            if not marks.is_finished(source):
                continue  # it will run first, and is compared then
            if marks.read(source / marks.MANIFEST).get("outputs") != digest:
                return f"config.{name}.{option}: {text} changed since it was made"
    return ""


def _find_kept(place: Path, section: Mapping[str, Any]) -> str:
    """What an unfinished stage has saved, in words. Looks at the files, not at the kind."""
    checkpoints = place / "checkpoints"
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
    if steps:
        path = checkpoints / str(max(steps))
        of = f" of {section['steps']}" if "steps" in section else ""
        return f"the checkpoint of step {max(steps)}{of}, {_age(path)}"
    if (state := checkpoints / "state.safetensors").exists():
        return f"{_describe_kmeans(state)}, {_age(state)}"
    names = [path.name for each in (place, checkpoints) for path in each.glob("*-of-*.*")]
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    if shards:
        return f"{len(shards)} of {int(shards[0][2])} shards of {shards[0][1]}"
    if probed := [*(place / "cache").glob("*.json")]:
        return f"the scores of {len(probed)} networks"
    return ""


def _describe_kmeans(state: Path) -> str:
    try:
        with safe_open(state, framework="np") as file:
            if "chosen" in file.keys():
                return f"{file.get_slice('chosen').get_shape()[0]} seeds"
            return f"iteration {file.get_slice('curve').get_shape()[0] - 1}"
    except (SafetensorError, OSError):  # broken, or replaced while it was opened
        return "a state of k-means"


def _age(path: Path) -> str:
    return f"{progress.format_seconds(max(time.time() - path.stat().st_mtime, 0))} old"
