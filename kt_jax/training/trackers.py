"""Experiment trackers, which compare the metrics of trainings across runs.

Each one is a package of its own, an extra of kt_jax. Its own environment variables configure it
(address, key, offline). If a tracker fails, training continues without it.
"""

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kt_jax.runs import versions

_log = logging.getLogger(__name__)

_PROJECT = "kt_jax"


@runtime_checkable
class Tracker(Protocol):
    """The interface of a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the metrics of a step, by name."""
        ...

    def close(self) -> None:
        """Sends what is left, and ends."""
        ...


class _Wandb:
    """Weights & Biases; also trackio, which has the same interface."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


class _Guarded:
    """A tracker that is skipped once it has failed."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker
        self._works = True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._tracker.log(step, values))

    def close(self) -> None:
        self._try(self._tracker.close)

    def _try(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:  # packages and servers raise anything
            self._works = False
            _log.warning("%s failed, and is skipped from now on: %s", self._name, error)


def check(names: Collection[str]) -> None:
    """Refuses trackers that cannot be used.

    Raises:
      ValueError: a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--log_to={name}: choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--log_to={name}: it is not installed: {versions.install_extra(name)}"
            )


def start(names: Collection[str], directory: Path, options: Mapping[str, Any]) -> list[Tracker]:
    """Starts a run of each tracker, or resumes the run of the same directory.

    Args:
      names: some of TRACKERS.
      directory: the directory of the training's log. Its last two parts name the run.
      options: nested options, shown with the metrics.

    Raises:
      ValueError: a tracker cannot be started.
    """
    name = "/".join(directory.parts[-2:])
    key = hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]
    started: list[Tracker] = []
    for each in names:
        try:
            started.append(_Guarded(each, TRACKERS[each](name, key, options)))
        except Exception as error:  # packages and servers raise anything
            first = str(error).partition("\n")[0]
            raise ValueError(
                f"--log_to={each} cannot start: {type(error).__name__}: {first}. Remove it, or "
                "see its own documentation"
            ) from error
    return started


def _start_wandb(name: str, key: str, options: Mapping[str, Any]) -> Tracker:
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(
        project=_PROJECT,
        name=name,
        id=key,
        resume="allow",
        config=dict(options),
        reinit="create_new",
    )
    return _Wandb(run)


def _start_trackio(name: str, key: str, options: Mapping[str, Any]) -> Tracker:
    trackio: Any = importlib.import_module("trackio")
    # trackio identifies runs by name only
    config = dict(_flatten(options, ""))
    return _Wandb(
        trackio.init(project=_PROJECT, name=f"{name} {key[:4]}", config=config, resume="allow")
    )


def _start_mlflow(name: str, key: str, options: Mapping[str, Any]) -> Tracker:
    mlflow: Any = importlib.import_module("mlflow.tracking")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(_PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(_PROJECT)
    before = client.search_runs([number], filter_string=f"tags.kt_jax = '{key}'")
    if before:
        return _Mlflow(client, before[0].info.run_id)
    run = client.create_run(number, run_name=name, tags={"kt_jax": key}).info.run_id
    for option, value in _flatten(options, ""):
        client.log_param(run, option, value)
    return _Mlflow(client, run)


def _flatten(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


TRACKERS: dict[str, Callable[[str, str, Mapping[str, Any]], Tracker]] = {
    "wandb": _start_wandb,
    "mlflow": _start_mlflow,
    "trackio": _start_trackio,
}
