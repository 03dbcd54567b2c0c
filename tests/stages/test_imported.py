"""Weights of others stand where a teacher of ours would."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pth
import pytest

import kt_jax
from kt_jax import data, models, training
from kt_jax.evaluation import backbones
from kt_jax.models import torch_names
from kt_jax.runs import files, pipeline, stage
from kt_jax.stages import imported

TEACHER = {"name": "vgg", "channels": (4, 8), "convs": (1, 1), "batch_norm": True}
MEAN, DEVIATION = (120.0, 115.0, 100.0), (58.0, 57.0, 56.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a small VGG with a head, and the network."""
    path = tmp_path_factory.mktemp("weights") / "vgg.pth"
    network = backbones.random_backbone(backbones.describe(TEACHER, 48), seed=3)
    tensors = torch_names.to_torch(TEACHER, network.params, network.batch_stats)
    head = {"classifier.0.weight": np.zeros((10, 8), np.float32)}
    named = {f"module.{name}": x for name, x in (tensors | head).items()}
    pth.write(path, named, nest=lambda state: pth.mapping({"state_dict": state}))
    return path, network


def make_config(path, **options):
    """The tiny quickstart with another teacher."""
    config = kt_jax.load_config("quickstart.py:tiny")
    with config.unlocked():
        config.pretext = {
            "kind": "import",
            "weights": str(path),
            "backbone": TEACHER,
            "size": 48,
            "mean": MEAN,
            "deviation": DEVIATION,
            **options,
        }
        config.features.layer = "conv2_1"
        config.stages = tuple(name for name in config.stages if name != "student")
        config.probe.backbones = ("pretext", "random:pretext")
        del config.student
    return config


@pytest.fixture(scope="module")
def workdir(weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    kt_jax.run(make_config(weights[0]), workdir)
    return workdir


def test_features_are_those_of_the_network(weights, workdir):
    about = json.loads((workdir / "pretext" / "backbone.json").read_text())
    assert (about["mean"], about["deviation"]) == (list(MEAN), list(DEVIATION))
    assert not (workdir / "pretext" / "images.parquet").exists()
    images = data.open_images(**make_config(weights[0]).images.train.to_dict())
    # By hand: the network, and the pixels as it wants them.
    graphdef = training.structure(
        lambda rngs: models.make_backbone(size=48, rngs=rngs, **TEACHER), training=False
    )
    network = training.bind(graphdef, weights[1].params, weights[1].batch_stats)
    pixels = np.stack([images[index] for index in range(8)]).astype(np.float32)
    view = jnp.asarray((pixels - np.float32(MEAN)) / np.float32(DEVIATION))
    expected = np.asarray(models.pool(network(view)["conv2_1"], 4)).reshape(8, -1)
    found = np.load(workdir / "features" / "features-00000-of-00001.npy")[:8]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_all_that_reads_a_teacher_reads_it(workdir):
    scores = files.read_json(workdir / "probe" / "scores.json")
    subjects = {"pixels", "hog_colour", "pretext", "random:pretext"}
    assert {row["subject"] for row in scores["rows"]} == subjects
    # From what the teacher learned is not known.
    assert [each["training"] for each in scores["leakage"]] == ["probe train_images"]
    assert scores["unknown"] == ["pretext"]
    page = (workdir / "report" / "index.html").read_text()
    assert "It is not known which images pretext learned from" in page
    assert len(files.read_table(workdir / "pseudo_labels" / "labels.parquet")["cluster"]) == 48


def test_another_file_is_another_teacher(weights, workdir, tmp_path):
    path, network = weights
    tensors = torch_names.to_torch(TEACHER, network.params, network.batch_stats)
    pth.write(tmp_path / "same.pth", {f"module.{name}": x for name, x in tensors.items()})
    with pytest.raises(ValueError, match=r"config\.pretext\.weights"):
        pipeline.run(make_config(tmp_path / "same.pth"), workdir)
    moved = tmp_path / "moved.pth"
    moved.write_bytes(path.read_bytes())
    pipeline.run(make_config(moved), workdir)  # the content counts, not the place


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ""}, r"config\.pretext\.weights is missing: name a file, \.safetensors or"),
        ({"weights": "no.pth"}, r"config\.pretext\.weights: there is no file no\.pth"),
        ({"weights": __file__}, r"config\.pretext\.weights: .* cannot be read as tensors of PyTo"),
        (
            {"backbone": {**TEACHER, "convs": (1, 2)}},
            r"vgg\.pth: the tensors .* of a vgg .* missing",
        ),
        (
            {"backbone": {"name": "resnet18"}},
            r"vgg\.pth: it has no resnet18, whose tensors are conv1\.w",
        ),
        (
            {"mean": (1.0, 2.0)},
            r"config\.pretext\.mean = \(1\.0, 2\.0\), deviation = .*: give three",
        ),
        ({"deviation": (1.0, 0.0, 1.0)}, r"config\.pretext\.deviation = .*: give numbers above 0"),
        ({"size": 0}, r"config\.pretext\.size = 0: give 1 or more"),
        ({"prefix": "encoder"}, r"it has no vgg, whose tensors are"),
    ],
)
def test_what_cannot_be_imported_is_found_in_the_plan(weights, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        pipeline.run(make_config(weights[0], **options), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "pretext").exists()


def test_the_first_layers_are_the_published_ones_whatever_the_size():
    options = imported.Options(weights="w.pth", backbone={"name": "resnet18"}, size=32)
    assert options.backbone == {"name": "resnet18", "stem": 4}


def test_the_config_in_the_docs_loads(tmp_path):
    text = (Path(__file__).parents[2] / "docs/teachers.md").read_text()
    source, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "teacher.py").write_text(source)
    config = kt_jax.load_config(f"{tmp_path}/teacher.py:resnet50.pth,/some/images")
    assert config.pretext.kind == "import"
    assert config.pretext.size == config.features.size == config.student.size == 224
    assert config.images.train.size == 256


def test_without_mean_and_deviation_images_are_standardised():
    options = imported.Options(
        weights="w.pth", backbone={"name": "vgg11", "width": 0.0625}, size=32, mean=(), deviation=()
    )
    about = imported._describe(options, "")
    assert (about.preprocessing, about.mean) == ("per-image standardisation", ())


def test_the_plan_says_how_many_heads(tmp_path):
    vit = {"name": "vit_s", "heads": 2, "head_dim": 4, "depth": 1, "patch": 8}
    network = backbones.random_backbone(backbones.describe(vit, 16), seed=0)
    path = tmp_path / "vit.safetensors"
    files.write_tensors(path, torch_names.to_torch(vit, network.params, network.batch_stats))
    for heads, head_dim in ((2, 4), (4, 2)):
        backbone = {**vit, "heads": heads, "head_dim": head_dim}
        options = imported.Options(weights=str(path), backbone=backbone, size=16)
        (line,) = imported.plan(options, stage.Inputs("config.pretext", {}, {})).lines
        assert f"{heads} heads of {head_dim} channels" in line
