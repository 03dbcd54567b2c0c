"""Networks in the report: the curves of their training, and examples of their tasks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kt_jax.pretext import tasks, words
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import examples, figures
from kt_jax.training import logs

Network = Artifact[artifacts.Backbone]
_METRICS = ("loss", "accuracy")
_LARGE = 4  # the largest number of networks, or of rules, with figures of their own


def draw_training(networks: Sequence[Network]) -> dict[str, Any]:
    """The loss and, if there is one, the accuracy of each network during training.

    `few` has name and curves of each network. If there are many networks, `many` has name, steps,
    and a small line for each metric. The other one is empty.
    """
    read = {each.name: logs.read_metrics(each / "metrics.jsonl") for each in networks}
    if sum(map(bool, read.values())) <= _LARGE:
        few = [{"name": name, "curves": _draw_curves(name, x)} for name, x in read.items()]
        return {"few": few, "many": []}
    return {"few": [], "many": [_draw_sparks(name, x) for name, x in read.items() if x]}


def _draw_curves(name: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    steps = [int(line["step"]) for line in lines]
    return [
        figures.draw_curve(
            f"{name}: {metric} in training", "step", steps, [x[metric] for x in lines]
        )
        for metric in _METRICS
        if lines and metric in lines[0]  # a regression has no accuracy
    ]


def _draw_sparks(name: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sparks = {
        metric: figures.draw_spark(f"{name}: {metric} in training", [x[metric] for x in lines])
        for metric in _METRICS
        if metric in lines[0]
    }
    return {"name": name, "steps": int(lines[-1]["step"]), "sparks": sparks}


def read_solved(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """The results of each network on its pretext tasks, from results.json.

    Keys are name, task, words, network and rules. Networks with the same rules learned from the
    same kind of examples.
    """
    return [solved for network in networks for solved in _read_solved(network)]


def _read_solved(network: Network) -> Iterator[dict[str, Any]]:
    if not (network / "puzzles.json").exists():
        return
    first = files.read_json(network / "results.json")
    rules = json.dumps(files.read_json(network / "puzzles.json"), sort_keys=True)
    for solved in (first, *first.get("others", ())):
        task = solved.get("task", "jigsaw")  # older versions had one task
        name = network.name if solved is first else f"{network.name} ({task})"
        more = {"words": words.WORDS[task], "network": network, "rules": rules}
        yield {**solved, "name": name, "task": task, **more}


def draw_examples(stage: Stage, solved: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Examples of each task and its rules, with the results (`solved`) of the networks.

    If there are many rules, only one for each task has examples; the others are `brief`. Examples
    of each take a compilation.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in solved:
        groups.setdefault((each["task"], each["rules"]), []).append(each)
    firsts = {task: (task, rules) for task, rules in reversed(groups)}.values()
    drawn = list(groups) if len(groups) <= _LARGE else firsts
    return [
        {
            **some[0],
            "brief": group not in drawn,
            "labels": tasks.TASKS[group[0]].labels,
            **(examples.draw(stage, some[0]["network"], group[0]) if group in drawn else {}),
            "solved": some,
        }
        for group, some in groups.items()
    ]
