"""Every config that ships loads, and its networks have shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import kt_jax
from kt_jax import data
from kt_jax.evaluation import backbones
from kt_jax.runs import artifacts, order
from kt_jax.stages import features, pretext, probe, student

CONFIGS = [
    "configs/quickstart.py",
    "configs/quickstart.py:tiny",
    "configs/jigsawpp.py",
    "configs/jigsawpp.py:tiny",
    "configs/folder.py:/some/images",
    "configs/folder.py:/some/images,tiny",
    "configs/folder.py:/some/images,full",
    "configs/imagenette.py:/some/imagenette2_128.zip",
]


def make_images(config, count=2500):
    """Sources of the config's names and sizes, of which nobody looks at the pixels."""
    return {
        name: data.Images(
            keys=tuple(str(number) for number in range(count)),
            labels=np.zeros(count, np.int32),
            class_names=("one", "two"),
            size=config.images[name].size,
            excluded=(),
            origin=name,
            fingerprint="",
            load=lambda index: np.zeros((1, 1, 3), np.uint8),
        )
        for name in config.images
    }


@pytest.mark.parametrize("path", CONFIGS)
def test_every_stage_can_be_planned(path):
    config = kt_jax.load_config(path)
    images = make_images(config)
    lines = [line for stage in order.STAGES.values() for line in stage.plan(config, images)]
    assert len(lines) >= 7
    assert all(lines)
    assert set(config.stages) == set(order.STAGES)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"clusters": {"k": 2501}}, "has 2500 images: choose k from 1 to 2500"),
        (
            {"clusters": {"init": "k-means"}},
            r"config\.clusters\.init = 'k-means': choose one of k-means\|\|, k-means\+\+, random",
        ),
        (
            {"clusters": {"precision": "float16"}},
            r"config\.clusters\.precision = 'float16': choose one of auto, float32, ",
        ),
        ({"clusters": {"precision": "tensorfloat32"}}, "is for GPUs; this is a cpu"),
        ({"clusters": {"restarts": 0}}, r"config\.clusters\.restarts = 0: give 1 or more"),
        ({"clusters": {"max_iterations": -1}}, r"max_iterations = -1 is negative"),
        ({"clusters": {"tolerance": -0.1}}, r"tolerance = -0\.1 is negative"),
        ({"features": {"layer": "conv9"}}, "config.features.layer names 'conv9', which the vgg"),
        ({"features": {"size": 64}}, "decoded to 48 px, but 64 px of them are used"),
        ({"probe": {"teacher_layers": ("fc",)}}, "config.probe.teacher_layers names 'fc'"),
        ({"student": {"batch_size": 6}}, r"config.student.batch_size = 6 .* Nearest: 4 or 8"),
        ({"pretext": {"batch_size": 8}}, "groups of 8 examples: .* Nearest: 32"),
        ({"report": {"clusters": 0}}, "config.report.clusters = 0: it must be at least 1"),
        ({"pretext": {"puzzles": {"tile": 15}}}, "must fit into a cell"),
        ({"pretext": {"log_every": 0}}, "config.pretext.log_every = 0: give 1 or more"),
        ({"pretext": {"test_repeats": 0}}, "config.pretext.test_repeats = 0: give 1 or more"),
        ({"student": {"checkpoint_every": 0}}, "config.student.checkpoint_every = 0: give 1"),
        ({"student": {"steps": -5}}, "config.student.steps = -5: give 1 or more"),
        ({"student": {"optimizer": {"clip": 0.0}}}, "config.student: optimizer.clip = 0.0: give a"),
        ({"student": {"compute": {"accumulate": 3}}}, r"\(3 parts, as compute.accumulate says\)"),
        ({"probe": {"epochs": 0}}, "config.probe.epochs = 0: give 1 or more"),
    ],
)
def test_what_cannot_work_is_found_in_the_plan(overrides, message):
    config = kt_jax.load_config("configs/quickstart.py", **overrides)
    images = make_images(config)
    with pytest.raises(ValueError, match=message):
        [stage.plan(config, images) for stage in order.STAGES.values()]


