"""Compares what a stage was made from (options, images, inputs) with what is asked for now."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kt_jax import data
from kt_jax.runs import artifacts, files, marks, options
from kt_jax.runs.graph import Graph, Input, Node
from kt_jax.runs.images import explain_change

WAYS_ON = "Either repeat"
"""The first words of the remedy in the message about a change."""


def directory_of(workdir: Path, needed: Input) -> Path:
    """The directory of an input, finished or not."""
    return workdir / needed.stage if needed.path is None else needed.path


def fingerprint(
    node: Node, seed: int, workdir: Path, sources: Mapping[str, data.Images]
) -> dict[str, Any]:
    """Everything that determines a stage's results: options, images and finished inputs."""
    inputs: dict[str, dict[str, str]] = {}
    for option, several in node.inputs.items():
        inputs[option] = {}
        for each in several:
            directory = directory_of(workdir, each)
            if marks.is_finished(directory):
                manifest = artifacts.read_manifest(directory, name=each.text, reader=node.name)
                inputs[option][_key(node, option, each)] = manifest["outputs"]
    return {
        "kind": node.kind,
        "config": {"seed": seed, node.name: files.to_plain(options.deciding(node.options))},
        "images": {option: sources[name].fingerprint for option, name in node.images.items()},
        "inputs": inputs,
    }


def _key(node: Node, option: str, needed: Input) -> str:
    """The name of an input in a fingerprint. An option with one input leaves its name out."""
    if isinstance(getattr(node.options, option), tuple):
        return needed.text
    return "artifact with new weights" if needed.is_random else "artifact"


def has_other_inputs(
    node: Node, seed: int, workdir: Path, sources: Mapping[str, data.Images]
) -> bool:
    """Whether other inputs are finished now than when a stage was made.

    Only options without `needs_all` count: their stages use whichever inputs are finished.
    """
    found = marks.find(workdir / node.name)
    if found is None:
        return False
    wanted = fingerprint(node, seed, workdir, sources)["inputs"]
    return any(
        inputs.keys() != found.request["inputs"].get(option, {}).keys()
        for option, inputs in wanted.items()
        if not options.needs_all(node.module.Options, option)
    )


def find_changes(
    node: Node, seed: int, workdir: Path, sources: Mapping[str, data.Images]
) -> list[str]:
    """The differences between what a stage was made from and what is asked for now, as lines."""
    begun = marks.find(workdir / node.name)
    if begun is None:
        return []
    found, wanted = begun.request, fingerprint(node, seed, workdir, sources)
    for option, finished in wanted["inputs"].items():
        then = found["inputs"].setdefault(option, {})
        if not options.needs_all(node.module.Options, option):
            # A different set of inputs is not a change: see `has_other_inputs`.
            wanted["inputs"][option] = finished = {k: v for k, v in finished.items() if k in then}
            then = {key: digest for key, digest in then.items() if key in finished}
        # Inputs that are not finished yet are compared after they have run.
        named = {_key(node, option, each) for each in node.inputs[option]}
        found["inputs"][option] = {
            key: digest for key, digest in then.items() if key in finished or key not in named
        }
    if found == wanted:
        return []
    changes = []
    for option, name in node.images.items():
        before = found["images"].pop(option, "")
        if before != wanted["images"].pop(option):
            how = explain_change(workdir, before, sources[name])
            changes.append(f"config.images.{name}: {how}")
    before = found.pop("inputs")
    for option, now in wanted.pop("inputs").items():
        if now != before[option]:
            names = ", ".join(each.text for each in node.inputs[option])
            changes.append(f"{node.origin}.{option}: {names} changed since it was made")
    # Fill in defaults, so that a line shows both values.
    defaults = files.to_plain(options.defaults(node.module.Options))
    for made in (found, wanted):
        made["config"][node.name] = _merged(defaults, made["config"].get(node.name, {}))
    changes += marks.differences(found, wanted)
    return changes or ["its options or inputs, for an unknown reason"]


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **values}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = _merged(value, merged[name])
    return merged


def refuse_changes(
    node: Node, seed: int, workdir: Path, sources: Mapping[str, data.Images]
) -> None:
    """Refuses to resume or reuse a stage that was made with other options, images or inputs.

    Raises:
      ValueError: the stage differs. The message names the differences and what the user can do.
    """
    changes = find_changes(node, seed, workdir, sources)
    others = (
        " To label other images with the clusters of this run, add them to config.images under "
        "another name, and a stage of the kind label: nothing else is done again."
        if any(change.startswith("config.images.") for change in changes)
        else ""
    )
    remedy = (
        f"{WAYS_ON} it and the stages that read it with --redo={node.name}, or add a stage under "
        f"another name, or choose another --workdir.{others}"
    )
    marks.refuse(f"stage {node.name!r} in {workdir}", changes, remedy)


def check_inputs(
    graph: Graph, workdir: Path, wanted: Collection[str], again: Collection[str]
) -> None:
    """Checks that every wanted stage will have its inputs.

    Raises:
      ValueError: an input is in `again` (will be deleted), but not in `wanted` (will not run).
      FileNotFoundError: an input is not finished.
    """
    for name in wanted:
        for option, inputs in graph[name].inputs.items():
            needs_all = options.needs_all(graph[name].module.Options, option)
            for each in inputs:
                if each.stage in wanted or not needs_all:
                    continue
                if each.stage and each.stage in again:
                    raise ValueError(
                        f"--redo would delete stage {each.stage!r}, which stage {name!r} reads, "
                        f"and --stages does not do it again: add {each.stage} to --stages."
                    )
                artifacts.read_manifest(directory_of(workdir, each), name=each.text, reader=name)


def write_config(config: Mapping[str, Any], graph: Graph, workdir: Path) -> None:
    """Writes WORKDIR/config.json. The sections of finished stages stay as they were."""
    resolved = {**config}
    for name, node in graph.items():
        resolved[name] = node.section
        if marks.is_finished(workdir / name):
            # Older versions wrote no section into the manifest.
            manifest = files.read_json(workdir / name / artifacts.MANIFEST)
            resolved[name] = manifest.get("section", resolved[name])
    files.write_json(workdir / "config.json", resolved)
