"""What a student may learn besides one label an image, and in other ways."""

import dataclasses
import json

import numpy as np
import pytest
import support

from kt_jax.machine import signals
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs
from kt_jax.stages import classify
from kt_jax.training.optimizers import Optimizer

IMAGES, SIDE, CLASSES = 32, 20, 4
STEPS = 4
TINY = {
    "size": 16,
    "steps": STEPS,
    "batch_size": 8,
    "log_every": 1,
    "checkpoint_every": 2,
    "optimizer": Optimizer(learning_rate=0.1),
    "backbone": {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True},
    "head": classify.Head(hidden=(8,), batch_norm=True),
}


def make_images():
    """Noise, brighter to the left of an edge that is in each image elsewhere."""
    pixels = np.random.default_rng(0).integers(0, 128, (IMAGES, SIDE, SIDE, 3), np.uint8)
    for number, image in enumerate(pixels):
        image[:, : number * SIDE // IMAGES] += 127
    return support.make_images(
        IMAGES, size=SIDE, load=lambda index: pixels[index], fingerprint="these"
    )


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Each image's cluster."""
    directory = tmp_path_factory.mktemp("given") / "labels"
    files.write_table(directory / "labels.parquet", {"cluster": np.arange(IMAGES) // 8})
    about = artifacts.Labels(rows=IMAGES, classes=CLASSES, images="these", origin="noise")
    return support.finish(directory, about)


class Stop(signals.Notice):
    """Tells to stop after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def reached(self):
        self.left -= 1
        return self.left == 0


def make_inputs(**given):
    artifacts_ = {name: (each,) for name, each in given.items()}
    return Inputs("config.student", artifacts_, {"images": make_images()})


def run(directory, *, notice=None, given, **changes):
    """Trains, and gives back what is saved, and the metrics of the steps."""
    options = classify.Options(**{**TINY, **{name: name for name in given}, **changes})
    stage = support.make_stage(directory, options)
    stage = dataclasses.replace(stage, inputs=make_inputs(**given), notice=notice or stage.notice)
    classify.run(stage)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return (directory / "network.safetensors").read_bytes(), [json.loads(line) for line in lines]


def plan(given, **changes):
    options = classify.Options(**{**TINY, **{name: name for name in given}, **changes})
    return classify.plan(options, make_inputs(**given))


def make_options(**changes):
    return classify.Options(**{**TINY, "labels": "labels", **changes})


def test_the_average_is_saved_and_the_training_stays_what_it_is(tmp_path, labels):
    plain, before = run(tmp_path / "plain", given={"labels": labels})
    average, metrics = run(tmp_path / "average", given={"labels": labels}, ema=0.5)
    for here, there in zip(metrics, before, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
    assert average != plain
    saved = files.read_tensors(tmp_path / "average" / "network.safetensors")
    usual = files.read_tensors(tmp_path / "plain" / "network.safetensors")
    for kind, path in (("params", "kernel"), ("batch_stats", "var")):
        one, other = (
            [x for name, x in flatten(tree[kind]) if name.endswith(path)] for tree in (saved, usual)
        )
        assert all((a != b).any() for a, b in zip(one, other, strict=True))
    # Interrupted, it ends with the same bytes.
    with pytest.raises(SystemExit):
        run(tmp_path / "again", given={"labels": labels}, ema=0.5, notice=Stop(3))
    again, _ = run(tmp_path / "again", given={"labels": labels}, ema=0.5)
    assert again == average


def flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def test_a_plan_tells_of_an_average_that_is_too_long(labels):
    told = plan({"labels": labels}, ema=0.9)
    assert "saved is the average of about the last 10 steps" in told.lines
    (warning,) = told.warnings
    assert warning.startswith("config.student.ema = 0.9 averages over about 10 of 4 steps")
    assert plan({"labels": labels}, ema=0.9, steps=100).warnings == ()


@pytest.mark.parametrize("ema", [1.0, -0.1])
def test_an_average_of_no_steps_or_all_is_refused(ema):
    with pytest.raises(ValueError, match=rf"^ema = {ema}: give 0, or a number below 1"):
        make_options(ema=ema)


def test_several_crops_in_two_sizes_are_learned_and_resumed(tmp_path, labels):
    crops = {"crops": 2, "small_crops": 3, "small_size": 8}
    whole, metrics = run(tmp_path / "whole", given={"labels": labels}, **crops)
    assert len(metrics) == STEPS
    with pytest.raises(SystemExit):
        run(tmp_path / "again", given={"labels": labels}, **crops, notice=Stop(1))
    again, _ = run(tmp_path / "again", given={"labels": labels}, **crops)
    assert again == whole
    told = plan({"labels": labels}, **crops)
    assert "a step sees 2 crops of 16 px and 3 of 8 px of each image" in told.lines
    assert "GFLOP a step" in told.describe_step(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crops": 0}, r"^crops = 0: give 1 or more"),
        ({"small_crops": -1}, r"^small_crops = -1: give 0 or more"),
        ({"small_crops": 2}, r"^small_size = 0 with small_crops = 2 and size = 16: small crops "),
        ({"small_crops": 2, "small_size": 17}, r"^small_size = 17 with small_crops = 2 and size"),
        ({"small_size": 8}, r"^small_size = 8 with small_crops = 0 and size = 16"),
        ({"small_crop_area": (0.5, 0.4)}, r"^small_crop_area = \(0.5, 0.4\): give two shares"),
    ],
)
def test_crops_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        make_options(**changes)


def test_crops_of_which_a_network_leaves_nothing_are_refused(labels):
    with pytest.raises(ValueError, match=r"config\.student\.small_size = 1: .* leaves nothing of"):
        plan({"labels": labels}, small_crops=1, small_size=1)
