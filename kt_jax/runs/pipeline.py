"""Runs stages: what is skipped, carried on, refused or done again."""

import contextlib
import hashlib
import logging
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from kt_jax.runs import progress
from kt_jax import data
from kt_jax.machine import partition, signals
from kt_jax.runs import artifacts, lock
from kt_jax.training import logs
from kt_jax.runs import order, provenance
from kt_jax.runs.images import Sources, report_exclusions
from kt_jax.stages import report

_log = logging.getLogger(__name__)

# Holds what a --redo asked for, from its deletions until its end.
_PENDING_REDO = ".redo.json"


def run(
    config: Any,
    workdir: str | Path,
    *,
    stages: Collection[str] = (),
    redo: Collection[str] = (),
    dry_run: bool = False,
    profile_steps: tuple[int, int] | None = None,
) -> None:
    """Runs the config's stages (or those named) that are not finished in `workdir`.

    Stages named in `redo`, and all that read them, are deleted first. The same call after any
    interruption carries on. Several processes (see `distributed.initialize`) all call it, with a
    workdir that all of them see; the first of them writes. Of every training, the steps
    `profile_steps` (first, last) are traced into STAGE/profile.

    Raises:
      ValueError: for unknown stages, for a config that cannot work with these images and
        devices, when a finished or begun stage was made by another config or from other
        inputs, or when another process works in `workdir`; nothing is touched then.
      FileNotFoundError: when a stage that must be read is not finished.
      OSError: when `workdir` cannot be written.
      SystemExit: with status 75 (os.EX_TEMPFAIL) after SIGTERM: the same call carries on.
    """
    if not logging.getLogger().handlers:  # A notebook: its reader wants to see the progress.
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("kt_jax").setLevel(logging.INFO)
    order.check_names("config.stages", config.stages)
    order.check_names("--stages", stages)
    order.check_names("--redo", redo)
    wanted = [name for name in order.STAGES if name in (stages or config.stages)]
    workdir = Path(workdir).expanduser().absolute()
    partition.configure_xla()
    if dry_run:
        _print_plans(config, workdir, wanted, redo)
        return
    with _alone(workdir), _compilations(workdir), signals.Notice() as notice:
        _run_wanted(config, workdir, wanted, redo, notice, profile_steps)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the workdir; of several processes, lets the first alone write."""
    if jax.process_index() == 0:
        held = lock.hold(workdir)
    else:
        artifacts.leave_writing_to_others()
        held = contextlib.nullcontext()
    with held:
        partition.wait_for_all("the lock")
        # It names process 0 of this run; an older one may lie on a disk of this host's own.
        path = workdir / lock.NAME
        if not partition.is_as_in_first(zlib.crc32(path.read_bytes()) if path.exists() else 0):
            raise FileNotFoundError(
                f"process {jax.process_index()} does not see {path} as process 0 has made it: "
                "--workdir must be on a disk that all processes share"
            )
        yield


@contextlib.contextmanager
def _compilations(workdir: Path) -> Iterator[None]:
    """Lets a run that is started again load what XLA compiled before; a user's own cache counts."""
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
    config: Any,
    workdir: Path,
    wanted: Collection[str],
    redo: Collection[str],
    notice: signals.Notice,
    profile_steps: tuple[int, int] | None,
) -> None:
    # A redo that was interrupted has deleted already: the same command carries on.
    request = _describe_redo(config, redo)
    again = [] if _is_pending(workdir, request) else order.with_readers(redo)
    sources = Sources(config, workdir / "images")
    # Before anything is computed: most of what cannot work is found here.
    for name in wanted:
        order.STAGES[name].plan(config, sources)
    provenance.check_inputs(config, workdir, wanted, again)
    for name in order.with_inputs(wanted):
        if name not in again and (name in wanted or provenance.is_finished(workdir, name)):
            provenance.refuse_changes(config, workdir, name, sources)
    partition.wait_for_all("the checks")
    for name in again:
        if (workdir / name).exists():
            _log.info("%s: deleted, to be done again", name)
            artifacts.remove(workdir / name)
    pending = workdir / _PENDING_REDO
    if again:
        artifacts.write_json(pending, request)
    provenance.write_config(config, workdir)
    partition.wait_for_all("the beginning")

    mesh = partition.make_mesh()
    _log.info("devices: %s", ", ".join(str(device) for device in mesh.devices.flat))
    if jax.process_count() > 1:
        _log.info("process %d of %d", jax.process_index(), jax.process_count())
    begun = time.monotonic()
    for name in wanted:
        # Again, since a stage before may only now be finished.
        provenance.refuse_changes(config, workdir, name, sources)
        if provenance.is_finished(workdir, name):
            _log.info("%s: finished before, skipped", name)
            continue
        notice.check()
        stage = artifacts.Stage(
            name=name,
            section=config[name],
            seed=_stage_seed(config.seed, name),
            workdir=workdir,
            images={key: sources[key] for key in provenance.image_names(config, name)},
            reading=_reading(config),
            mesh=mesh,
            notice=notice,
            profile_steps=profile_steps,
        )
        _run_stage(stage, provenance.fingerprint(config, workdir, name, sources))
    if artifacts.writes():
        pending.unlink(missing_ok=True)
    _log.info("finished in %s: %s", progress.format_seconds(time.monotonic() - begun), workdir)
    if "report" in wanted:
        for line in report.headlines(workdir / "report"):
            _log.info("%s", line)


