"""Runs the stages of a config: skips, resumes, refuses or repeats each of them."""

import contextlib
import functools
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from kt_jax import data
from kt_jax.machine import memory, partition, processes, signals
from kt_jax.runs import artifacts, files, lock, marks, options, planning, progress, provenance
from kt_jax.runs import graph as graphs
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.images import Sources, remember, report_exclusions
from kt_jax.runs.stage import Inputs, Stage
from kt_jax.stages import report
from kt_jax.training import trackers

_log = logging.getLogger(__name__)


def run(
    config: Any,
    workdir: str | Path,
    *,
    stages: Collection[str] = (),
    redo: Collection[str] = (),
    yes: bool = False,
    dry_run: bool = False,
    time_steps: int = 0,
    profile_steps: tuple[int, int] | None = None,
    log_to: Collection[str] = (),
    summary: bool = True,
) -> None:
    """Runs the stages of a config that are not finished in `workdir`.

    After an interruption, the same call resumes. In a run of several processes (see
    `machine.processes.initialize`), each of them calls this function with the same shared
    `workdir`; only process 0 writes.

    Args:
      config: a config of `load_config`.
      workdir: the directory of the run.
      stages: run only these stages; by default all of `config.stages`.
      redo: delete these stages, and all stages that read them, and run them again.
      yes: let `redo` delete more stages than it names.
      dry_run: print what would be done, and do nothing.
      time_steps: with `dry_run`, time this many steps of each training, and print how long the
        training would take.
      profile_steps: trace the steps (first, last) of each training into STAGE/profile.
      log_to: also log the metrics of training to these: "wandb", "mlflow" or "trackio".
      summary: end the log with the workdir and what the report found.

    Raises:
      ValueError: unknown stages, trackers that are not installed, a config that cannot work with
        these images and devices, a stage in `workdir` that was made with another config or other
        inputs, another process that works in `workdir`, or a `redo` that deletes more than it
        names. Nothing is changed then.
      FileNotFoundError: a stage that must be read is not finished.
      OSError: `workdir` cannot be written.
      SystemExit: status 75 (os.EX_TEMPFAIL) after SIGTERM. The same call resumes.
    """
    for name, chosen in (("stages", stages), ("redo", redo), ("log_to", log_to)):
        if isinstance(chosen, str):
            raise ValueError(f"{name} = {chosen!r}: give a list of names")
    trackers.check(log_to)
    if time_steps < 0 or (time_steps and not dry_run):
        raise ValueError(f"--time_steps={time_steps}: give 0 or more, with --dry_run")
    filled = files.to_plain(graphs.fill(files.to_plain(config)))
    graph = graphs.make_graph(filled)
    graphs.check_names("--stages", stages, graph)
    graphs.check_names("--redo", redo, graph)
    wanted = [name for name in graph if name in (stages or filled["stages"])]
    workdir = Path(os.path.abspath(os.path.expanduser(workdir)))
    work = planning.Work(filled, graph, workdir, wanted, redo, yes)
    with _progress_shown():
        partition.configure_xla()
        for name in graph:
            if name not in filled["stages"] and name not in stages:
                _log.warning("config.stages does not name %s: it is skipped", name)
        if dry_run:
            planning.print_plans(work, time_steps)
            return
        with _alone(workdir), _compilations(workdir), signals.Notice() as notice:
            begun = time.monotonic()
            _run_wanted(work, notice, profile_steps, tuple(log_to))
            if summary:
                _log_summary(work, time.monotonic() - begun)


@contextlib.contextmanager
def _progress_shown() -> Iterator[None]:
    """Shows our log in notebooks and scripts that have not configured logging."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    ours = logging.getLogger("kt_jax")
    before = ours.level
    if before == logging.NOTSET and not ours.isEnabledFor(logging.INFO):
        ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(before)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Locks the workdir against other runs. In a run of several processes, process 0 locks it."""
    if jax.process_index() == 0:
        held = lock.hold(workdir)
    else:
        held = contextlib.nullcontext()
    with held:
        partition.wait_for_all("the lock")
        # The lock names process 0 of this run. A local disk may have an old lock of another run.
        path = workdir / lock.NAME
        if not partition.is_as_in_first(zlib.crc32(path.read_bytes()) if path.exists() else 0):
            raise FileNotFoundError(
                f"process {jax.process_index()} does not see {path} as process 0 has made it: "
                "--workdir must be on a disk that all processes share"
            )
        yield


@contextlib.contextmanager
def _compilations(workdir: Path) -> Iterator[None]:
    """Caches XLA's compilations in the workdir, unless the user has set a cache directory."""
    option = "jax_compilation_cache_dir"
    if jax.config.values[option] is not None:
        yield
        return
    jax.config.update(option, str(workdir / "compilations"))
    try:
        yield
    finally:
        jax.config.update(option, None)
        compilation_cache.reset_cache()


