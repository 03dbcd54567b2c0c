"""What a stage gets: its options, its inputs, its place; and what its plan says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh

from kt_jax import data
from kt_jax.runs import progress
from kt_jax.runs.artifacts import Artifact, Description


@runtime_checkable
class Notice(Protocol):
    """Whether the run has been told to stop; see `machine.signals.Notice`."""

    def check(self) -> None:
        """Ends the process if it has."""
        ...


@dataclass(frozen=True)
class Inputs:
    """The artifacts and images that the options of a stage name."""

    origin: str
    """Where the options stand, such as "config.clusters"."""
    artifacts: Mapping[str, tuple[Artifact[Any], ...]]
    """By option; in a plan, those that are not finished have only `about`."""
    images: Mapping[str, data.Images]
    """By option."""

    def __getitem__(self, option: str) -> Artifact[Any]:
        """The one artifact that an option names."""
        (artifact,) = self.artifacts[option]
        return artifact


@dataclass(frozen=True)
class Plan:
    """What a stage would do."""

    about: Description
    """What its artifact will be: the plans of its readers get this."""
    lines: tuple[str, ...]
    """For people."""
    warnings: tuple[str, ...] = ()
    """What will work, but not well."""
    describe_step: Callable[[int], str] | None = None
    """Of what trains: a line on the FLOPs of a step, and its time from so many timed steps."""
    disk: Callable[[], int] = lambda: 0
    """Bytes that it takes on disk at most, with all that it needs for a while."""


@dataclass(frozen=True)
class Stage:
    """All that a stage may use."""

    name: str
    options: Any
    """The dataclass `Options` of its kind."""
    seed: int
    """Its own: other stages draw other numbers."""
    directory: Path
    """Where it writes."""
    inputs: Inputs
    reading: data.Reading
    mesh: Mesh
    notice: Any
    profile_steps: tuple[int, int] | None = None
    log_to: tuple[str, ...] = ()
    """Trackers of `training.trackers`."""

    def count(self, total: int, unit: str, *, done: int = 0, name: str = "") -> progress.Count:
        """Counts in a `with`, for the log and `kt-jax status`: the stage, or a part called so."""
        path = self.directory / progress.FILE
        return progress.Count(name or self.name, total, unit, done=done, path=path)
