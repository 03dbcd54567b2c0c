"""Stage 1: a teacher learns to solve Jigsaw++ puzzles (paper, section on Jigsaw++)."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones, leakage
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.pretext import permutations
from kt_jax.pretext import puzzles as jigsaw
from kt_jax.runs import artifacts
from kt_jax.training import learning

_log = logging.getLogger(__name__)

READS = ()


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes permutations.npy, network.safetensors, backbone.json, results.json, checkpoints/.

    And images.parquet: which images were learned from.
    """
    section = stage.section
    images = stage.images[section.images]
    held_out = stage.images[section.test_images]
    rules = make_rules(section)
    chosen = make_permutation_set(section, stage.seed)
    _keep_permutations(stage.directory / "permutations.npy", chosen)

    make_model = make_network(section)

    def make_examples(key: jax.Array, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
        made = jigsaw.make_puzzles(key, batch["image"], jnp.asarray(chosen), rules)
        return views.standardise(made.tiles), made.label

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        # Occluders come from the group: no image may stand in it twice.
        order = data.Shuffled(len(images), stage.seed, group=jigsaw.GROUP)
        batches = data.train_batches(
            images,
            order,
            section.batch_size,
            first_step=first_step,
            last_step=section.steps,
            reading=stage.reading,
        )
        return partition.put_ahead(({"image": batch["image"]} for batch in batches), stage.mesh)

    state = learning.learn(
        stage,
        make_model,
        make_examples,
        make_batches,
        name=stage.name,
        seed=stage.seed,
        steps=section.steps,
        log_every=section.log_every,
        checkpoint_every=section.checkpoint_every,
        log_directory=stage.directory,
        store_directory=stage.directory / "checkpoints",
        chance=math.log(len(chosen)),
    )
    results = solve(stage, state, make_model, held_out, chosen, rules)
    artifacts.write_json(stage.directory / "results.json", results)
    options = artifacts.plain(section.backbone)
    backbones.save_network(stage.directory, options, state.params, state.batch_stats)
    leakage.write_images(stage, images)
    return {
        "rows": len(images),
        "excluded": len(images.excluded),
        "permutations": len(chosen),
        "min_hamming_distance": permutations.min_hamming_distance(chosen),
        **results,
    }


def solve(
    stage: artifacts.Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    images: Any,
    chosen: np.ndarray,
    rules: jigsaw.PuzzleRules,
) -> dict[str, Any]:
    """The share of held-out puzzles that the teacher solves, overall and by occluders.

    Every image is shown `test_repeats` times, as other puzzles; the draws depend on the seed
    alone.
    """
    section = stage.section
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def solved(
        state: training.TrainState, key: jax.Array, pixels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        made = jigsaw.make_puzzles(key, pixels, jnp.asarray(chosen), rules)
        model = training.bind(graphdef, state.params, state.batch_stats)
        logits = model(views.standardise(made.tiles))["logits"]
        return logits.argmax(-1) == made.label, made.occluded.sum(-1)

    _log.info("%s: solves puzzles of %d held-out images", stage.name, len(images))
    right = np.zeros(rules.max_occluders + 1, np.int64)
    seen = np.zeros_like(right)
    key = jax.random.fold_in(jax.random.key(stage.seed), section.steps)
    for repeat in range(section.test_repeats):
        batches = data.eval_batches(images, section.batch_size, reading=stage.reading)
        for number, batch in enumerate(batches):
            stage.notice.check()
            draw = jax.random.fold_in(jax.random.fold_in(key, repeat), number)
            shown = partition.put_batch(
                {name: batch[name] for name in ("image", "mask")}, stage.mesh
            )
            answers = solved(state, draw, shown["image"])
            correct, occluders, mask = partition.fetch((*answers, shown["mask"]))
            mask = _whole_groups(mask)
            np.add.at(seen, occluders[mask], 1)
            np.add.at(right, occluders[mask], correct[mask].astype(np.int64))
    return {
        "puzzle_accuracy": float(right.sum() / seen.sum()),
        "by_occluders": [float(x) for x in right / np.maximum(seen, 1)],
        "chance": 1 / len(chosen),
        "puzzles": int(seen.sum()),
    }


def _whole_groups(mask: np.ndarray) -> np.ndarray:
    """Leaves out the puzzles of a partly padded group: their occluders might be padding."""
    return np.repeat(mask.reshape(-1, jigsaw.GROUP).all(axis=1), jigsaw.GROUP)


def make_rules(section: Any) -> jigsaw.PuzzleRules:
    """The config's puzzle rules."""
    return jigsaw.PuzzleRules(**artifacts.plain(section.puzzles))


def make_permutation_set(section: Any, seed: int) -> np.ndarray:
    """The set that the config describes: built from the seed, or read from the authors' file.

    Raises:
      ValueError: if it does not keep labels readable under max_occluders foreign tiles.
    """
    needed = section.puzzles.max_occluders + 1
    if not section.permutations.file:
        return permutations.make_permutations(
            section.permutations.count, min_distance=max(needed, 2), seed=seed
        )
    chosen = permutations.read_permutations(section.permutations.file)
    permutations.check_permutations(chosen, min_distance=needed)
    if len(chosen) != section.permutations.count:
        raise ValueError(
            f"config.pretext.permutations.count = {section.permutations.count}, but "
            f"{section.permutations.file} holds {len(chosen)}: set the count to that."
        )
    return chosen


def _keep_permutations(path: Path, chosen: np.ndarray) -> None:
    """Writes the set; a resumed run must have the one that it began with.

    Raises:
      ValueError: if it has another.
    """
    if path.exists() and not np.array_equal(np.load(path, allow_pickle=False), chosen):
        raise ValueError(
            f"{path} is not the permutation set that config.pretext.permutations gives now: the "
            "file it names has changed, or NumPy's generator has. Begin again with --redo=pretext."
        )
    artifacts.write_array(path, chosen)


def make_network(section: Any) -> training.MakeModel:
    """The puzzle solver that the config describes."""
    options = artifacts.plain(section.backbone)

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return models.JigsawNet(
            models.make_backbone(rngs=rngs, **options),
            size=section.puzzles.tile,
            classes=section.permutations.count,
            rngs=rngs,
            **artifacts.plain(section.head),
        )

    return make


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for puzzles that the images or the devices do not allow.
    """
    section = config.pretext
    rules = make_rules(section)
    batch = section.batch_size
    learning.check(config, "pretext", multiple_of=jigsaw.GROUP)
    for key in ("images", "test_images"):
        data.check_size(images[section[key]], f"config.pretext.{key}", rules.crop)
        if len(images[section[key]]) < jigsaw.GROUP:
            raise ValueError(
                f"config.pretext.{key} = {section[key]!r} has {len(images[section[key]])} images; "
                f"puzzles are made in groups of {jigsaw.GROUP}: give at least that many."
            )
    count = section.permutations.count
    return [
        f"{backbones.parameter_count(make_network(section)):,} parameters",
        f"{len(images[section.images])} images, {len(images[section.test_images])} held out; "
        f"{count} permutations, chance {1 / count:.2%}",
        f"9 tiles x batch {batch} = {9 * batch} pictures of {rules.tile} x {rules.tile} x 3 a "
        f"step, {section.steps} steps",
    ]
