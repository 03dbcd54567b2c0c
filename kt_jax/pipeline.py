"""The order of the stages: what is skipped, carried on, refused or done again."""

import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_jax import artifacts, backbones, data, logs, partition
from kt_jax.stages import clusters, features, pretext, probe, pseudo_labels, report, student

_log = logging.getLogger(__name__)

STAGES: dict[str, ModuleType] = {
    "pretext": pretext,
    "features": features,
    "clusters": clusters,
    "pseudo_labels": pseudo_labels,
    "student": student,
    "probe": probe,
    "report": report,
}


def run(
    config: Any,
    workdir: str | Path,
    *,
    stages: Collection[str] = (),
    redo: Collection[str] = (),
    dry_run: bool = False,
) -> None:
    """Runs the config's stages (or those named) that are not finished in `workdir`.

    Stages named in `redo`, and all that read them, are deleted first. The same call after any
    interruption carries on.

    Raises:
      ValueError: for unknown stages, for a config that cannot work with these images and
        devices, or when a finished or begun stage was made by another config or from other
        inputs; nothing is touched then.
      FileNotFoundError: when a stage that must be read is not finished.
    """
    _check_names("config.stages", config.stages)
    _check_names("--stages", stages)
    _check_names("--redo", redo)
    wanted = [name for name in STAGES if name in (stages or config.stages)]
    workdir = Path(workdir).expanduser().absolute()
    again = _with_readers(redo)
    partition.configure_xla()
    sources = _Sources(config, None if dry_run else workdir / "images")
    # Before anything is computed: most of what cannot work is found here.
    plans = {name: STAGES[name].plan(config, sources) for name in wanted}
    if dry_run:
        _print_plans(workdir, plans, again)
        return

    relevant = _with_inputs(wanted)
    for name in relevant:
        if name not in again and (name in wanted or _is_finished(workdir, name)):
            _refuse_changes(config, workdir, name, sources)
    for name in again:
        if (workdir / name).exists():
            _log.info("%s: deleted, to be done again", name)
            artifacts.remove(workdir / name)
    artifacts.write_json(workdir / "config.json", backbones.plain(config))

    mesh = partition.make_mesh()
    _log.info("devices: %s", ", ".join(str(device) for device in mesh.devices.flat))
    begun = time.monotonic()
    for name in wanted:
        if _is_finished(workdir, name):
            _log.info("%s: finished before, skipped", name)
            continue
        for image_name in _image_names(config, name):
            _report_exclusions(image_name, sources[image_name])
        module = STAGES[name]
        stage = artifacts.Stage(
            name=name,
            section=config[name],
            seed=_stage_seed(config.seed, name),
            workdir=workdir,
            images={key: sources[key] for key in _image_names(config, name)},
            mesh=mesh,
        )
        for needed in module.READS:
            if needed in config.stages:
                stage.open(needed)
        _log.info("%s: begins", name)
        stage_begun = time.monotonic()
        wanted_now = _fingerprint(config, workdir, name, sources)
        artifacts.start(stage.directory, wanted_now)
        facts = module.run(stage)
        seconds = time.monotonic() - stage_begun
        artifacts.finish(stage.directory, wanted_now, facts, seconds)
        _log.info("%s: finished in %s", name, logs.format_seconds(seconds))
    _log.info("finished in %s: %s", logs.format_seconds(time.monotonic() - begun), workdir)
    if "report" in wanted:
        for line in report.headlines(workdir / "report"):
            _log.info("%s", line)


class _Sources(Mapping[str, data.Images]):
    """The config's image sources, opened when first asked for."""

    def __init__(self, config: Any, cache_dir: Path | None) -> None:
        self._config, self._cache_dir = config, cache_dir
        self._opened: dict[str, data.Images] = {}

    def __getitem__(self, name: str) -> data.Images:
        if name not in self._opened:
            options = backbones.plain(self._config.images[name])
            source = options.pop("source")
            self._opened[name] = data.open_images(source, cache_dir=self._cache_dir, **options)
        return self._opened[name]

    def __iter__(self) -> Any:
        return iter(self._config.images)

    def __len__(self) -> int:
        return len(self._config.images)


def _check_names(origin: str, names: Collection[str]) -> None:
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ValueError(f"{origin} names {unknown[0]!r}: the stages are {', '.join(STAGES)}.")


def _stage_seed(seed: int, name: str) -> int:
    """Each stage draws from its own stream, whatever other stages there are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def _with_readers(names: Collection[str]) -> list[str]:
    """The stages and all that read them, in order."""
    found: list[str] = []
    for name, module in STAGES.items():
        if name in names or any(needed in found for needed in module.READS):
            found.append(name)
    return found


def _with_inputs(names: Collection[str]) -> list[str]:
    """The stages and all that they read, in order."""
    found: set[str] = set()
    for name in reversed(STAGES):
        if name in names or name in found:
            found |= {name, *STAGES[name].READS}
    return [name for name in STAGES if name in found]


def _image_names(config: Any, name: str) -> list[str]:
    """The image sources that a stage's section names, under keys that end in "images"."""
    section = config[name]
    return sorted({section[key] for key in section if key.endswith("images")})


def _is_finished(workdir: Path, name: str) -> bool:
    return (workdir / name / artifacts.MANIFEST).exists()


def _fingerprint(
    config: Any, workdir: Path, name: str, sources: Mapping[str, data.Images]
) -> dict[str, Any]:
    """All that decides a stage's results: its config, its images and its inputs."""
    inputs = {
        needed: artifacts.open_manifest(workdir, needed, reader=name)["outputs"]
        for needed in STAGES[name].READS
        if _is_finished(workdir, needed)
    }
    images = {key: sources[key].fingerprint for key in _image_names(config, name)}
    return {
        "config": {"seed": config.seed, name: backbones.plain(config[name])},
        "images": images,
        "inputs": inputs,
    }


def _refuse_changes(
    config: Any, workdir: Path, name: str, sources: Mapping[str, data.Images]
) -> None:
    directory = workdir / name
    marks = [directory / artifacts.MANIFEST, directory / artifacts.STARTED]
    mark = next((path for path in marks if path.exists()), None)
    if mark is None:
        return
    found = artifacts.read_json(mark)["fingerprint"]
    changes = list(artifacts.differences(found, _fingerprint(config, workdir, name, sources)))
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"stage {name!r} in {workdir} was made by another config or from other inputs "
            f"(found -> now asked for):\n  {lines}\nNothing was changed. Either do it and what "
            f"reads it again with --redo={name}, or choose another --workdir."
        )


def _report_exclusions(name: str, images: data.Images) -> None:
    _log.info("images.%s: %s, %d images", name, images.origin, len(images))
    if images.excluded:
        _log.warning("images.%s: %d files excluded:", name, len(images.excluded))
        for excluded in images.excluded[:10]:
            _log.warning("  %s: %s", excluded.key, excluded.reason)


def _print_plans(
    workdir: Path, plans: Mapping[str, Collection[str]], again: Collection[str]
) -> None:
    """What a run would do."""
    for name, lines in plans.items():
        directory = workdir / name
        status = "to do"
        if name in again and directory.exists():
            status = "to be deleted and done again"
        elif _is_finished(workdir, name):
            status = "finished"
        elif directory.exists():
            status = "begun, would carry on"
        print(f"{name}: {status}")
        for line in lines:
            print(f"    {line}")
