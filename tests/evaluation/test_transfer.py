"""Evaluations that train: what is frozen, what begins anew, what is kept and what is refused."""

import dataclasses

import numpy as np
import pytest
import support

from kt_jax import training
from kt_jax.evaluation import backbones, freezing, starts, transfer
from kt_jax.runs import files
from kt_jax.stages import fine_tune, nonlinear
from kt_jax.training import learning, optimizers
from kt_jax.training.optimizers import Optimizer

SIZE = 8
ARCHITECTURE = {"name": "vgg", "channels": (4, 8), "convs": (1, 1), "batch_norm": True}
COLOURS = np.diag([90, 90, 90])
COMMON = {
    "backbones": ("network",),
    "size": SIZE,
    "steps": 2,
    "batch_size": 8,
    "head": learning.Head(hidden=(8,), batch_norm=True, dropout=0.0),
    "optimizer": Optimizer(learning_rate=0.1, warmup=0),
}


def make_images(count, seed, **others):
    """Noise whose colour says its class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = rng.normal(100, 10, (count, SIZE, SIZE, 3)) + COLOURS[labels][:, None, None]
    named = {"labels": labels.astype(np.int32), "class_names": ("a", "b", "c"), **others}
    return support.make_images(
        count,
        size=SIZE,
        load=lambda index: np.clip(pixels[index], 0, 255).astype(np.uint8),
        origin=f"set {seed}",
        **named,
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A student of an AlexNet-like kind: a backbone and a hidden layer."""
    directory = tmp_path_factory.mktemp("run") / "network"
    support.make_backbone(directory, ARCHITECTURE, SIZE)
    about = backbones.describe(ARCHITECTURE, SIZE)
    model = transfer.make_network(about, COMMON["head"], size=SIZE, classes=5)
    params, batch_stats = training.init_variables(model, 7)
    given = backbones.load_backbone(directory, about)
    params["backbone"], batch_stats["backbone"] = given.params, given.batch_stats
    (directory / "manifest.json").unlink()
    backbones.save_network(directory, about, params, batch_stats)
    return support.finish(directory, about)


def make_stage(directory, network, module, train=None, test=None, given=None, **chosen):
    options = module.Options(**{**COMMON, **chosen})
    images = {
        "train_images": make_images(24, 0) if train is None else train,
        "test_images": make_images(10, 1) if test is None else test,
    }
    return support.make_stage(
        directory, options, given={"backbones": given or (network,)}, images=images, seed=3
    )


def run(stage, module):
    module.plan(stage.options, stage.inputs)
    about, _ = module.run(stage)
    return about, files.read_json(stage.directory / "scores.json")["rows"]


def test_colours_are_learned_and_each_figure_says_how(tmp_path, network):
    stage = make_stage(tmp_path / "tuned", network, fine_tune, steps=12, views=2)
    about, rows = run(stage, fine_tune)
    assert about.subjects == ("network",)
    (row,) = rows
    assert row["subject"] == "network"
    assert (row["protocol"], row["version"], row["layer"], row["n"]) == ("fine_tune", 1, "all", 10)
    assert row["value"] == 1.0
    assert row["interval"] == [1.0, 1.0]
    assert "12 steps of 8 random square crops" in row["details"]
    assert "testing on the centre view and its mirror image" in row["details"]
    predictions = files.read_table(stage.directory / "predictions.parquet")
    (column,) = row["columns"]
    assert predictions[column].tolist() == predictions["label"].tolist() == [0, 1, 2] * 3 + [0]
    assert predictions[column].dtype == np.int32
    # All of it resumes from what is kept: nothing is trained again.
    kept = {path: path.stat().st_mtime_ns for path in (stage.directory / "cache").glob("*.npy")}
    assert len(kept) == 1
    assert run(stage, fine_tune)[1] == rows
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert not list((stage.directory / "checkpoints").iterdir())


@pytest.fixture
def begun(monkeypatch):
    """The arrays that trainings begin from; nothing is trained (test_freezing.py does)."""
    found = []

    def learn(stage, task):
        steps, size = task.options.steps, task.options.batch_size
        optimizer = optimizers.make_optimizer(task.options.optimizer, steps=steps, batch_size=size)
        new = training.init_state(task.make_model, optimizer, seed=task.seed, mesh=stage.mesh)
        found.append((arrays(new), arrays(state := task.begin(new))))
        return state

    monkeypatch.setattr(learning, "learn", learn)
    return found


def arrays(state):
    flat = freezing.flatten(state.params) | freezing.flatten(state.batch_stats)
    return {path: np.array(x) for path, x in flat.items()}


def equal(some, others):
    return {path for path in some if np.array_equal(some[path], others[path])}


def given_arrays(stage, network):
    return starts.open_start(stage, network, {}, seed=0, calibrated_on=None).arrays