def _reading(config: Any) -> data.Reading:
    return data.Reading(
        workers=config.loader.workers,
        max_unreadable=config.loader.max_unreadable,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _run_stage(stage: artifacts.Stage, fingerprint: Mapping[str, Any]) -> None:
    for name, images in stage.images.items():
        report_exclusions(stage.workdir, name, images)
    _log.info("%s: begins", stage.name)
    begun = time.monotonic()
    artifacts.start(stage.directory, fingerprint)
    partition.wait_for_all(f"the beginning of {stage.name}")
    try:
        facts = order.STAGES[stage.name].run(stage)
    except OSError as error:
        # A full disk does not say which file it is full for.
        if error.strerror is None or error.filename is not None:
            raise
        raise OSError(
            f"{stage.directory}: {error.strerror}. Mend this: the same command carries on"
        ) from error
    seconds = time.monotonic() - begun
    artifacts.finish(stage.directory, fingerprint, facts, seconds)
    partition.wait_for_all(f"the end of {stage.name}")
    _log.info("%s: finished in %s", stage.name, progress.format_seconds(seconds))


def _describe_redo(config: Any, redo: Collection[str]) -> dict[str, Any]:
    """What a --redo asks for."""
    sections = {
        name: provenance.deciding(artifacts.plain(config[name]))
        for name in order.with_readers(redo)
        if name in config
    }
    images = artifacts.plain(config.images)
    return {"redo": sorted(redo), "config": {"seed": config.seed, "images": images, **sections}}


def _is_pending(workdir: Path, request: Mapping[str, Any]) -> bool:
    """Whether a run that has not ended was asked to redo the same stages with the same config."""
    pending = workdir / _PENDING_REDO
    return pending.exists() and artifacts.read_json(pending) == request


def _stage_seed(seed: int, name: str) -> int:
    """Each stage draws from its own stream, whatever other stages there are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def _print_plans(
    config: Any, workdir: Path, wanted: Collection[str], redo: Collection[str]
) -> None:
    """What a run would do.

    Raises:
      ValueError: it would be refused, as the lines say.
    """
    sources = Sources(config, None)
    again = [] if _is_pending(workdir, _describe_redo(config, redo)) else order.with_readers(redo)
    provenance.check_inputs(config, workdir, wanted, again)
    refused = []
    for name in order.with_inputs(wanted):
        if name not in wanted and not provenance.is_finished(workdir, name):
            continue
        lines = order.STAGES[name].plan(config, sources) if name in wanted else []
        changes = provenance.find_changes(config, workdir, name, sources)
        directory = workdir / name
        status = "to do"
        if name in again and directory.exists():
            status = "to be deleted and done again"
        elif changes:
            status = "made otherwise, would be refused: " + "; ".join(changes)
            refused.append(name)
        elif provenance.is_finished(workdir, name):
            status = "finished"
        elif directory.exists():
            status = "begun, would carry on"
        print(f"{name}: {status}")
        for line in lines:
            print(f"    {line}")
    if refused:
        raise ValueError(
            f"{workdir} was made by another config or from other inputs, as said above: add "
            f"--redo={','.join(refused)}, or choose another --workdir."
        )
