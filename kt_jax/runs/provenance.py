"""What a stage is made from: its config, its images and its inputs, then and now."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kt_jax import data
from kt_jax.runs import artifacts
from kt_jax.runs import order

# Of a section: how often a training is written down. A run may carry on otherwise.
_CHANGES_NOTHING = ("log_every", "checkpoint_every")


def deciding(section: Mapping[str, Any]) -> dict[str, Any]:
    """What of a section decides results."""
    return {key: section[key] for key in section if key not in _CHANGES_NOTHING}


def is_finished(workdir: Path, name: str) -> bool:
    """Whether a stage has ended: its manifest is written last."""
    return (workdir / name / artifacts.MANIFEST).exists()


def image_names(config: Any, name: str) -> list[str]:
    """The image sources that a stage's section names, under keys that end in "images"."""
    section = config[name]
    return sorted({section[key] for key in section if key.endswith("images")})


def fingerprint(
    config: Any, workdir: Path, name: str, sources: Mapping[str, data.Images]
) -> dict[str, Any]:
    """All that decides a stage's results: its config, its images and its inputs."""
    inputs = {
        needed: artifacts.open_manifest(workdir, needed, reader=name)["outputs"]
        for needed in order.STAGES[name].READS
        if is_finished(workdir, needed)
    }
    images = {key: sources[key].fingerprint for key in image_names(config, name)}
    return {
        "config": {"seed": config.seed, name: artifacts.plain(config[name])},
        "images": images,
        "inputs": inputs,
    }


def find_changes(
    config: Any, workdir: Path, name: str, sources: Mapping[str, data.Images]
) -> list[str]:
    """Where that which a stage was made with differs from what is asked for now."""
    found = artifacts.read_fingerprint(workdir / name)
    if found is None:
        return []
    wanted = fingerprint(config, workdir, name, sources)
    # Inputs that are to be made, again or first, are compared when they have been.
    found["inputs"] = {
        key: found["inputs"][key] for key in found["inputs"] if key in wanted["inputs"]
    }
    for made in (found, wanted):
        made["config"][name] = deciding(made["config"][name])
    return list(artifacts.differences(found, wanted))


def refuse_changes(
    config: Any, workdir: Path, name: str, sources: Mapping[str, data.Images]
) -> None:
    """Refuses to go on with, or to reuse, what was made otherwise.

    Raises:
      ValueError: saying where it differs, and the two ways on.
    """
    changes = find_changes(config, workdir, name, sources)
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"stage {name!r} in {workdir} was made by another config or from other inputs "
            f"(found -> now asked for):\n  {lines}\nNothing was changed. Either do it and what "
            f"reads it again with --redo={name}, or choose another --workdir."
        )


def check_inputs(
    config: Any, workdir: Path, wanted: Collection[str], again: Collection[str]
) -> None:
    """Refuses to begin, or to delete, what would lack an input in the end.

    Raises:
      ValueError: `again`, the stages to be deleted, has one that is read and not `wanted`.
      FileNotFoundError: an input is not finished.
    """
    for name in wanted:
        for needed in order.STAGES[name].READS:
            if needed not in config.stages or needed in wanted:
                continue
            if needed in again:
                raise ValueError(
                    f"--redo would delete stage {needed!r}, which stage {name!r} reads, and "
                    f"--stages does not do it again: add {needed} to --stages."
                )
            artifacts.open_manifest(workdir, needed, reader=name)


def write_config(config: Any, workdir: Path) -> None:
    """The config that made what is here: sections of finished stages stay as they were."""
    resolved = artifacts.plain(config)
    for name in order.STAGES:
        if is_finished(workdir, name):
            manifest = artifacts.read_json(workdir / name / artifacts.MANIFEST)
            resolved[name] = manifest["fingerprint"]["config"][name]
    artifacts.write_json(workdir / "config.json", resolved)