def _run_wanted(
    work: planning.Work,
    notice: signals.Notice,
    profile_steps: tuple[int, int] | None,
    log_to: tuple[str, ...],
) -> None:
    config, graph, workdir = work.config, work.graph, work.workdir
    sources = Sources(config, workdir / "images")
    # An interrupted redo has already deleted its stages: then nothing is deleted again.
    again = partition.decided_by_first(work.again)
    # Find most errors here, before anything is computed.
    provenance.check_inputs(graph, workdir, work.wanted, again)
    for name, plan in planning.make_plans(work, again, sources).items():
        for warning in plan.warnings:
            _log.warning("%s: %s", name, warning)
    for name in graphs.with_inputs(graph, work.wanted):
        if name not in again and (name in work.wanted or marks.is_finished(workdir / name)):
            provenance.refuse_changes(graph[name], work.seed, workdir, sources)
    planning.check_deletion(work, again)
    partition.wait_for_all("the checks")
    for name in again:
        if (workdir / name).exists():
            _log.info("%s: deleted, will run again", name)
            files.remove(workdir / name)
    pending = workdir / marks.PENDING_REDO
    if again:
        files.write_json(pending, work.request())
    if processes.writes():
        provenance.write_config(config, graph, workdir)
    partition.wait_for_all("the beginning")

    mesh = partition.make_mesh()
    _log.info("devices: %s", ", ".join(str(device) for device in mesh.devices.flat))
    if jax.process_count() > 1:
        _log.info("process %d of %d", jax.process_index(), jax.process_count())
    for name in work.wanted:
        node = graph[name]
        # Check again: an earlier stage may have finished only now.
        provenance.refuse_changes(node, work.seed, workdir, sources)
        made_from = (node, work.seed, workdir, sources)
        if partition.decided_by_first(functools.partial(provenance.has_other_inputs, *made_from)):
            _log.info("%s: deleted, will run again: other inputs are finished now", name)
            files.remove(workdir / name)
            partition.wait_for_all(f"the deletion of {name}")
        if partition.decided_by_first(lambda name=name: marks.is_finished(workdir / name)):
            _log.info("%s: finished before, skipped", name)
            continue
        notice.check()
        stage = Stage(
            name=name,
            options=node.options,
            seed=_stage_seed(work.seed, name),
            directory=workdir / name,
            inputs=_open_inputs(node, workdir, sources),
            reading=_reading(graphs.make_loader(config)),
            mesh=mesh,
            notice=notice,
            profile_steps=profile_steps,
            log_to=log_to,
        )
        _run_stage(stage, node, provenance.fingerprint(node, work.seed, workdir, sources))
    if processes.writes():
        pending.unlink(missing_ok=True)


def _log_summary(work: planning.Work, seconds: float) -> None:
    _log.info("finished in %s: %s", progress.format_seconds(seconds), work.workdir)
    for name in work.wanted:
        if work.graph[name].module is report:
            for line in report.headlines(work.workdir / name):
                _log.info("%s", line)


def _open_inputs(node: graphs.Node, workdir: Path, sources: Sources) -> Inputs:
    """The finished artifacts and the images that a stage reads."""
    opened: dict[str, tuple[Artifact[Any], ...]] = {}
    for option, several in node.inputs.items():
        found = []
        for each in several:
            directory = provenance.directory_of(workdir, each)
            needs_all = options.needs_all(node.module.Options, option)
            # Process 0 reads the files, and broadcasts what it has found.
            decide = functools.partial(_read, directory, each.text, node.name, needs_all)
            manifest = partition.decided_by_first(decide)
            if manifest is not None:
                about = artifacts.describe(manifest)
                found.append(Artifact(each.text, directory, about, manifest, each.is_random))
        opened[option] = tuple(found)
    return Inputs(node.origin, opened, {x: sources[name] for x, name in node.images.items()})


def _read(directory: Path, name: str, reader: str, needs: bool) -> Mapping[str, Any] | None:
    """Checks the files of an artifact and returns its manifest; None if it may be unfinished."""
    if not needs and not marks.is_finished(directory):
        return None
    return artifacts.open_artifact(directory, name=name, reader=reader).manifest


def _reading(loader: graphs.Loader) -> data.Reading:
    return data.Reading(
        workers=loader.workers,
        max_unreadable=loader.max_unreadable,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _run_stage(stage: Stage, node: graphs.Node, fingerprint: Mapping[str, Any]) -> None:
    for option, images in stage.inputs.images.items():
        report_exclusions(stage.directory.parent, node.images[option], images)
        remember(stage.directory.parent, images)
    _log.info("%s: begins", stage.name)
    begun, peak_before = time.monotonic(), memory.find_peak()
    marks.start(stage.directory, fingerprint)
    partition.wait_for_all(f"the beginning of {stage.name}")
    try:
        about, facts = node.module.run(stage)
    except OSError as error:
        # The error of a full disk may not name the file: name the stage's directory.
        if error.strerror is None or error.filename is not None:
            raise
        words = f"{stage.directory}: {error.strerror}. Fix this: the same command resumes"
        raise files.make_error(words, error) from error
    seconds = time.monotonic() - begun
    used = _describe_memory(peak_before, memory.find_peak())
    artifacts.finish(
        stage.directory,
        about,
        fingerprint,
        section=files.to_plain(node.section),
        facts={**facts, **used},
        seconds=seconds,
    )
    partition.wait_for_all(f"the end of {stage.name}")
    told = "".join(f", {x.replace('_', ' ')} {value:.2f}" for x, value in used.items())
    _log.info("%s: finished in %s%s", stage.name, progress.format_seconds(seconds), told)


def _describe_memory(before: int, after: int) -> dict[str, float]:
    """The peak memory in GB of the fullest device of this process; empty on CPUs.

    `before` and `after` are the process's peaks in bytes before and after the stage. If a stage
    does not raise the peak, its own peak is only known to be at most that of an earlier stage.
    """
    if not after:
        return {}
    name = "peak_device_gigabytes" if after > before else "peak_device_gigabytes_at_most"
    return {name: after / 1e9}


def _stage_seed(seed: int, name: str) -> int:
    """The seed of a stage, from the run's seed and the stage's name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
