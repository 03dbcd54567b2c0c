"""Several classes an image: the loss, what is frozen, and the figures against scikit-learn."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import support
from sklearn.metrics import average_precision_score

from kt_jax.evaluation import backbones, starts
from kt_jax.machine import signals
from kt_jax.runs import files
from kt_jax.stages import voc07_classification
from kt_jax.training import learning
from kt_jax.training.optimizers import Optimizer

SIZE = 8
NAMES = ("blue", "green", "never", "red")
# The colour channel of each class.
CHANNELS = {0: 2, 1: 1, 3: 0}


def make_images(count, seed, **others):
    """Noise with the colours of its classes; a difficult class has none of its colour."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((count, 4)) < 0.5, 1, -1).astype(np.int8)
    labels[:, 2] = -1
    labels[rng.random((count, 4)) < 0.1] = 0
    pixels = rng.normal(100, 10, (count, SIZE, SIZE, 3))
    for place, channel in CHANNELS.items():
        pixels[labels[:, place] > 0, :, :, channel] += 60
    named = {"labels": labels, "class_names": NAMES, **others}
    return support.make_images(
        count,
        size=SIZE,
        load=lambda index: np.clip(pixels[index], 0, 255).astype(np.uint8),
        origin=f"set {seed}",
        **named,
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "network"
    architecture = {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True}
    support.make_backbone(directory, architecture, SIZE, mean=(100.0,) * 3, deviation=(50.0,) * 3)
    return support.finish(
        directory,
        dataclasses.replace(
            backbones.describe(architecture, SIZE), mean=(100.0,) * 3, deviation=(50.0,) * 3
        ),
    )


def make_stage(directory, network, seen=None, test=None, **chosen):
    common = {
        "backbones": ("network",),
        "size": SIZE - 2,
        "steps": 30,
        "batch_size": 16,
        "head": learning.Head(hidden=()),
        "optimizer": Optimizer(learning_rate=0.05, warmup=0),
        "crops": 3,
    }
    images = {
        "train_images": make_images(64, 0) if seen is None else seen,
        "test_images": make_images(21, 1) if test is None else test,
    }
    options = voc07_classification.Options(**{**common, **chosen})
    return support.make_stage(directory, options, given={"backbones": (network,)}, images=images)


def test_the_defaults_are_krahenbuhls():
    chosen = voc07_classification.Options(backbones=("x",), size=227)
    assert (chosen.steps, chosen.batch_size, chosen.crops, chosen.scales) == (
        80_000, 16, 10, (0.5, 2.0),
    )  # fmt: skip
    optimizer = chosen.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip) == (1e-3, 1e-6, 10)
    assert (optimizer.schedule, optimizer.drop_every, optimizer.drop) == ("step", 10_000, 0.5)


def test_difficult_classes_add_nothing_to_the_loss():
    logits = jnp.array([[0.0, 2.0, -1.0], [1.0, 0.0, 3.0]])
    labels = jnp.array([[1, -1, 0], [0, 0, 1]], jnp.int8)
    log = np.log1p
    expected = (log(1) + log(np.exp(2.0)) + log(np.exp(-3.0))) / 2
    value, metrics = voc07_classification.loss({"logits": logits}, labels)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert metrics["loss"] is value


def test_classes_are_learned_and_scored_as_scikit_learn_does(tmp_path, network):
    stage = make_stage(tmp_path / "voc", network)
    assert "30 steps" in voc07_classification.plan(stage.options, stage.inputs).lines[1]
    voc07_classification.run(stage)
    rows = files.read_json(stage.directory / "scores.json")["rows"]
    (area,) = rows
    assert (area["metric"], area["role"]) == ("mAP", "network")
    eleven = area["eleven_points"]
    assert eleven["interval"][0] <= eleven["value"] <= eleven["interval"][1]
    assert eleven["value"] == pytest.approx(np.mean([*eleven["classes"].values()]))
    assert (area["protocol"], area["layer"], area["n"]) == ("voc07_classification", "all", 21)
    assert area["value"] > 0.9
    assert area["interval"][0] <= area["value"] <= area["interval"][1]
    assert area["classes"].keys() == {"blue", "green", "red"}
    table = files.read_table(stage.directory / voc07_classification.CLASS_SCORES)
    tested = stage.inputs.images["test_images"].labels
    for place, column in zip((0, 1, 3), np.array(area["class_scores"])[[0, 1, 3]], strict=True):
        counted = tested[:, place] != 0
        expected = average_precision_score(tested[counted, place] > 0, table[column][counted])
        assert area["classes"][NAMES[place]] == pytest.approx(expected)
    assert area["value"] == pytest.approx(np.mean([*area["classes"].values()]))


