"""The stage that learns a pretext task: any task from one config, and its options by name."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import support
from flax import nnx

import kt_jax
from kt_jax import models, training
from kt_jax.config import load_with_flags
from kt_jax.evaluation import backbones, solving
from kt_jax.pretext import tasks
from kt_jax.pretext.puzzles import PuzzleRules
from kt_jax.runs import files, graph, options
from kt_jax.runs.stage import Inputs
from kt_jax.stages import pretext

PAGE = Path(__file__).parents[2] / "docs/pretext.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
SMALL = {
    "batch_size": 16,
    "steps": 2,
    "puzzles": {"crop": 48, "mirror": True},
    "backbone": {"name": "vgg", "channels": (4, 8), "convs": (1, 1), "batch_norm": True},
    "head": {"fc6": 8, "fc7": 16},
}


def make_options(**changes):
    return options.make(pretext.Options, {**SMALL, **changes}, "config.pretext")


def open_images():
    images = support.make_images(20, size=48, load=lambda index: PIXELS[index])
    return {"images": images, "test_images": images}


def load(**section):
    config = kt_jax.load_config("quickstart.py:tiny", pretext=section)
    return config, graph.make_graph(files.to_plain(config))["pretext"].options


def plan(chosen):
    return pretext.plan(chosen, Inputs("config.pretext", {}, open_images()))


@pytest.mark.parametrize(
    ("task", "tiles", "side"), [("context", {"tile": 12, "jitter": 3, "channel_shift": 1}, 12),
                                ("rotation", {}, 48)]
)  # fmt: skip
def test_a_task_is_learned_and_its_results_say_what_was_asked(tmp_path, task, tiles, side):
    chosen = make_options(task=task, puzzles={**SMALL["puzzles"], **tiles}, test_repeats=2)
    stage = support.make_stage(tmp_path / "pretext", chosen, images=open_images())
    about, facts = pretext.run(stage)
    assert about == plan(chosen).about
    assert about.size == side
    results = json.loads((stage.directory / "results.json").read_text())
    labels = len(tasks.TASKS[task].labels)
    assert results.keys() == {"task", "puzzle_accuracy", "by_label", "chance", "puzzles"}
    # Not a multiple of eight: none is left out, since none is mixed with another.
    assert (results["task"], results["chance"], results["puzzles"]) == (task, 1 / labels, 40)
    assert len(results["by_label"]) == labels
    assert 0 <= results["puzzle_accuracy"] <= 1
    assert facts == {"rows": 20, "excluded": 0, **results}
    assert not (stage.directory / "permutations.npy").exists()


def test_on_tpus_the_plan_says_how_full_the_lanes_are(monkeypatch):
    tiles = {"tile": 12, "jitter": 3, "channel_shift": 1}
    puzzles = {**SMALL["puzzles"], **tiles}
    chosen = make_options(batch_size=128, puzzles=puzzles, compute={"accumulate": 2})
    assert not any("lanes" in line for line in plan(chosen).lines)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    images = 128 // 2 // jax.device_count()
    line = plan(chosen).lines[-1]
    assert line.startswith(f"{images} images a chip, {9 * images} pictures, fill ")


@pytest.mark.slow
def test_one_network_learns_puzzles_and_rotations(tmp_path):
    rules = {**SMALL["puzzles"], "tile": 12, "jitter": 3, "channel_shift": 1}
    chosen = make_options(
        task="jigsaw+rotation",
        batch_size=32,
        puzzles=rules,
        permutations={"count": 10},
        log_every=1,
    )
    stage = support.make_stage(tmp_path / "pretext", chosen, images=open_images())
    planned = plan(chosen)
    assert "10 permutations, chance 10.00%; rotation, 4 labels, chance 25.00%" in planned.lines[1]
    assert planned.lines[2].startswith(
        "9 tiles x batch 32 = 288 pictures of 12 x 12 x 3 and 32 pictures of 48 x 48 x 3 a step"
    )
    about, facts = pretext.run(stage)
    assert about == planned.about
    assert about.size == 12
    tree = files.read_tensors(stage.directory / "network.safetensors")["params"]
    assert tree.keys() == {"backbone", "heads"}
    shapes = {name: head["output"]["kernel"].shape for name, head in tree["heads"].items()}
    assert shapes == {"jigsaw": (16, 10), "rotation": (16, 4)}
    results = json.loads((stage.directory / "results.json").read_text())
    (other,) = results["others"]
    # Puzzles leave out the four images of a group that is not whole.
    assert (results["task"], results["chance"], results["puzzles"]) == ("jigsaw", 0.1, 16)
    assert (other["task"], other["chance"], other["puzzles"]) == ("rotation", 0.25, 20)
    assert facts["permutations"] == 10
    lines = (stage.directory / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    both = first["accuracy_jigsaw"], first["accuracy_rotation"]
    assert first["accuracy"] == pytest.approx(np.mean(both))
    # Two heads that know nothing yet.
    assert first["loss"] == pytest.approx(np.log(10) + np.log(4), rel=0.15)


def test_a_joint_network_answers_each_task_as_a_network_of_its_own():
    """In evaluation, with the same weights."""
    size = {"fc6": 8, "fc7": 16, "dropout": 0.0, "batch_norm": True}
    questions = {
        "jigsaw": models.Question(pictures=9, size=12, classes=10),
        "rotation": models.Question(pictures=1, size=48, classes=4),
    }
    backbone = models.make_backbone(size=12, rngs=nnx.Rngs(0), **SMALL["backbone"])
    joint = models.JointNet(backbone, questions, **size, rngs=nnx.Rngs(1))
    joint.eval()
    shown = {
        "jigsaw": jax.random.normal(jax.random.key(0), (2, 9, 12, 12, 3)),
        "rotation": jax.random.normal(jax.random.key(1), (2, 1, 48, 48, 3)),
    }
    answers = joint(shown)
    for name, asked in questions.items():
        alone = models.JigsawNet(
            backbone, size=asked.size, classes=asked.classes, pictures=asked.pictures, **size,
            rngs=nnx.Rngs(2),
        )  # fmt: skip
        for layer in ("fc6", "fc7", "output"):
            setattr(alone, layer, getattr(joint.heads[name], layer))
        alone.eval()
        expected = alone(shown[name])["logits"]
        assert np.asarray(answers[name]["logits"]) == pytest.approx(np.asarray(expected), abs=1e-5)


def test_one_mean_for_all_tiles_leaves_their_brightness():
    """The shortcut that standardising each tile by itself takes away."""
    rules = {"crop": 48, "tile": 12, "jitter": 3, "channel_shift": 1}
    rows = np.arange(48, dtype=np.uint8)[:, None, None]  # darker above
    images = np.broadcast_to(rows, (8, 48, 48, 3))
    largest = {}
    for normalise in ("tile", "image"):
        make = jax.jit(solving.make_inputs, static_argnames=("task", "rules"))
        told = PuzzleRules(**rules, normalise=normalise)
        shown, _ = make(jax.random.key(0), images, None, task="context", rules=told)
        means = np.asarray(shown).mean((2, 3, 4))
        assert means.sum(1) == pytest.approx(0, abs=1e-4)
        largest[normalise] = np.abs(means).max()
    assert largest["tile"] < 1e-4
    assert largest["image"] > 0.5


def test_the_name_of_a_task_alone_takes_a_config_of_puzzles_to_it():
    """As with architectures: the options of the task before go."""
    config, chosen = load(task="rotation")
    assert config.pretext.puzzles.crop == 48
    assert config.pretext.puzzles.mirror
    assert config.pretext.permutations.count == 701  # the default: it was set to 30
    plan(chosen)
    config, chosen = load(task="context")
    assert (config.pretext.puzzles.tile, config.pretext.puzzles.grey) == (12, 0.5)
    assert "2 tiles x batch 64 = 128 pictures of 12 x 12 x 3 a step" in plan(chosen).lines[2]
    assert "context, 8 labels, chance 12.50%" in plan(chosen).lines[1]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"task": "rotation", "puzzles": {"tile": 12}},
            r"config.pretext.puzzles.tile = 12: the task rotation has no such option: "
            r"remove it. The task has puzzles.\(crop, mirror, pre_crop\)",
        ),
        (
            {"task": "rotation", "permutations": {"count": 30}},
            "config.pretext.permutations.count = 30: the task rotation has no such option",
        ),
        (
            {"task": "context", "puzzles": {"max_occluders": 1}},
            "config.pretext.puzzles.max_occluders = 1: the task context has no such option",
        ),
        (
            {"task": "context", "permutations": {"file": "p.bin"}},
            "config.pretext.permutations.file = 'p.bin': the task context has no such option",
        ),
        (
            {"puzzles": {"pre_crop": 7}},
            r"decoded to 48 px, but 55 px are needed: set the size of that source",
        ),
        ({"task": "inpainting"}, "config.pretext.task = 'inpainting': choose from jigsaw, context"),
        ({"task": "rotation+rotation"}, r"task = 'rotation\+rotation': choose from jigsaw, "),
        (
            {"task": "context+rotation", "puzzles": {"max_occluders": 1}},
            r"max_occluders = 1: the task context\+rotation has no such option",
        ),
        ({"task": "context", "puzzles": {"tile": 16}}, "must fit into a cell"),
    ],
)
def test_what_a_task_does_not_have_is_refused_by_name(section, message):
    with pytest.raises(ValueError, match=message):
        plan(load(**section)[1])


COMMANDS = re.findall(r"^    python -m kt_jax\.main (.*)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_can_be_planned(command):
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in command.split())
    told = {x.removeprefix("config."): y for x, y in flags.items() if x.startswith("config.")}
    config = load_with_flags(flags["config"], told)
    chosen = graph.make_graph(files.to_plain(config))["pretext"].options
    images = support.make_images(300, size=config.images.train.size)
    given = {"images": images, "test_images": images}
    assert pretext.plan(chosen, Inputs("config.pretext", {}, given)).lines


def test_the_alexnet_of_the_page_is_the_authors():
    told = re.findall(r"--config\.(\S+)=(\S+)", COMMANDS[-1])
    config = load_with_flags("jigsawpp.py", dict(told))
    chosen = graph.make_graph(files.to_plain(config))["pretext"].options
    make = pretext.make_network(chosen)
    # Their convolutions, with groups in three; 2,304 x 1,024 and 9,216 x 4,096 weights behind them.
    convolutions = 34_944 + 307_456 + 885_120 + 663_936 + 442_624
    dense = 2_304 * 1_024 + 1_024 + 9_216 * 4_096 + 4_096 + 4_096 * 701 + 701
    assert backbones.parameter_count(make) == convolutions + dense
    about = backbones.describe(chosen.backbone, chosen.puzzles.tile)
    assert about.layers["conv1"] == (27, 27, 96)
    assert about.layers["pool5"] == (3, 3, 256)
    assert about.layers["conv4"][-1] * config.features.grid**2 == 9_600


def test_without_batch_norm_a_head_begins_with_caffes_weights():
    alexnet = {"name": "alexnet", "channels": (8,) * 5, "stem_kernel": 11, "stem_stride": 2}
    head = {"fc6": 64, "fc7": 128, "batch_norm": False}
    rules = {"crop": 255}
    chosen = make_options(backbone=alexnet, head=head, puzzles=rules)
    params, _ = jax.jit(lambda: training.init_variables(pretext.make_network(chosen), 0))()
    for name, deviation, bias in (("fc6", 0.005, 1), ("fc7", 0.005, 1), ("output", 0.01, 0)):
        layer = params[name] if name == "output" else params[name]["linear"]
        assert np.std(layer["kernel"]) == pytest.approx(deviation, rel=0.05)
        assert (np.asarray(layer["bias"]) == bias).all()
