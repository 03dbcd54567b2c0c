"""How well a network does its pretext task on images that it did not learn from."""

import logging
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
    """What a network is shown, standardised as the rules say, and the examples that it is made of.

    Raises:
      ValueError: as `tasks.make_examples`.
    """
    examples = tasks.make_examples(key, images, permutations, task=task, rules=rules)
    pictures = examples.pictures
    if rules.normalise == "tile":
        return views.standardise(pictures), examples
    # Below one another, the tiles of an example are one picture.
    count, _, _, width, channels = pictures.shape
    whole = views.standardise(pictures.reshape(count, -1, width, channels))
    return whole.reshape(pictures.shape), examples


def solve(
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    images: data.Images,
    permutations: UInt8[np.ndarray, "permutations tiles"] | None,
) -> dict[str, Any]:
    """The share of held-out examples that the network solves, overall and by kind of example.

    Kinds are numbers of occluders for puzzles ("by_occluders"), and labels for other tasks
    ("by_label"). Every image is shown `test_repeats` times, in other examples; the draws depend on
    the seed alone.
    """
    chosen = stage.options
    task, said = tasks.TASKS[chosen.task], words.WORDS[chosen.task]
    graphdef = training.structure(make_model, training=False)
    permuted = None if permutations is None else jnp.asarray(permutations)

    @jax.jit
    def solved(
        state: training.TrainState, key: jax.Array, pixels: jax.Array
    ) -> tuple[jax.Array, Int32[Array, " b"]]:
        inputs, made = make_inputs(key, pixels, permuted, task=chosen.task, rules=chosen.puzzles)
        logits = training.bind(graphdef, state.params, state.batch_stats)(inputs)["logits"]
        kind = made.occluded.sum(-1, dtype=jnp.int32) if task.has_permutations else made.label
        return logits.argmax(-1) == made.label, kind

    _log.info("%s: %s %s of %d held-out images", stage.name, said.does, said.examples, len(images))
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
                    {name: batch[name] for name in ("image", "mask")}, stage.mesh
                )
                answers = solved(state, draw, shown["image"])
                correct, kind, mask = partition.fetch((*answers, shown["mask"]))
                count.add(int(mask.sum()))
                mask = _whole_groups(mask, task.group)
                np.add.at(seen, kind[mask], 1)
                np.add.at(right, kind[mask], correct[mask].astype(np.int64))
    by = "by_occluders" if task.has_permutations else "by_label"
    return {
        "task": chosen.task,
        "puzzle_accuracy": float(right.sum() / seen.sum()),
        by: [float(x) for x in right / np.maximum(seen, 1)],
        "chance": 1 / (len(task.labels) if permutations is None else len(permutations)),
        "puzzles": int(seen.sum()),
    }


def _whole_groups(mask: np.ndarray, group: int) -> np.ndarray:
    """Leaves out the examples of a partly padded group: their occluders might be padding."""
    return np.repeat(mask.reshape(-1, group).all(axis=1), group)
