"""Controls: a student learns true labels or random ones in the place of pseudo-labels."""

import numpy as np
import pytest
import support

from kt_jax.runs import files
from kt_jax.runs.stage import Inputs
from kt_jax.stages import classify, control_labels

LABELS = np.array([0, 2, 1, 1, 0, 2], np.int32)


def make_stage(directory, *, labels=LABELS, class_names=("a", "b", "c"), seed=0, **chosen):
    images = support.make_images(
        len(LABELS), size=8, labels=labels, class_names=class_names, origin="here", fingerprint="f"
    )
    options = control_labels.Options(**chosen)
    return support.make_stage(directory, options, images={"images": images}, seed=seed)


def labels_of(stage):
    plan = control_labels.plan(stage.options, stage.inputs)
    about, facts = control_labels.run(stage)
    assert plan.about == about
    assert about.images == "f"
    table = files.read_table(stage.directory / "labels.parquet")
    assert np.isnan(table["distance"]).all()
    return table["cluster"], about, facts


def test_the_classes_of_the_images_are_the_labels(tmp_path):
    labels, about, facts = labels_of(make_stage(tmp_path / "labels"))
    assert labels.tolist() == LABELS.tolist()
    assert (about.classes, about.origin) == (3, "here (true labels)")
    assert facts["labels"] == "true labels"


def test_random_labels_are_drawn_by_the_seed(tmp_path):
    first, about, facts = labels_of(make_stage(tmp_path / "a", of="random", k=5))
    again, *_ = labels_of(make_stage(tmp_path / "b", of="random", k=5, labels=None))
    other, *_ = labels_of(make_stage(tmp_path / "c", of="random", k=5, seed=1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert (about.classes, about.origin) == (5, "here (random labels)")
    assert facts["labels"] == "random labels"
    assert set(first) <= set(range(5))


def test_random_labels_are_equally_frequent():
    drawn = np.bincount(control_labels._draw(10_000, 10, seed=0), minlength=10)
    assert np.abs(drawn - 1000).max() < 150  # five deviations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, r"config.labels.images: here has no labels: .* say of = 'random'"),
        ({"labels": np.ones((6, 3), np.int8)}, "here has several labels per image"),
        ({"class_names": ("a",)}, "here has only one class"),
    ],
)
def test_images_without_one_class_each_are_refused(tmp_path, changes, words):
    stage = make_stage(tmp_path / "labels", **changes)
    with pytest.raises(ValueError, match=words):
        control_labels.plan(stage.options, stage.inputs)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"of": "truth"}, "of = 'truth': choose one of classes, random"),
        ({"of": "random"}, "k = 0: give the number of random labels, 2 or more"),
        ({"k": 5}, "k = 5 with of = 'classes'"),
    ],
)
def test_options_that_do_not_fit_are_refused(chosen, words):
    with pytest.raises(ValueError, match=words):
        control_labels.Options(**chosen)


def test_a_student_may_learn_them(tmp_path):
    stage = make_stage(tmp_path / "labels")
    about, _ = control_labels.run(stage)
    labels = support.finish(stage.directory, about)
    inputs = Inputs("config.student", {"labels": (labels,)}, stage.inputs.images)
    chosen = classify.Options(
        labels="labels",
        size=8,
        steps=1,
        batch_size=4,
        backbone={"name": "vgg", "channels": (4,), "convs": (1,)},
        head=classify.Head(hidden=()),
    )
    lines = classify.plan(chosen, inputs).lines
    assert "6 images, 3 pseudo-labels" in lines[1]
