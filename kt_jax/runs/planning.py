"""What a run would do: the plans of its stages, what it would delete or refuse."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_jax.runs import artifacts, files, marks, options, progress, provenance
from kt_jax.runs import graph as graphs
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.images import Sources
from kt_jax.runs.stage import Inputs, Plan


@dataclass(frozen=True)
class Work:
    """The request of a run: its config, and the arguments of `pipeline.run`."""

    config: Mapping[str, Any]
    graph: graphs.Graph
    workdir: Path
    wanted: Collection[str]
    redo: Collection[str]
    yes: bool

    @property
    def seed(self) -> int:
        """The seed of the config, from which the seeds of the stages are made."""
        return self.config["seed"]

    def request(self) -> dict[str, Any]:
        """What identifies a --redo: its stages, and the options that change results."""
        names = graphs.with_readers(self.graph, self.redo)
        sections = {name: options.deciding(self.graph[name].options) for name in names}
        config = {"seed": self.seed, "images": self.config["images"], **sections}
        return files.to_plain({"redo": sorted(self.redo), "config": config})

    def again(self) -> list[str]:
        """The stages that --redo deletes; none if the same --redo was interrupted after that."""
        pending = self.workdir / marks.PENDING_REDO
        if pending.exists() and files.read_json(pending) == self.request():
            return []
        return graphs.with_readers(self.graph, self.redo)


def check_deletion(work: Work, again: Collection[str]) -> None:
    """Refuses a --redo that deletes more than it names, unless --yes agrees.

    Raises:
      ValueError: more would be deleted. The message names the stages, and how long they took.
    """
    there = [name for name in again if (work.workdir / name).exists()]
    if work.yes or not set(there) - set(work.redo):
        return
    seconds = {
        name: files.read_json(work.workdir / name / artifacts.MANIFEST).get("seconds", 0.0)
        for name in there
        if marks.is_finished(work.workdir / name)
    }
    parts = [
        f"{name} ({progress.format_seconds(seconds[name]) if name in seconds else 'begun'})"
        for name in there
    ]
    raise ValueError(
        f"--redo={','.join(work.redo)} also deletes the stages that read it: {', '.join(parts)}, "
        f"{progress.format_seconds(sum(seconds.values()))} of work in all. Add --yes to agree"
    )


def make_plans(work: Work, again: Collection[str], sources: Sources) -> dict[str, Plan]:
    """Makes the plans of the wanted stages. A plan reads the plans of its inputs.

    A finished stage that was made with other options or inputs is planned as if it were to be done:
    what it holds says nothing about what its readers will get.

    Raises:
      ValueError: a stage cannot work with its options, images or inputs.
    """
    plans: dict[str, Plan] = {}
    stale = [x for x in work.wanted if x not in again and _is_stale(work, x, sources)]
    again = {*again, *set(graphs.with_readers(work.graph, stale)).intersection(work.wanted)}
    for name in work.wanted:
        node = work.graph[name]
        if name not in again and marks.is_finished(work.workdir / name):
            # A finished stage needs no plan.
            manifest = artifacts.read_manifest(work.workdir / name, name=name, reader=name)
            plans[name] = Plan(artifacts.describe(manifest), ())
            continue
        wanted = options.fields_of(node.module.Options, "reads")
        given: dict[str, tuple[Artifact[Any], ...]] = {}
        for option, several in node.inputs.items():
            found = []
            for each in several:
                directory = provenance.directory_of(work.workdir, each)
                if each.stage in plans:
                    about, manifest = plans[each.stage].about, {}
                elif marks.is_finished(directory) and each.stage not in again:
                    manifest = artifacts.read_manifest(directory, name=each.text, reader=name)
                    about = artifacts.describe(manifest)
                else:
                    continue  # an optional input: check_inputs has checked the others
                origin = f"{node.origin}.{option}"
                graphs.check_type(origin, each.text, type(about), wanted[option], each.is_random)
                found.append(Artifact(each.text, directory, about, manifest, each.is_random))
            given[option] = tuple(found)
        images = {option: sources[source] for option, source in node.images.items()}
        plans[name] = node.module.plan(node.options, Inputs(node.origin, given, images))
    return plans


def _is_stale(work: Work, name: str, sources: Sources) -> bool:
    made_from = (work.graph[name], work.seed, work.workdir, sources)
    return bool(provenance.find_changes(*made_from)) or provenance.has_other_inputs(*made_from)


def print_plans(work: Work, time_steps: int) -> None:
    """Prints what a run would do.

    Raises:
      ValueError: the run would be refused (the printed lines say why).
      OSError: the workdir cannot be written.
    """
    graph, workdir = work.graph, work.workdir
    place = next(each for each in (workdir, *workdir.parents) if each.exists())
    if not os.access(place, os.W_OK):
        raise OSError(f"{workdir} cannot be written: choose another --workdir")
    sources, again = Sources(work.config, None), work.again()
    provenance.check_inputs(graph, workdir, work.wanted, again)
    plans = make_plans(work, again, sources)
    refused = []
    for name in graphs.with_inputs(graph, work.wanted):
        if name not in work.wanted and not marks.is_finished(workdir / name):
            continue
        changes = provenance.find_changes(graph[name], work.seed, workdir, sources)
        directory = workdir / name
        status = "to do"
        if name in again and directory.exists():
            status = "to be deleted and done again"
        elif changes:
            status = "made with other options or inputs, would be refused: " + "; ".join(changes)
            refused.append(name)
        elif provenance.has_other_inputs(graph[name], work.seed, workdir, sources):
            status = "other inputs are finished now, to be done again"
        elif marks.is_finished(workdir / name):
            status = "finished"
        elif directory.exists():
            status = "begun, would resume"
        print(f"{name}: {status}")
        plan = plans.get(name)
        for line in plan.lines if plan else ():
            print(f"    {line}")
        for warning in plan.warnings if plan else ():
            print(f"    warning: {warning}")
        if plan and plan.describe_step and status == "to do":
            print(f"    {plan.describe_step(time_steps)}")
    check_deletion(work, again)
    if refused:
        raise ValueError(
            f"{workdir} was made by another config or from other inputs, as said above: add "
            f"--redo={','.join(refused)}, or choose another --workdir."
        )
