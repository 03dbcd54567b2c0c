"""A network learns to solve Jigsaw++ puzzles (paper, section on Jigsaw++)."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
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
from kt_jax.pretext import permutations, pictures
from kt_jax.pretext import puzzles as jigsaw
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training import learning, logs

_log = logging.getLogger(__name__)

GIVES = artifacts.Backbone
# Puzzles are drawn again from what stands here, with the permutations beside it.
RULES = "puzzles.json"
PERMUTATIONS = "permutations.npy"


@dataclass(frozen=True, kw_only=True)
class Permutations:
    """The set whose number is the label of a puzzle."""

    count: int = 701
    file: str = options.file()
    """The authors' file of permutations; without one, a set is made from the seed."""

    def __post_init__(self) -> None:
        """Refuses what is no set."""
        if not 2 <= self.count <= 362_880:
            raise ValueError(f"count = {self.count}: choose from 2 to 9! = 362880")


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is put on the backbone; see `models.JigsawNet`."""

    fc6: int = 1024
    fc7: int = 4096
    dropout: float = 0.5
    batch_norm: bool = True

    def __post_init__(self) -> None:
        """Refuses what is no network."""
        learning.check_head((self.fc6, self.fc7), self.dropout)


@dataclass(frozen=True, kw_only=True)
class Options(learning.Training):
    """A solver of puzzles."""

    images: str = options.images("train")
    test_images: str = options.images("test")
    """Held out: how many of their puzzles it solves is its result."""
    test_repeats: int = 1
    """Puzzles of every held-out image."""
    puzzles: jigsaw.PuzzleRules = jigsaw.PuzzleRules()
    permutations: Permutations = Permutations()
    backbone: dict[str, Any]
    """The name of the architecture, and its options."""
    head: Head = Head()

    def __post_init__(self) -> None:
        """Keeps of the backbone's options those that differ from the architecture's defaults."""
        object.__setattr__(self, "backbone", models.shorten(self.backbone))


def run(stage: Stage) -> tuple[artifacts.Backbone, dict[str, Any]]:
    """Writes network.safetensors, backbone.json, permutations.npy, puzzles.json, results.json.

    And checkpoints/, and images.parquet: which images were learned from.
    """
    chosen, rules = stage.options, stage.options.puzzles
    images = stage.inputs.images["images"]
    held_out = stage.inputs.images["test_images"]
    permuted = make_permutation_set(chosen, stage.seed)
    _keep_permutations(stage.directory / PERMUTATIONS, permuted)

    def draw() -> np.ndarray:
        pixels = np.stack([images[index] for index in range(jigsaw.GROUP)])
        return pictures.draw_puzzles(jax.random.key(stage.seed), pixels, permuted, rules)

    with contextlib.suppress(ValueError):  # of an unreadable image: the training says so
        logs.show_once(stage.directory, "puzzles", draw)
    make_model = make_network(chosen)

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        # Occluders come from the group: no image may stand in it twice.
        order = data.Shuffled(len(images), stage.seed, group=jigsaw.GROUP)
        batches = data.train_batches(
            images,
            order,
            chosen.batch_size,
            first_step=first_step,
            last_step=chosen.steps,
            reading=stage.reading,
        )
        return partition.put_ahead(({"image": batch["image"]} for batch in batches), stage.mesh)

    task = learning.Task(
        name=stage.name,
        options=chosen,
        seed=stage.seed,
        make_model=make_model,
        make_examples=_make_examples(chosen, permuted),
        make_batches=make_batches,
        log_directory=stage.directory,
        store_directory=stage.directory / "checkpoints",
        chance=math.log(len(permuted)),
    )
    state = learning.learn(stage, task)
    results = solve(stage, state, make_model, held_out, permuted)
    files.write_json(stage.directory / "results.json", results)
    files.write_json(stage.directory / RULES, dataclasses.asdict(rules))
    about = backbones.describe(chosen.backbone, rules.tile)
    backbones.save_network(stage.directory, about, state.params, state.batch_stats)
    leakage.write_images(stage.directory, images)
    return about, {
        "rows": len(images),
        "excluded": len(images.excluded),
        "permutations": len(permuted),
        "min_hamming_distance": permutations.min_hamming_distance(permuted),
        **results,
    }


def solve(
    stage: Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    images: data.Images,
    permuted: np.ndarray,
) -> dict[str, Any]:
    """The share of held-out puzzles that the teacher solves, overall and by occluders.

    Every image is shown `test_repeats` times, as other puzzles; the draws depend on the seed
    alone.
    """
    chosen, rules = stage.options, stage.options.puzzles
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def solved(
        state: training.TrainState, key: jax.Array, pixels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        made = jigsaw.make_puzzles(key, pixels, jnp.asarray(permuted), rules)
        model = training.bind(graphdef, state.params, state.batch_stats)
        logits = model(views.standardise(made.tiles))["logits"]
        return logits.argmax(-1) == made.label, made.occluded.sum(-1)

    _log.info("%s: solves puzzles of %d held-out images", stage.name, len(images))
    right = np.zeros(rules.max_occluders + 1, np.int64)
    seen = np.zeros_like(right)
    key = jax.random.fold_in(jax.random.key(stage.seed), chosen.steps)
    total = chosen.test_repeats * len(images)
    with stage.count(total, "held-out puzzles", name=f"{stage.name}, test") as count:
        for repeat in range(chosen.test_repeats):
            batches = data.eval_batches(images, chosen.batch_size, reading=stage.reading)
            for number, batch in enumerate(batches):
                stage.notice.check()
                draw = jax.random.fold_in(jax.random.fold_in(key, repeat), number)
                shown = partition.put_batch(
                    {name: batch[name] for name in ("image", "mask")}, stage.mesh
                )
                answers = solved(state, draw, shown["image"])
                correct, occluders, mask = partition.fetch((*answers, shown["mask"]))
                count.add(int(mask.sum()))
                mask = _whole_groups(mask)
                np.add.at(seen, occluders[mask], 1)
                np.add.at(right, occluders[mask], correct[mask].astype(np.int64))
    return {
        "puzzle_accuracy": float(right.sum() / seen.sum()),
        "by_occluders": [float(x) for x in right / np.maximum(seen, 1)],
        "chance": 1 / len(permuted),
        "puzzles": int(seen.sum()),
    }


def _whole_groups(mask: np.ndarray) -> np.ndarray:
    """Leaves out the puzzles of a partly padded group: their occluders might be padding."""
    return np.repeat(mask.reshape(-1, jigsaw.GROUP).all(axis=1), jigsaw.GROUP)


def make_permutation_set(chosen: Options, seed: int) -> np.ndarray:
    """The set that the options describe: made from the seed, or read from the authors' file.

    Raises:
      ValueError: if it does not keep labels readable under max_occluders foreign tiles.
    """
    needed, wanted = chosen.puzzles.max_occluders + 1, chosen.permutations
    if not wanted.file:
        return permutations.make_permutations(wanted.count, min_distance=max(needed, 2), seed=seed)
    read = permutations.read_permutations(wanted.file)
    permutations.check_permutations(read, min_distance=needed)
    if len(read) != wanted.count:
        raise ValueError(
            f"permutations.count = {wanted.count}, but {wanted.file} holds {len(read)}: set the "
            "count to that."
        )
    return read


def _keep_permutations(path: Path, permuted: np.ndarray) -> None:
    """Writes the set; a resumed run must have the one that it began with.

    Raises:
      ValueError: if it has another.
    """
    if path.exists() and not np.array_equal(np.load(path, allow_pickle=False), permuted):
        raise ValueError(
            f"{path} is not the permutation set that the options give now: the file that they "
            "name has changed, or NumPy's generator has. Begin again with "
            f"--redo={path.parent.name}."
        )
    files.write_array(path, permuted)


def make_network(chosen: Options) -> training.MakeModel:
    """The puzzle solver that the options describe."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return models.JigsawNet(
            models.make_backbone(size=chosen.puzzles.tile, rngs=rngs, **chosen.backbone),
            size=chosen.puzzles.tile,
            classes=chosen.permutations.count,
            fc6=chosen.head.fc6,
            fc7=chosen.head.fc7,
            dropout=chosen.head.dropout,
            batch_norm=chosen.head.batch_norm,
            rngs=rngs,
        )

    return make


