"""The figure of every protocol is a test accuracy of the features that it names."""

import dataclasses
import types

import numpy as np
import pytest
import support

from kt_jax.evaluation import few_shot, linear, linear_sgd, neighbours, protocol, subjects
from kt_jax.runs import artifacts, files
from kt_jax.stages import few_shot as few_shot_stage
from kt_jax.stages import knn, retrieval
from kt_jax.stages import linear as linear_stage
from kt_jax.stages import linear_sgd as linear_sgd_stage

COLOURS = np.diag([80, 80, 80])
KINDS = {
    "linear": (linear_stage, linear.Options, {}),
    "linear_sgd": (linear_sgd_stage, linear_sgd.Options, {"epochs": 16}),
    "knn": (knn, neighbours.Options, {"k": 5, "whiten": 3}),
    "retrieval": (retrieval, neighbours.Options, {"k": 3, "whiten": 0}),
    "few_shot": (few_shot_stage, few_shot.Options, {"per_class": (4,), "shares": (), "draws": 2}),
}


def make_images(labels):
    """Noise whose colour says its class, in the order of the labels."""
    rng = np.random.default_rng(len(labels))
    pixels = rng.normal(100, 10, (len(labels), 8, 8, 3)) + COLOURS[labels][:, None, None]
    return support.make_images(
        len(labels),
        size=8,
        load=lambda index: np.clip(pixels[index], 0, 255).astype(np.uint8),
        labels=labels.astype(np.int32),
        class_names=("a", "b", "c"),
    )


def make_stage(directory, options, *, shuffled=False, given=None):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    images = {"train_images": make_images(labels), "test_images": make_images(labels[:50])}
    if shuffled:
        train = images["train_images"]
        shuffled_labels = rng.permutation(train.labels)
        images["train_images"] = dataclasses.replace(train, labels=shuffled_labels)
    given = {"backbones": (), **(given or {})}
    return support.make_stage(directory, options, given=given, images=images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shuffled", "least", "most"), [(False, 0.9, 1.0), (True, 0.0, 0.62)])
def test_pixels_tell_colours_apart_and_nothing_else(
    tmp_path, monkeypatch, kind, shuffled, least, most
):
    monkeypatch.setattr(subjects, "BASELINES", ("pixels",))  # HOG has 2,148 numbers: seconds
    module, make_options, others = KINDS[kind]
    options = make_options(backbones=(), size=8, batch_size=16, max_dims=192, **others)
    stage = make_stage(tmp_path / "scores", options, shuffled=shuffled)
    about, _ = module.run(stage)
    assert about == artifacts.Scores(("pixels",))
    rows = files.read_json(tmp_path / "scores" / "scores.json")["rows"]
    assert {row["subject"] for row in rows} == {"pixels"}
    table = files.read_table(tmp_path / "scores" / "predictions.parquet")
    for row in rows:
        assert row["protocol"] == kind
        assert row["n"] == 50
        assert least <= row["value"] <= most
        right = np.mean([table[name] == table["label"] for name in row["columns"]])
        assert row["value"] == pytest.approx(right)
    # Kept: an interrupted stage does not do it again.
    for path in (tmp_path / "scores" / "cache").iterdir():
        kept = files.read_json(path)
        files.write_json(path, [{**each, "details": "kept"} for each in kept])
    module.run(stage)
    again = files.read_json(tmp_path / "scores" / "scores.json")["rows"]
    assert {row["details"] for row in again} == {"kept"}


def test_no_test_image_chooses_the_layer(tmp_path):
    """A network's layers differ on held-out images; the test labels are turned round."""
    architecture = {"name": "alexnet", "channels": (4, 4, 4, 4, 4), "batch_norm": True}
    support.make_backbone(tmp_path / "net", architecture, 32)
    backbone = artifacts.open_artifact(tmp_path / "net", name="net", reader="a test")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(60, dtype=np.int32) % 3
    pixels[:, :16] //= (1 + labels[:, None, None, None]).astype(np.uint8)

    def measure(tested, name):
        shown = {"load": pixels.__getitem__, "class_names": ("a", "b", "c")}
        images = {
            "train_images": support.make_images(60, size=32, labels=labels, **shown),
            "test_images": support.make_images(60, size=32, labels=tested, **shown),
        }
        options = linear.Options(backbones=("net",), size=32, batch_size=20, max_dims=16)
        given = {"backbones": (backbone,)}
        stage = support.make_stage(tmp_path / name, options, given=given, images=images)
        subject = subjects.make_subject(stage, "net", seed=0)
        assert subject.layers == ("conv1", "conv2", "conv3", "conv4", "conv5")
        return linear.measure(stage, subject, 0)

    rows, turned = measure(labels, "right"), measure((labels + 1) % 3, "turned")
    assert sum(row["chosen"] for row in rows) == 1
    assert next(r for r in rows if r["chosen"])["held_out"] == max(r["held_out"] for r in rows)
    for row, other in zip(rows, turned, strict=True):
        same = ("layer", "chosen", "held_out", "penalty")
        assert [row[name] for name in same] == [other[name] for name in same]
        np.testing.assert_array_equal(row["predictions"][0], other["predictions"][0])


def test_a_random_network_gets_the_statistics_of_the_training_images(tmp_path):
    architecture = {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True}
    support.make_backbone(tmp_path / "net", architecture, 8)
    backbone = artifacts.open_artifact(tmp_path / "net", name="random:net", reader="a test")
    options = linear.Options(backbones=("random:net",), size=8, batch_size=16)
    random = dataclasses.replace(backbone, is_random=True)
    stage = make_stage(tmp_path / "scores", options, given={"backbones": (random,)})
    assert subjects.names(stage.inputs)["random:net"] == "random"
    subject = subjects.make_subject(stage, "random:net", seed=1)
    rows = subjects.collect(subject, "train", range(96), [subjects.views.View()])["conv1_1"]
    maps = rows.reshape(96, -1, 4)
    # Behind the ReLU of a normalised layer half of the numbers would be zero, before the maxima.
    assert maps.shape == (96, 36, 4)
    assert 0.2 < maps.mean() < 1.5


def test_given_features_are_rows_of_the_images_that_are_asked_for(tmp_path):
    matrices = {}
    for name, rows in (("train", 96), ("test", 50)):
        matrices[name] = np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float16)
        files.write_array(tmp_path / name / "features-00000-of-00001.npy", matrices[name])
        about = artifacts.Features(rows, 6, "given", 0, 0, None)
        support.finish(tmp_path / name, about)
    pair = [
        artifacts.open_artifact(tmp_path / name, name=name, reader="a test") for name in matrices
    ]
    given = {"train_features": (pair[0],), "test_features": (pair[1],)}
    options = linear.Options(backbones=(), size=8, batch_size=16)
    stage = make_stage(tmp_path / "scores", options, given=given)
    subject = subjects.make_subject(stage, "train", seed=0)
    some = [5, 90, 2, *range(30, 60)]
    found = subjects.collect(subject, "train", some, [subjects.views.View()])["given"]
    np.testing.assert_array_equal(found, matrices["train"][some].astype(np.float32))
    found = subjects.collect(subject, "test", [3], [subjects.views.View()])["given"]
    np.testing.assert_array_equal(found, matrices["test"][[3]].astype(np.float32))


