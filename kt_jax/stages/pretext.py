"""A teacher learns a pretext task: Jigsaw++ (paper, section on Jigsaw++) or another."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones, leakage, solving
from kt_jax.machine import lanes, partition
from kt_jax.pretext import permutations, pictures, tasks, words
from kt_jax.pretext import puzzles as jigsaw
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.training import learning, logs

GIVES = artifacts.Backbone
# The report draws examples again from this file and, for puzzles, from the permutations.
RULES = "puzzles.json"
PERMUTATIONS = "permutations.npy"


@dataclass(frozen=True, kw_only=True)
class Permutations:
    """The set of permutations of a puzzle; the label is the number of the permutation."""

    count: int = 701
    file: str = options.file()
    """The authors' file of permutations. Without it a set is made from the seed."""

    def __post_init__(self) -> None:
        """Refuses a count that is out of range."""
        if not 2 <= self.count <= 362_880:
            raise ValueError(f"count = {self.count}: choose from 2 to 9! = 362880")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The fully connected layers on the backbone; see `models.JigsawNet`."""

    fc6: int = 1024
    fc7: int = 4096
    dropout: float = 0.5
    batch_norm: bool = True

    def __post_init__(self) -> None:
        """Refuses widths and dropout that are out of range."""
        learning.check_head((self.fc6, self.fc7), self.dropout)


@dataclass(frozen=True, kw_only=True)
class Options(learning.Training):
    """Options of a network that learns a pretext task."""

    task: str = "jigsaw"
    """The pretext task. "jigsaw": which permutation do nine tiles show (Jigsaw++; without occluders
    it is Jigsaw, Noroozi and Favaro 2016)? "context": which neighbour of the centre tile is the
    second tile (Doersch et al. 2015, section 3)? "rotation": by how many right angles is the crop
    turned (Gidaris et al. 2018, section 3.1)? Linear probes of AlexNet's best layer on ImageNet
    have 38.7 % for rotation, and 37.3 % for clusters of a VGG trained by Jigsaw++.
    "jigsaw+rotation" trains one backbone with a head for each task. Rotation in addition to
    clusters took AlexNet from 43.8 to 44.7 % (SeLa, Asano et al. 2020). See docs/pretext.md."""
    images: str = options.images("train")
    test_images: str = options.images("test")
    """Held-out images. The share of their puzzles that the network solves is the stage's result."""
    test_repeats: int = 1
    """The number of puzzles (or examples of another task) for each held-out image."""
    puzzles: jigsaw.PuzzleRules = jigsaw.PuzzleRules()
    """How examples are made, for any task."""
    permutations: Permutations = Permutations()
    backbone: dict[str, Any]
    """The name of the architecture, and its options."""
    head: Head = Head()

    def __post_init__(self) -> None:
        """Drops backbone options that equal the architecture's defaults, and checks tiles."""
        object.__setattr__(self, "backbone", models.shorten(self.backbone))
        if tasks.ask(self.task).has_tiles:
            self.puzzles.check_tiles()


def run(stage: Stage) -> tuple[artifacts.Backbone, dict[str, Any]]:
    """Writes network.safetensors, backbone.json, puzzles.json, results.json and checkpoints/.

    It also writes images.parquet (the training images) and, for puzzles, permutations.npy.
    """
    chosen, rules = stage.options, stage.options.puzzles
    images = stage.inputs.images["images"]
    held_out = stage.inputs.images["test_images"]
    asked = tasks.ask(chosen.task)
    permuted, permutation_facts = None, {}
    if asked.has_permutations:
        permuted = make_permutation_set(chosen, stage.seed)
        permutations.keep(stage.directory / PERMUTATIONS, permuted)
        distance = permutations.min_hamming_distance(permuted)
        permutation_facts = {"permutations": len(permuted), "min_hamming_distance": distance}

    first = next(iter(asked.parts))

    def draw() -> np.ndarray:
        pixels = np.stack([images[index] for index in range(min(jigsaw.GROUP, len(images)))])
        key = jax.random.key(stage.seed)
        return pictures.draw_row(key, pixels, permuted, task=first, rules=rules)

    with contextlib.suppress(ValueError):  # An unreadable image: the training reports it.
        logs.show_once(stage.directory, words.WORDS[first].examples, draw)
    make_model = make_network(chosen)

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        # Occluders come from the same group, so an image must not be in a group twice.
        order = data.Shuffled(len(images), stage.seed, group=asked.group)
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
        loss_fn=solving.choose_loss(asked),
        chance=sum(math.log(count) for count in _count_labels(chosen).values()),
    )
    state = learning.learn(stage, task)
    results = solving.solve(stage, state, make_model, held_out, permuted)
    files.write_json(stage.directory / "results.json", results)
    files.write_json(stage.directory / RULES, dataclasses.asdict(rules))
    about = backbones.describe(chosen.backbone, asked.size(rules))
    backbones.save_network(stage.directory, about, state.params, state.batch_stats)
    leakage.write_images(stage.directory, images)
    return about, {
        "rows": len(images),
        "excluded": len(images.excluded),
        **permutation_facts,
        **results,
    }


def _count_labels(chosen: Options) -> dict[str, int]:
    """The number of possible labels of each task."""
    count = chosen.permutations.count
    return {name: len(x.labels) or count for name, x in tasks.ask(chosen.task).parts.items()}


