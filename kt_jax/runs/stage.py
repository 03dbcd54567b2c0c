"""The arguments of a stage (options, inputs, directory), and the plan that it returns."""

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
        """Ends the process if the run has been told to stop."""
        ...


@dataclass(frozen=True)
class Inputs:
    """The artifacts and images that a stage reads."""

    origin: str
    """The section of the stage for error messages, such as "config.clusters"."""
    artifacts: Mapping[str, tuple[Artifact[Any], ...]]
    """By option. In a plan, artifacts that are not finished have only `about`."""
    images: Mapping[str, data.Images]
    """Sets of images by option."""

    def __getitem__(self, option: str) -> Artifact[Any]:
        """The artifact that an option names, if it names exactly one."""
        (artifact,) = self.artifacts[option]
        return artifact


@dataclass(frozen=True)
class Plan:
    """What a stage would do; made before anything is computed."""

    about: Description
    """The description of its future artifact. Plans of later stages read it."""
    lines: tuple[str, ...]
    """Text for people."""
    warnings: tuple[str, ...] = ()
    """Problems that do not stop the stage."""
    describe_step: Callable[[int], str] | None = None
    """For a stage that trains: times this many steps, and returns a line with the FLOPs and the
    time of a step."""
    disk: Callable[[], int] = lambda: 0
    """The most bytes that it needs on disk, temporary files included."""


@dataclass(frozen=True)
class Stage:
    """The argument of `run` of every kind of stage."""

    name: str
    options: Any
    """An instance of `Options` of its kind."""
    seed: int
    """A seed that no other stage has."""
    directory: Path
    """The directory of its artifact, where it writes."""
    inputs: Inputs
    reading: data.Reading
    mesh: Mesh
    notice: Any
    profile_steps: tuple[int, int] | None = None
    """The first and the last step of training to trace."""
    log_to: tuple[str, ...] = ()
    """Names of trackers, see `training.trackers`."""

    def count(self, total: int, unit: str, *, done: int = 0, name: str = "") -> progress.Count:
        """A counter of progress, for `with`: it shows in the log and in `kt-jax status`.

        Args:
          total: the number of things.
          unit: the things, in the plural.
          done: how many were done before.
          name: a part of the stage; by default the stage.
        """
        path = self.directory / progress.FILE
        return progress.Count(name or self.name, total, unit, done=done, path=path)