def test_neighbours_are_the_nearest(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    generator = np.random.default_rng(0)
    queries, rows = (generator.normal(size=(n, 5)).astype(np.float32) for n in (18, 30))
    cosines, index = neighbours.find_neighbours(queries, rows, 9)
    products = queries @ rows.T
    np.testing.assert_array_equal(index, np.argsort(-products, axis=1)[:, :9])
    np.testing.assert_allclose(cosines, np.take_along_axis(products, index, 1), rtol=1e-5)
    assert neighbours.find_neighbours(queries, rows[:3], 9)[1].shape == (18, 3)


def test_few_labels_are_skipped_where_no_amount_can_be_measured(tmp_path):
    options = few_shot.Options(backbones=(), size=8, per_class=(4, 400), shares=(), most_rows=5)
    about, facts = few_shot_stage.run(make_stage(tmp_path / "scores", options))
    assert (
        facts["skipped"]
        == about.skipped
        == (
            "4 a class: 12 images are more than most_rows = 5; "
            "400 a class: these are all training images: see the kind linear"
        )
    )
    assert files.read_json(tmp_path / "scores" / "scores.json")["rows"] == []


def test_held_out_images_are_a_tenth_of_every_class():
    labels = np.repeat([0, 1, 2], [40, 5, 1])
    fit, held_out = protocol.hold_out(labels, 0)
    assert sorted(fit + held_out) == list(range(46))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [4, 1, 0]
    assert protocol.hold_out(labels, 1)[1] != held_out


def test_larger_amounts_of_labels_hold_the_smaller_ones():
    options = few_shot.Options(
        backbones=(), size=8, per_class=(2, 5, 50), shares=(0.2,), draws=2, most_rows=60
    )
    labels = np.arange(200) % 4
    drawn = dict(few_shot._draw(options, labels, 0))
    assert [*drawn] == ["2 a class", "5 a class", "20 % of each class"]
    for small, large in zip(drawn["2 a class"], drawn["5 a class"], strict=True):
        assert set(small) < set(large)
        assert np.bincount(labels[large]).tolist() == [5] * 4
    assert set(drawn["2 a class"][0]) != set(drawn["2 a class"][1])


def test_features_beyond_float16_are_refused_before_they_are_kept(untyped, tmp_path):
    def see(split, places, shown):
        batch = {"index": np.arange(4), "mask": np.arange(4) < 3}
        yield batch, [{"conv5": np.array([[1.0], [2.0], [70_000.0], [0.0]], np.float32)}]

    subject = types.SimpleNamespace(name="network", layers=("conv5",), see=see)
    stage = make_stage(tmp_path / "scores", linear_sgd.Options(backbones=(), size=8))
    with pytest.raises(ValueError, match="layer 'conv5' exceeds the range of float16"):
        linear_sgd._cache(stage, subject, "test", 3, tmp_path, (None,))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (linear.Options, {"test_views": 3}, "test_views = 3: choose from 1, 2, 10"),
        (neighbours.Options, {"k": 0}, "k = 0: give 1 or more"),
        (neighbours.Options, {"whiten": -1}, "whiten = -1: give 0 or more"),
        (few_shot.Options, {"per_class": (0,)}, r"per_class = \(0,\): give 1 or more"),
        (few_shot.Options, {"shares": (1.5,)}, "give shares above 0, up to 1"),
        (few_shot.Options, {"per_class": (), "shares": ()}, "give an amount of labels"),
        (linear_sgd.Options, {"epochs": 0}, "epochs = 0: give 1 or more"),
        (linear.Options, {"max_dims": 0}, "max_dims = 0: give 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(backbones=(), size=8, **options)