def make_permutation_set(chosen: Options, seed: int) -> np.ndarray:
    """The set of permutations that the options describe, made from the seed or read from the file.

    Raises:
      ValueError: the permutations are too similar to be told apart under max_occluders foreign
        tiles, or the file has another number of permutations.
    """
    needed, wanted = chosen.puzzles.max_occluders + 1, chosen.permutations
    if not wanted.file:
        return permutations.make_permutations(wanted.count, min_distance=max(needed, 2), seed=seed)
    read = permutations.read_permutations(wanted.file)
    permutations.check_permutations(read, min_distance=needed)
    if len(read) != wanted.count:
        raise ValueError(
            f"permutations.count = {wanted.count}, but {wanted.file} has {len(read)}: set "
            f"count = {len(read)}."
        )
    return read


def make_network(chosen: Options) -> training.MakeModel:
    """The function that builds the network that the options describe."""
    asked, rules, counts = tasks.ask(chosen.task), chosen.puzzles, _count_labels(chosen)
    questions = {
        name: models.Question(pictures=x.pictures, size=x.size(rules), classes=counts[name])
        for name, x in asked.parts.items()
    }
    head = dataclasses.asdict(chosen.head)

    def make(rngs: nnx.Rngs) -> nnx.Module:
        backbone = models.make_backbone(size=asked.size(rules), rngs=rngs, **chosen.backbone)
        if asked.is_joint:
            return models.JointNet(backbone, questions, **head, rngs=rngs)
        (question,) = questions.values()
        return models.JigsawNet(backbone, **dataclasses.asdict(question), **head, rngs=rngs)

    return make


def _make_examples(chosen: Options, permuted: np.ndarray | None) -> training.MakeExamples:
    asked, rules = tasks.ask(chosen.task), chosen.puzzles
    return lambda key, batch: solving.make_all(
        key, batch["image"], permuted, asked=asked, rules=rules
    )


def forget(section: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change when a filled section gets another task.

    Options that only the previous task has go back to their defaults, as an architecture's options
    do when another architecture is named. So a config for puzzles serves any task.
    """
    now, wanted, rules = section["task"], overrides.get("task"), section["puzzles"]
    if wanted is None or wanted == now or not isinstance(rules, Mapping):
        return {}  # errors are reported later
    try:
        task = tasks.ask(str(wanted))
    except ValueError:
        return {}
    usual = options.to_section(jigsaw.PuzzleRules())
    changed = {"puzzles": {**usual, **{x: y for x, y in rules.items() if x in task.follows}}}
    if not task.has_permutations:
        changed["permutations"] = options.to_section(Permutations())
    return changed


def _check_task(chosen: Options, origin: str) -> None:
    """Refuses options that are set and belong to another task.

    Raises:
      ValueError: it names the first such option, and the options that the task has.
    """
    task = tasks.ask(chosen.task)
    rules, permuted = options.deciding(chosen.puzzles), options.deciding(chosen.permutations)
    foreign = [(chosen.puzzles, "puzzles", name) for name in rules if name not in task.follows]
    if not task.has_permutations:
        foreign += [(chosen.permutations, "permutations", name) for name in permuted]
    if foreign:
        given, section, name = foreign[0]
        raise ValueError(
            f"{origin}.{section}.{name} = {getattr(given, name)!r}: the task {chosen.task} has no "
            f"such option: remove it. The task has puzzles.({', '.join(sorted(task.follows))})."
        )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: an option belongs to another task, or the images or the devices do not allow these
        examples.
    """
    rules, batch, task = chosen.puzzles, chosen.batch_size, tasks.ask(chosen.task)
    _check_task(chosen, inputs.origin)
    chosen.check(inputs.origin, multiple_of=task.group)
    learning.check_count(f"{inputs.origin}.test_repeats", chosen.test_repeats)
    for option, images in inputs.images.items():
        data.check_size(images, f"{inputs.origin}.{option}", rules.side)
        if len(images) < task.group:
            raise ValueError(
                f"{inputs.origin}.{option}: {images.origin} has {len(images)} images; puzzles are "
                f"made in groups of {task.group}: give at least that many."
            )
    about = backbones.describe(chosen.backbone, task.size(rules), origin=inputs.origin)
    told = []
    for name, count in _count_labels(chosen).items():
        labels = f"{name}, {count} labels"
        if name == "jigsaw":
            labels = f"{count} permutations"
            if chosen.permutations.file:  # so the plan can check the file
                distances = permutations.describe_distances(make_permutation_set(chosen, 0))
                labels += f" ({distances})"
        told.append(f"{labels}, chance {1 / count:.2%}")
    shown, parts = [], task.parts.values()
    for each in parts:
        of = f"{each.pictures} tiles x batch {batch} = " if each.has_tiles else ""
        side = each.size(rules)
        shown.append(f"{of}{each.pictures * batch} pictures of {side} x {side} x 3")
    lines = (
        f"{backbones.parameter_count(make_network(chosen)):,} parameters",
        f"{len(inputs.images['images'])} images, {len(inputs.images['test_images'])} held out; "
        f"{'; '.join(told)}",
        f"{' and '.join(shown)} a step, {chosen.steps} steps",
        *lanes.describe(batch // chosen.compute.accumulate, max(x.pictures for x in parts)),
    )
    size = inputs.images["images"].size
    # The cost of a step does not depend on the permutations.
    any_set = np.zeros((chosen.permutations.count, jigsaw.TILES), np.uint8)
    trial = learning.Trial(
        options=chosen,
        make_model=make_network(chosen),
        make_examples=_make_examples(chosen, any_set if task.has_permutations else None),
        shapes={"image": ((batch, size, size, 3), np.uint8)},
        loss_fn=solving.choose_loss(task),
    )
    return Plan(
        about,
        lines,
        warnings=data.find_shortage(inputs.images["images"], batch),
        describe_step=trial.describe,
        disk=trial.disk,
    )
