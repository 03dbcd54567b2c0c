"""Networks on a page: how their training went, and examples of what they learned from."""

from collections.abc import Iterator, Sequence
from typing import Any

from kt_jax.pretext import words
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import examples, figures
from kt_jax.training import logs

Network = Artifact[artifacts.Backbone]


def draw_training(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """Of each network its name, and the curves of its loss and, if there is one, accuracy."""
    return [{"name": each.name, "curves": _draw_curves(each)} for each in networks]


def _draw_curves(network: Network) -> list[dict[str, Any]]:
    lines = logs.read_metrics(network / "metrics.jsonl")
    steps = [int(line["step"]) for line in lines]
    return [
        figures.draw_curve(
            f"{network.name}: {metric} in training", "step", steps, [x[metric] for x in lines]
        )
        for metric in ("loss", "accuracy")
        if lines and metric in lines[0]  # a regression has no accuracy
    ]


def draw_examples(stage: Stage, networks: Sequence[Network]) -> list[dict[str, Any]]:
    """What each network solved of its pretext tasks, with examples of them; see `examples.draw`."""
    return [
        {**solved, **examples.draw(stage, network, solved["task"])}
        for network in networks
        for solved in _read_solved(network)
    ]


def _read_solved(network: Network) -> Iterator[dict[str, Any]]:
    if not (network / "puzzles.json").exists():
        return
    first = files.read_json(network / "results.json")
    for solved in (first, *first.get("others", ())):
        task = solved.get("task", "jigsaw")  # before there were others
        name = network.name if solved is first else f"{network.name} ({task})"
        yield {**solved, "name": name, "task": task, "words": words.WORDS[task]}