def test_what_a_frozen_layer_needs_is_the_networks_and_the_rest_is_new(tmp_path, network, begun):
    stage = make_stage(tmp_path / "probe", network, nonlinear, layers=("conv1_1", "fc6"))
    rows = run(stage, nonlinear)[1]
    assert [row["layer"] for row in rows] == ["conv1_1", "fc6"]
    given = given_arrays(stage, network)
    first = {path for path in given if path[:4] == ("backbone", "blocks", 0, 0)}
    assert len(first) == 6
    for frozen, (new, state) in zip((first, given.keys()), begun, strict=True):
        assert {path: state[path] for path in frozen}.keys() <= equal(given, state)
        rest = state.keys() - frozen
        assert rest == {path for path in rest if path in equal(new, state)}
        assert ("output", "kernel") in rest


def test_fine_tuning_begins_from_all_of_the_backbone_and_a_new_head(tmp_path, network, begun):
    stage = make_stage(tmp_path / "tuned", network, fine_tune)
    run(stage, fine_tune)
    ((new, state),) = begun
    given = given_arrays(stage, network)
    assert equal(given, state) >= {path for path in given if path[0] == "backbone"}
    assert equal(new, state) >= {path for path in state if path[0] != "backbone"}
    assert ("hidden", 0, "linear", "kernel") not in equal(given, state)


def test_a_random_network_gets_the_statistics_of_the_images(tmp_path, network, begun):
    random = dataclasses.replace(network, name="random:network", is_random=True)
    stage = make_stage(tmp_path / "probe", network, nonlinear, given=(random,), layers=("conv2_1",))
    (row,) = run(stage, nonlinear)[1]
    assert row["details"].startswith("layers up to the named one are frozen, later ")
    assert "batch norm statistics are measured on the training images" in row["details"]
    assert row["role"] == "random"
    ((new, state),) = begun
    place = ("backbone", "blocks", 1, 0, "norm", "var")
    assert np.ptp(new[place]) == 0
    assert np.ptp(state[place]) > 0


def test_weights_of_a_larger_stride_are_used_with_another(tmp_path):
    architecture = {
        "name": "alexnet", "channels": (4,) * 5, "stem_kernel": 3, "stem_stride": 1,
        "batch_norm": True,
    }  # fmt: skip
    about = backbones.describe(architecture, 16)
    changed = starts.override(about, {"stem_stride": 2})
    assert changed.architecture["stem_stride"] == 2
    assert starts.describe_changes(about, {"stem_stride": 2}) == (
        "options changed after pre-training: stem_stride 1 -> 2"
    )
    with pytest.raises(ValueError, match=r"backbone = \{'stem_kernel': 5\} changes the shapes"):
        starts.override(about, {"stem_kernel": 5})
    with pytest.raises(ValueError, match=r"backbone.stride: the architecture alexnet does not"):
        starts.override(about, {"stride": 2})


@pytest.mark.parametrize(
    ("module", "changes", "words"),
    [
        (
            fine_tune,
            {"train": make_images(6, 0, labels=None)},
            r"train_images: set 0 has no labels",
        ),
        (
            fine_tune,
            {"test": make_images(6, 1, labels=np.ones((6, 3), np.int8))},
            r"test_images: set 1 is multi-label: the kind voc07_classification",
        ),
        (fine_tune, {"train": make_images(6, 0, class_names=("a",))}, "has only one class"),
        (
            fine_tune,
            {"test": make_images(6, 1, class_names=("a", "b", "d"))},
            r"\(set 0\) has the classes \('a', 'b', 'c'\)..., test_images \(set 1\) has",
        ),
        (fine_tune, {"size": 16}, "decoded to 8 px, but 16 px are needed"),
        (fine_tune, {"backbone": {"stem": 2}}, "'network': backbone.stem: the architecture vgg"),
        (
            nonlinear,
            {"layers": ("conv1_1", "conv9")},
            r"config.stage \('network'\) names 'conv9', which the vgg does not have",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_learned(
    tmp_path, network, module, changes, words
):
    stage = make_stage(tmp_path / "stage", network, module, **changes)
    with pytest.raises(ValueError, match=words):
        module.plan(stage.options, stage.inputs)


def test_no_networks_are_refused(tmp_path, network):
    stage = make_stage(tmp_path / "stage", network, fine_tune)
    inputs = dataclasses.replace(stage.inputs, artifacts={"backbones": ()})
    with pytest.raises(ValueError, match=r"config\.stage\.backbones is empty: name one or more"):
        fine_tune.plan(stage.options, inputs)


def test_a_hidden_layer_that_the_network_has_not_is_refused(tmp_path, network):
    stage = make_stage(tmp_path / "stage", network, nonlinear, layers=("fc7",))
    with pytest.raises(ValueError, match="layers names 'fc7', but 'network' was trained with fc6"):
        nonlinear.run(stage)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"size": 0}, "size = 0: give 1 or more"),
        ({"crop_area": (0.5, 1.5)}, "crop_area = "),
        ({"views": 3}, "views = 3: choose from 1, 2, 10"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        fine_tune.Options(**{**COMMON, **changes})
