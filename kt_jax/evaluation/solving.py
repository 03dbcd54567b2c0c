"""The accuracy of a network in its pretext task, on images that it did not learn from."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, UInt8

from kt_jax import data, training
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.pretext import tasks, words
from kt_jax.pretext.puzzles import PuzzleRules
from kt_jax.runs.stage import Stage

_log = logging.getLogger(__name__)


def make_inputs(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    permutations: UInt8[Array, "permutations tiles"] | None,
    *,
    task: str,
    rules: PuzzleRules,
) -> tuple[Float[Array, "b p t t c"], tasks.Examples]:
    """Standardised inputs of a network, and the examples that they are made from.

    Raises:
      ValueError: as `tasks.make_examples`.
    """
    examples = tasks.make_examples(key, images, permutations, task=task, rules=rules)
    pictures = examples.pictures
    if rules.normalise == "tile":
        return views.standardise(pictures), examples
    # Stacked vertically, the tiles of an example are one picture.
    count, _, _, width, channels = pictures.shape
    whole = views.standardise(pictures.reshape(count, -1, width, channels))
    return whole.reshape(pictures.shape), examples


def make_all(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    permutations: UInt8[np.ndarray, "permutations tiles"] | None,
    *,
    asked: tasks.Asked,
    rules: PuzzleRules,
) -> tuple[Any, Any]:
    """Inputs and labels of one task; of several tasks, dicts of both by task."""
    permuted = None if permutations is None else jnp.asarray(permutations)
    inputs, labels = {}, {}
    for number, name in enumerate(asked.parts):
        own = jax.random.fold_in(key, number) if asked.is_joint else key
        inputs[name], made = make_inputs(own, images, permuted, task=name, rules=rules)
        labels[name] = made.label
    return (inputs, labels) if asked.is_joint else (*inputs.values(), *labels.values())


def solve(
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    images: data.Images,
    permutations: UInt8[np.ndarray, "permutations tiles"] | None,
) -> dict[str, Any]:
    """The results of each task that the network learned: those of the first, and "others".

    Every image is used `test_repeats` times, in different examples. Draws depend only on the seed.
    """
    asked = tasks.ask(stage.options.task)
    first, *others = (
        _solve_one(name, asked.is_joint, stage, state, make_model, images, permutations)
        for name in asked.parts
    )
    return {**first, "others": others} if others else first


def _solve_one(
    name: str,
    joint: bool,
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    images: data.Images,
    permutations: UInt8[np.ndarray, "permutations tiles"] | None,
) -> dict[str, Any]:
    """The share of held-out examples that the network solves, in all and by kind of example.

    Kinds are the numbers of occluders in puzzles ("by_occluders"), and the labels in other tasks
    ("by_label"). A `joint` network has a head for each of several tasks.
    """
    chosen = stage.options
    task, said = tasks.TASKS[name], words.WORDS[name]
    graphdef = training.structure(make_model, training=False)
    permuted = None
    if task.has_permutations and permutations is not None:
        permuted = jnp.asarray(permutations)

    @jax.jit
    def solved(
        state: training.TrainState, key: jax.Array, pixels: jax.Array
    ) -> tuple[jax.Array, Int32[Array, " b"]]:
        inputs, made = make_inputs(key, pixels, permuted, task=name, rules=chosen.puzzles)
        model = training.bind(graphdef, state.params, state.batch_stats)
        logits = model({name: inputs})[name]["logits"] if joint else model(inputs)["logits"]
        kind = made.occluded.sum(-1, dtype=jnp.int32) if task.has_permutations else made.label
        return logits.argmax(-1) == made.label, kind

    _log.info("%s: testing on %s of %d held-out images", stage.name, said.examples, len(images))
    kinds = chosen.puzzles.max_occluders + 1 if task.has_permutations else len(task.labels)
    right = np.zeros(kinds, np.int64)
    seen = np.zeros_like(right)
    key = jax.random.fold_in(jax.random.key(stage.seed), chosen.steps)
    total = chosen.test_repeats * len(images)
    with stage.count(total, f"held-out {said.examples}", name=f"{stage.name}, test") as count:
        for repeat in range(chosen.test_repeats):
            batches = data.eval_batches(images, chosen.batch_size, reading=stage.reading)
            for number, batch in enumerate(batches):
                stage.notice.check()
                draw = jax.random.fold_in(jax.random.fold_in(key, repeat), number)
                shown = partition.put_batch(
                    {field: batch[field] for field in ("image", "mask")}, stage.mesh
                )
                answers = solved(state, draw, shown["image"])
                correct, kind, mask = partition.fetch((*answers, shown["mask"]))
                count.add(int(mask.sum()))
                mask = _whole_groups(mask, task.group)
                np.add.at(seen, kind[mask], 1)
                np.add.at(right, kind[mask], correct[mask].astype(np.int64))
    by = "by_occluders" if task.has_permutations else "by_label"
    return {
        "task": name,
        "puzzle_accuracy": float(right.sum() / seen.sum()),
        by: [float(x) for x in right / np.maximum(seen, 1)],
        "chance": 1 / (len(task.labels) if permuted is None else len(permuted)),
        "puzzles": int(seen.sum()),
    }


def choose_loss(asked: tasks.Asked) -> training.LossFn:
    """The loss of a network that learns one task, or several."""
    return _joint_loss if asked.is_joint else training.cross_entropy


def _joint_loss(
    outputs: Mapping[str, Mapping[str, Array]], labels: Mapping[str, Array]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The sum of the tasks' cross entropies; the mean of their accuracies, and each of them."""
    found = {name: training.cross_entropy(outputs[name], labels[name])[1] for name in labels}
    loss = jnp.stack([each["loss"] for each in found.values()]).sum()
    accuracy = jnp.stack([each["accuracy"] for each in found.values()]).mean()
    return loss, {
        "loss": loss,
        "accuracy": accuracy,
        **{f"accuracy_{name}": each["accuracy"] for name, each in found.items()},
    }


def _whole_groups(mask: np.ndarray, group: int) -> np.ndarray:
    """Drops the examples of a partly padded group: their occluders might be padding."""
    return np.repeat(mask.reshape(-1, group).all(axis=1), group)
