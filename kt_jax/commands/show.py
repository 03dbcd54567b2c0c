"""kt-jax show: describes a run or an artifact.

    python -m kt_jax show runs/quickstart
    python -m kt_jax show runs/quickstart/clusters

For an artifact it prints the type, the content and the files, and checks the SHA-256 of each file.
For a run it prints the stages and their artifacts.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kt_jax.runs import artifacts, marks, progress, status


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      ValueError: the directory is neither an artifact nor a run, or files have changed.
      FileNotFoundError: the directory or some of its files do not exist.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax show",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    directory = parser.parse_args(argv).directory
    for line in describe(directory):
        print(line)
    return 0


def describe(directory: Path) -> Iterator[str]:
    """Describes an artifact or a run, line by line. Raises as `main`."""
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    if marks.is_finished(directory):
        yield from _describe_artifact(directory)
    elif (directory / "config.json").exists():
        yield from _describe_run(directory)
    elif (directory / marks.STARTED).exists():
        yield f"{directory}: begun, not finished"
    else:
        raise ValueError(
            f"{directory} is neither an artifact (no {marks.MANIFEST}) nor a run (no config.json)"
        )


def _describe_artifact(directory: Path) -> Iterator[str]:
    artifact = artifacts.open_artifact(directory, name=directory.name, reader="show")
    about, manifest = artifact.about, artifact.manifest
    yield f"{directory}: {type(about).__name__}"
    summary = (type(about).__doc__ or "").split("\n")[0]
    yield f"  {summary}"
    yield from _describe_values(dataclasses.asdict(about), "  ")
    spent, version = progress.format_seconds(manifest["seconds"]), manifest["versions"]["kt_jax"]
    commit = manifest.get("commit", "")  # older manifests have none
    yield f"  made in {spent} by kt_jax {version}{f', commit {commit}' if commit else ''}"
    yield "  files (checked by SHA-256):"
    for name in manifest["files"]:
        yield f"    {name} ({(directory / name).stat().st_size:,} bytes)"


def _describe_values(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and name != "layers":
            yield f"{indent}{name}:"
            yield from _describe_values(value, indent + "  ")
        elif name == "layers":
            shapes = (f"{layer} {'x'.join(map(str, shape))}" for layer, shape in value.items())
            yield f"{indent}layers: {', '.join(shapes)}"
        else:
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"{indent}{name}: {text}"


def _describe_run(directory: Path) -> Iterator[str]:
    config = status.read_config(directory)
    yield f"{directory}: a run of {len(config['stages'])} stages, seed {config['seed']}"
    for name in config["stages"]:
        place, kind = directory / name, config[name]["kind"]
        if marks.is_finished(place):
            manifest = artifacts.read_manifest(place, name=name, reader="show")
            spent = progress.format_seconds(manifest["seconds"])
            yield f"  {name} ({kind}): {manifest['type']}, made in {spent}"
        else:
            begun = (place / marks.STARTED).exists()
            yield f"  {name} ({kind}): {'begun, not finished' if begun else 'to do'}"