def _make_examples(chosen: Options, permuted: np.ndarray) -> training.MakeExamples:
    def make(key: jax.Array, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
        made = jigsaw.make_puzzles(key, batch["image"], jnp.asarray(permuted), chosen.puzzles)
        return views.standardise(made.tiles), made.label

    return make


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for puzzles that the images or the devices do not allow.
    """
    rules, batch, count = chosen.puzzles, chosen.batch_size, chosen.permutations.count
    chosen.check(inputs.origin, multiple_of=jigsaw.GROUP)
    learning.check_count(f"{inputs.origin}.test_repeats", chosen.test_repeats)
    for option, images in inputs.images.items():
        data.check_size(images, f"{inputs.origin}.{option}", rules.crop)
        if len(images) < jigsaw.GROUP:
            raise ValueError(
                f"{inputs.origin}.{option}: {images.origin} has {len(images)} images; puzzles are "
                f"made in groups of {jigsaw.GROUP}: give at least that many."
            )
    about = backbones.describe(chosen.backbone, rules.tile, origin=inputs.origin)
    distances = ""
    if chosen.permutations.file:  # known before anything is computed
        distances = f" ({permutations.describe_distances(make_permutation_set(chosen, 0))})"
    lines = (
        f"{backbones.parameter_count(make_network(chosen)):,} parameters",
        f"{len(inputs.images['images'])} images, {len(inputs.images['test_images'])} held out; "
        f"{count} permutations{distances}, chance {1 / count:.2%}",
        f"9 tiles x batch {batch} = {9 * batch} pictures of {rules.tile} x {rules.tile} x 3 a "
        f"step, {chosen.steps} steps",
    )
    size = inputs.images["images"].size
    trial = learning.Trial(
        options=chosen,
        make_model=make_network(chosen),
        # Which permutations these are costs nothing.
        make_examples=_make_examples(chosen, np.zeros((count, jigsaw.TILES), np.uint8)),
        shapes={"image": ((batch, size, size, 3), np.uint8)},
    )
    return Plan(
        about,
        lines,
        warnings=data.find_shortage(inputs.images["images"], batch),
        describe_step=trial.describe,
        disk=trial.disk,
    )