def test_sets_that_do_not_fit_are_found_in_the_plan():
    config = kt_jax.load_config("configs/quickstart.py")
    images = make_images(config)
    with pytest.raises(ValueError, match="has 7 images; puzzles are made in groups of 8"):
        pretext.plan(config, images | {"test": make_images(config, 7)["test"]})
    others = dataclasses.replace(images["test"], class_names=("one",))
    with pytest.raises(ValueError, match="they must agree"):
        probe.plan(config, images | {"test": others})
    unlabelled = dataclasses.replace(images["test"], labels=None)
    assert "left out" in probe.plan(config, images | {"test": unlabelled})[0]


def test_the_papers_config_is_the_papers():
    config = kt_jax.load_config("configs/jigsawpp.py")
    assert pretext.make_rules(config.pretext).__dict__ == {
        "crop": 255, "tile": 64, "jitter": 18, "channel_shift": 2, "grey": 0.7,
        "projected": 0.0, "max_occluders": 2, "mirror": False,
    }  # fmt: skip
    assert config.pretext.permutations.count == 701
    assert config.clusters.k == 2000
    backbone = artifacts.plain(config.pretext.backbone)
    dims = features.feature_dims(config.features, backbone)
    assert dims == 4 * 4 * 512
    classes = student.make_network(config.student, 1000)
    assert backbones.parameter_count(classes) == 60_965_224


def test_overrides_reach_the_config():
    config = kt_jax.load_config("configs/quickstart.py:tiny", clusters={"k": 7}, seed=3)
    assert (config.clusters.k, config.seed) == (7, 3)
    config = kt_jax.load_config("configs/quickstart.py", pretext={"puzzles": {"grey": 0.5}})
    assert config.pretext.puzzles.grey == 0.5


@pytest.mark.parametrize(
    ("path", "overrides", "error", "message"),
    [
        ("configs/nothing.py", {}, FileNotFoundError, "no config file 'configs/nothing.py'"),
        ("README.md", {}, FileNotFoundError, "not a Python file"),
        ("configs/quickstart.py", {"clusters": {"kk": 5}}, ValueError, "Did you mean clusters.k"),
        ("configs/quickstart.py", {"sed": 5}, ValueError, "Did you mean seed"),
        ("configs/quickstart.py:huge", {}, ValueError, "the only argument is tiny"),
        ("configs/jigsawpp.py:huge", {}, ValueError, "the only argument is tiny"),
        ("configs/folder.py", {}, ValueError, "needs a path"),
        ("configs/folder.py:/no/images,tinny", {}, ValueError, "'tinny' is no size"),
        (
            "configs/quickstart.py",
            {"seed": "x"},
            TypeError,
            "config.seed = 'x': give a value like 0",
        ),
        (
            "configs/quickstart.py",
            {"clusters": 3},
            TypeError,
            "config.clusters = 3: give its keys",
        ),
    ],
)
def test_wrong_configs_are_answered(path, overrides, error, message):
    with pytest.raises(error, match=message):
        kt_jax.load_config(path, **overrides)


def test_permutation_files_are_checked_against_the_config(tmp_path):
    rows = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 0, 3, 4, 5, 6, 7, 8]])
    path = tmp_path / "permutations.bin"
    np.concatenate([[2, 9], (rows + 1).ravel()]).astype("<i4").tofile(path)

    def section(count, occluders):
        return kt_jax.load_config(
            "configs/quickstart.py",
            pretext={
                "permutations": {"count": count, "file": str(path)},
                "puzzles": {"max_occluders": occluders},
            },
        ).pretext

    assert (pretext.make_permutation_set(section(2, 2), seed=0) == rows).all()
    with pytest.raises(ValueError, match="holds 2: set the count to that"):
        pretext.make_permutation_set(section(3, 2), seed=0)
    with pytest.raises(ValueError, match="distance 3, 4 is needed"):
        pretext.make_permutation_set(section(2, 3), seed=0)


def test_a_folder_path_may_have_a_comma(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    config = kt_jax.load_config(f"configs/folder.py:{folder}")
    assert config.images.train.path == str(folder)
    assert jax.tree.leaves(config.images.train.size) == [96]
