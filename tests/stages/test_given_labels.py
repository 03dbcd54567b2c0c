"""Labels of somebody else: a list for Caffe finds its images, and a student learns it."""

import numpy as np
import pytest
import support

import kt_jax
from kt_jax.runs import files
from kt_jax.stages import given_labels

KEYS = ("n01/a b.jpg", "n01/c.jpg", "n02/d.jpg")


def make_stage(tmp_path, text, keys=KEYS):
    path = tmp_path / "list.txt"
    path.write_text(text)
    images = support.make_images(len(keys), size=8, keys=keys, origin="photos", fingerprint="f")
    options = given_labels.Options(labels=str(path))
    return support.make_stage(tmp_path / "labels", options, images={"images": images})


@pytest.mark.parametrize(
    "text",
    [
        "n02/d.jpg 4\nn01/a b.jpg 0\nn03/other.jpg 9\n\nn01/c.jpg 2\n",
        "train/n02/d.jpg\t4\r\ntrain/n01/a b.jpg  0\ntrain/n01/c.jpg 2",
        "/data/train/n02/d.jpg 4\n/data/train/n01/a b.jpg 0\n/data/train/n01/c.jpg 2",
        "d.jpg 4\na b.jpg 0\nc.jpg 000000000002\n",
    ],
    ids=["keys", "a folder", "two folders", "file names"],
)
def test_each_image_gets_its_label(tmp_path, text):
    stage = make_stage(tmp_path, text)
    assert given_labels.plan(stage.options, stage.inputs).about.rows == 3
    about, _ = given_labels.run(stage)
    assert (about.rows, about.classes, about.images) == (3, 5, "f")
    table = files.read_table(tmp_path / "labels" / "labels.parquet")
    assert table["key"].tolist() == list(KEYS)
    assert table["cluster"].tolist() == [0, 2, 4]
    assert table["index"].tolist() == [0, 1, 2]
    assert np.isnan(table["distance"]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"labels.labels = .*list.txt has no lines"),
        (
            "n01/c.jpg 2\nn02/d.jpg -1\n",
            r"line 2: 'n02/d.jpg -1' is not \"PATH LABEL\" with a label",
        ),
        ("n01/c.jpg\n", r"line 1: 'n01/c.jpg' is not"),
        ("n01/c.jpg 2\nn02/d.jpg 4\n", r"has no rows for 1 of the 3 images of photos, such as n01"),
        (
            "n09/a b.jpg 0\nn01/c.jpg 2\nn02/d.jpg 4\n",
            r"no rows for 1 of the 3 images of photos, such as n01/a b.jpg; its keys look like n09",
        ),
        ("n01/c.jpg 1\nn02/d.jpg 10000001\n", r"list.txt, line 2: the label is above 10000000"),
        ("n01/c.jpg 99999999999\n", r"list.txt, line 1: the label is above 10000000"),
        ("".join(f"{key} 1\n" for key in (*KEYS, KEYS[0])), r"several rows of 'n01/a b.jpg'"),
    ],
    ids=["empty", "negative", "no label", "lacking", "another folder", "large", "huge", "twice"],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text, words):
    stage = make_stage(tmp_path, text)
    with pytest.raises(ValueError, match=words):
        given_labels.plan(stage.options, stage.inputs)


@pytest.mark.parametrize("text", ["x/a.jpg 1\ny/a.jpg 2\n", "a.jpg 1\n"])
def test_file_names_that_two_images_share_are_no_keys(tmp_path, text):
    stage = make_stage(tmp_path, text, keys=("n/a.jpg", "m/a.jpg"))
    with pytest.raises(ValueError, match="has no rows for 2 of the 2 images"):
        given_labels.plan(stage.options, stage.inputs)


def test_no_list_is_named(tmp_path):
    stage = make_stage(tmp_path, "")
    for options, kind, words in (
        (given_labels.Options(), ValueError, "labels.labels is missing: name a text file"),
        (given_labels.Options(labels="gone.txt"), FileNotFoundError, "there is no file gone.txt"),
    ):
        with pytest.raises(kind, match=words):
            given_labels.plan(options, stage.inputs)


def test_a_student_learns_them(tmp_path):
    images = {"source": "photographs", "views_per_photograph": 8, "size": 24}
    keys = kt_jax.data.open_images(**images).keys
    lines = (f"{key} {number % 3}\n" for number, key in enumerate(keys))
    (tmp_path / "list.txt").write_text("".join(lines))
    small = {"name": "alexnet", "channels": (8,) * 5, "batch_norm": True}
    config = {
        "images": {"train": images},
        "labels": {"kind": "given_labels", "labels": str(tmp_path / "list.txt")},
        "student": {
            "kind": "classify", "labels": "labels", "size": 24, "steps": 2, "batch_size": 16,
            "backbone": small, "head": {"hidden": (8,)},
        },
        "report": {"kind": "report", "images": "train"},
    }  # fmt: skip
    kt_jax.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "student" / "network.safetensors").exists()
    assert (tmp_path / "run" / "report" / "index.html").exists()
