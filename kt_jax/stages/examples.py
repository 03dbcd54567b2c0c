"""Examples of a pretext task, for the report."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kt_jax.pretext import pictures, tasks
from kt_jax.pretext.puzzles import PuzzleRules
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import figures

SIDE = 192  # px


def draw(stage: Stage, backbone: Artifact[artifacts.Backbone], name: str) -> dict[str, Any]:
    """Examples made from random images, by the task and the rules of the network's training.

    `name` is the name of the task. The result is {"skipped": reason} if the images are too small.
    """
    images, wanted = stage.inputs.images["images"], stage.options.puzzles
    task, rules = tasks.TASKS[name], PuzzleRules(**files.read_json(backbone / "puzzles.json"))
    if images.size < rules.side:
        reason = (
            f"the images of {images.origin} have {images.size} px, fewer than the {rules.side} px "
            "of a puzzle"
        )
        return {"skipped": reason}
    count = -(-wanted // task.group) * task.group
    shuffled = np.random.default_rng(stage.seed).permutation(len(images))
    chosen = np.resize(shuffled, count).tolist()
    pixels = np.stack([images[index] for index in chosen])
    permutations = None
    if task.has_permutations:
        permutations = np.load(backbone / "permutations.npy", allow_pickle=False)
    make = jax.jit(tasks.make_examples, static_argnames=("task", "rules"))
    permuted = None if permutations is None else jnp.asarray(permutations)
    key = jax.random.key(stage.seed)
    made = jax.device_get(make(key, jnp.asarray(pixels), permuted, task=name, rules=rules))
    start = (images.size - rules.side) // 2
    columns = pictures.count_columns(task.pictures)
    # Small pictures are enlarged here: a browser would blur the gaps between tiles.
    side = task.size(rules)
    times = max(1, SIDE // (columns * side))
    gap = pictures.find_gap(times * side)
    items = [
        {
            "key": images.keys[chosen[place]],
            "original": figures.to_uri(
                pixels[place][start:][: rules.side, start : start + rules.side]
            ),
            "picture": figures.to_uri(
                pictures.draw_example(made.pictures[place], times=times), side=SIDE
            ),
            "label": made.label[place],
            "meaning": _describe(int(made.label[place]), task, permutations),
            "occluded": made.occluded[place].tolist(),
            "slots": (np.flatnonzero(made.occluded[place]) + 1).tolist(),
        }
        for place in range(wanted)
    ]
    return {
        "task": name,
        "rules": rules,
        "labels": task.labels if permutations is None else len(permutations),
        "gap_percent": 100 * gap / (columns * times * side + (columns - 1) * gap),
        "items": items,
    }


def _describe(label: int, task: tasks.Task, permutations: np.ndarray | None) -> str:
    """A label in words."""
    if permutations is None:
        return task.labels[label]
    return f"tiles {' '.join(map(str, permutations[label] + 1))}"
