"""Every config that ships loads, and its networks have shapes."""

import jax
import numpy as np
import pytest
from PIL import Image

import kt_jax
from kt_jax import backbones
from kt_jax.stages import clusters, features, pretext, probe, pseudo_labels, report, student

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


@pytest.mark.parametrize("path", CONFIGS)
def test_every_stage_can_be_planned(path):
    config = kt_jax.load_config(path)
    plans = [
        pretext.plan(config.pretext),
        features.plan(config.features, backbone=config.pretext.backbone, rows=100),
        clusters.plan(config.clusters),
        pseudo_labels.plan(config.pseudo_labels, rows=100),
        student.plan(config.student, classes=config.clusters.k),
        probe.plan(config.probe, rows=100),
        report.plan(config.report),
    ]
    assert all(line for lines in plans for line in lines)
    shapes = backbones.layer_shapes(backbones.plain(config.pretext.backbone), config.features.size)
    assert {config.features.layer, *config.probe.teacher_layers} <= set(shapes)
    seen = {config.images[name].size for name in config.images}
    assert min(seen) >= max(
        config.pretext.puzzles.crop, config.features.size, config.student.size, config.probe.size
    )


def test_the_papers_config_is_the_papers():
    config = kt_jax.load_config("configs/jigsawpp.py")
    assert pretext.make_rules(config.pretext).__dict__ == {
        "crop": 255, "tile": 64, "jitter": 18, "channel_shift": 2, "grey": 0.7,
        "projected": 0.0, "max_occluders": 2, "mirror": False,
    }  # fmt: skip
    assert config.pretext.permutations.count == 701
    assert config.clusters.k == 2000
    backbone = backbones.plain(config.pretext.backbone)
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
        ("configs/quickstart.py", {"seed": "x"}, TypeError, "seed"),
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