class StopAfterTwo(signals.Notice):
    """Tells a loop to stop after its second step."""

    def reached(self):
        self._asked += 1
        return self._asked == 2


def test_a_training_that_was_stopped_resumes_with_its_frozen_part(tmp_path, network):
    whole, stopped = (
        make_stage(tmp_path / name / "voc", network, train="fc6-8", steps=4, crops=1)
        for name in ("whole", "stopped")
    )
    voc07_classification.run(whole)
    with pytest.raises(SystemExit):
        voc07_classification.run(dataclasses.replace(stopped, notice=StopAfterTwo()))
    assert not (stopped.directory / "scores.json").exists()
    assert [x.name for x in stopped.directory.glob("checkpoints/*/*")] == ["2"]
    voc07_classification.run(stopped)
    made = [
        (each.directory / voc07_classification.CLASS_SCORES).read_bytes()
        for each in (whole, stopped)
    ]
    assert made[0] == made[1]


@pytest.fixture
def begun(monkeypatch):
    """Jobs whose training is left out."""
    found = []
    monkeypatch.setattr(
        voc07_classification.transfer,
        "learn_and_test",
        lambda stage, job, *images: found.append(job) or np.zeros((21, 4), np.float32),
    )
    return found


def test_fc6_to_8_freezes_the_backbone_alone(tmp_path, network, begun):
    stage = make_stage(tmp_path / "voc", network, train="fc6-8")
    voc07_classification.run(stage)
    row = files.read_json(stage.directory / "scores.json")["rows"][0]
    assert row["layer"] == "fc6-8"
    assert "layers up to pool1 are frozen, with a new head" in row["details"]
    assert begun[0].frozen_to == "pool1"
    # Nothing told the images apart: equal scores are worth the share of positives.
    labels = stage.inputs.images["test_images"].labels
    shares = [(labels[:, place] > 0).sum() / (labels[:, place] != 0).sum() for place in (0, 1, 3)]
    assert row["value"] == pytest.approx(np.mean(shares))


def test_fc8_freezes_the_hidden_layers_that_a_network_was_learned_with(
    tmp_path, network, begun, monkeypatch
):
    stage = make_stage(tmp_path / "voc", network, train="fc8")
    with pytest.raises(ValueError, match="train = 'fc8', but 'network' was trained without fully"):
        voc07_classification.run(stage)
    kernels = {("hidden", n, "linear", "kernel"): np.zeros((6, 6)) for n in range(2)}

    def own(*_, **__):
        return starts.Start("network", network.about, kernels)

    monkeypatch.setattr(starts, "open_start", own)
    voc07_classification.run(stage)
    assert (begun[0].frozen_to, begun[0].head.hidden) == ("fc7", (6, 6))


def test_rare_classes_may_be_left_out(tmp_path, network, begun):
    test = make_images(21, 1)
    test.labels[2:, 0] = -1
    stage = make_stage(tmp_path / "voc", network, test=test, least_positives=5)
    voc07_classification.run(stage)
    row = files.read_json(stage.directory / "scores.json")["rows"][0]
    assert row["classes"].keys() == {"green", "red"}
    assert "the mean is over classes with 5 test images or more" in row["details"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seen": make_images(6, 0, labels=None)}, "train_images: set 0 has no labels"),
        (
            {"test": make_images(6, 1, labels=np.zeros(6, np.int32))},
            "test_images: set 1 has one class per image: the kinds fine_tune and nonlinear",
        ),
        (
            {"least_positives": 50},
            r"least_positives = 50, but no class of set 1 has more than \d+ ",
        ),
    ],
)
def test_labels_that_are_not_of_several_classes_are_refused(tmp_path, network, changes, words):
    stage = make_stage(tmp_path / "voc", network, **changes)
    with pytest.raises(ValueError, match=words):
        voc07_classification.plan(stage.options, stage.inputs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": "fc7"}, "train = 'fc7': choose one of all, fc6-8, fc8"),
        ({"scales": (2.0, 0.5)}, "scales = "),
        ({"crops": 0}, "crops = 0: give 1 or more"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        voc07_classification.Options(backbones=("x",), size=8, **changes)
