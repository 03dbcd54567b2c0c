"""Features: what float16 cannot hold is refused, and each option gives the rows that it says."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from PIL import Image

import kt_jax
from kt_jax import commands, data
from kt_jax.evaluation import backbones, calibration, extraction, image_rows
from kt_jax.machine import partition, signals
from kt_jax.models import views
from kt_jax.runs import artifacts, files, pipeline
from kt_jax.stages import features


def extract(activation):
    """The features of images, all of whose activations in one layer are `activation`."""
    about = backbones.describe({"name": "vgg", "channels": (4,), "convs": (1,)}, 8)
    backbone = backbones.random_backbone(about, seed=0)
    constant = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, activation if "bias" in str(path[-1]) else 0.0),
        backbone.params,
    )
    batches = extraction.extract(
        dataclasses.replace(backbone, params=constant),
        support.make_images(4, size=8),
        {"conv1_1": 2},
        size=8,
        batch_size=4,
        mesh=partition.make_mesh(),
        reading=data.Reading(),
        notice=signals.Notice(),
    )
    return np.concatenate([rows["conv1_1"] for _, rows in batches])


def test_the_largest_float16_is_a_feature():
    features = extract(65504.0)
    assert features.dtype == np.float16
    assert features.shape == (4, 2 * 2 * 4)
    assert (features == np.finfo(np.float16).max).all()


# 65520 is the first number that rounds to infinity.
@pytest.mark.parametrize("activation", [65520.0, 1e30, np.inf, np.nan])
def test_activations_beyond_float16_are_refused(activation):
    message = r"layer 'conv1_1' exceeds the range of float16 \(65504\) or is not finite: use an ear"
    with pytest.raises(ValueError, match=message):
        extract(activation)


VIEW, COUNT = 16, 40
OPTIONS = {"views": 2, "calibrate": True, "layer": "conv1_1+conv2_1", "grid": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose features use every option, of noise in several colours, and a plain one."""
    place = tmp_path_factory.mktemp("made")
    for number in range(COUNT):
        generator = np.random.default_rng(number)
        pixels = generator.integers(0, 60, (30, 40, 3)) + generator.integers(0, 195, 3)
        for folder in ("photos", "few")[: 2 if number < 7 else 1]:
            (place / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / folder / f"{number:02d}.png")
    architecture = {"name": "vgg", "channels": (4, 8), "convs": (1, 1), "batch_norm": True}
    support.make_backbone(place / "network", architecture, VIEW)
    photos = {"source": "folder", "path": str(place / "photos"), "size": 24}
    shown = {"kind": "features", "backbone": str(place / "network"), "size": VIEW, "batch_size": 8}
    config = {
        "images": {"train": photos, "few": {**photos, "path": str(place / "few")}},
        "features": {**shown, **OPTIONS, "rows_per_shard": 10},
        "plain": {**shown, "layer": "conv2_1", "grid": 2},
        "clusters": {"kind": "clusters", "features": "features", "k": 4},
        "labels": {"kind": "label", "clusters": "clusters", "batch_size": 8},
        "few": {"kind": "features", "backbone": "clusters", "images": "few", "batch_size": 8},
    }
    kt_jax.run(config, place / "run")
    return place, config


def snapshot(directory):
    return {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}


def read_rows(directory):
    return np.concatenate([np.load(path) for path in sorted(directory.glob("features-*.npy"))])


def test_rows_are_means_over_views_of_the_calibrated_network_joined_and_scaled(made):
    place, _ = made
    found = read_rows(place / "run" / "features").astype(np.float32)
    about = kt_jax.open(place / "run" / "features").about
    assert (about.dims, about.views, about.layer) == (48, 2, "conv1_1+conv2_1")
    images = data.open_images("folder", path=str(place / "photos"), size=24)
    how = {
        "mesh": partition.make_mesh(),
        "reading": data.Reading(),
        "notice": signals.Notice(),
        "size": VIEW,
    }
    network = backbones.load_backbone(place / "run" / "features" / "backbone", about.backbone)
    trained = backbones.load_backbone(place / "network", about.backbone)
    seed = pipeline._stage_seed(0, "features")
    calibrated = calibration.calibrate(trained, images, seed=seed, **how)
    jax.tree.map(np.testing.assert_array_equal, network.batch_stats, calibrated.batch_stats)
    batches = extraction.extract(
        calibrated,
        images,
        {"conv1_1": 2, "conv2_1": 2},
        batch_size=8,
        shown=views.fixed_views(2),
        **how,
    )
    parts = [rows for _, rows in batches]
    layers = [np.concatenate([part[layer] for part in parts]) for layer in ("conv1_1", "conv2_1")]
    scaled = []
    for rows, scale in zip(layers, about.scales, strict=True):
        length = np.square(rows, dtype=np.float64).sum(1).mean() ** 0.5
        assert scale == pytest.approx(length / (48 / 2) ** 0.5)
        scaled.append(rows / np.float32(scale))
    np.testing.assert_array_equal(found, np.hstack(scaled).astype(np.float16))
    # No layer outweighs the other.
    assert np.square(found[:, :16]).sum(1).mean() == pytest.approx(24, rel=1e-3)
    assert np.square(found[:, 16:]).sum(1).mean() == pytest.approx(24, rel=1e-3)
    assert not (place / "run" / "features" / "checkpoints").exists()


def test_rows_of_other_images_are_made_as_these(made, tmp_path):
    """By a stage, the command and in Python; the labels of the clustered images are theirs."""
    place, _ = made
    run = place / "run"
    expected, before = read_rows(run / "features"), snapshot(run)
    labels = files.read_table(run / "labels" / "labels.parquet")
    np.testing.assert_array_equal(labels["cluster"], np.load(run / "clusters" / "assignment.npy"))
    np.testing.assert_array_equal(read_rows(run / "few"), expected[:7])
    about = kt_jax.open(run / "few").about
    like = kt_jax.open(run / "features").about
    assert about == dataclasses.replace(like, rows=7, images=about.images)
    assert about.images not in ("", like.images)
    for name in ("features", "clusters", "few"):
        opened = kt_jax.open(run / name)
        np.testing.assert_allclose(opened.embed(place / "photos"), expected, rtol=2e-3, atol=1e-3)
        out = str(tmp_path / name)
        assert commands.main(["embed", str(run / name), str(place / "photos"), f"--out={out}"]) == 0
        np.testing.assert_array_equal(read_rows(tmp_path / name), expected)
    table = kt_jax.open(run / "clusters").assign(place / "photos")
    np.testing.assert_array_equal(table["cluster"].to_numpy(), labels["cluster"])
    assert snapshot(run) == before


def test_one_layer_of_one_view_is_as_it_always_was(made):
    place, _ = made
    directory = place / "run" / "plain"
    decided = files.read_json(directory / "manifest.json")["fingerprint"]["config"]["plain"]
    assert decided == {"layer": "conv2_1", "grid": 2, "size": VIEW}
    network = files.hash_file(place / "network" / "network.safetensors")
    assert files.hash_file(directory / "backbone" / "network.safetensors") == network
    rows = kt_jax.open(place / "network").embed(
        place / "photos", layer="conv2_1", grid=2, image_size=24
    )
    np.testing.assert_allclose(read_rows(directory), rows, rtol=2e-3, atol=1e-3)
    # A manifest from before there were these fields.
    shutil.copytree(directory, place / "old")
    manifest = files.read_json(place / "old" / "manifest.json")
    del manifest["about"]["views"], manifest["about"]["scales"]
    files.write_json(place / "old" / "manifest.json", manifest)
    assert kt_jax.open(place / "old").about == kt_jax.open(directory).about


def test_an_interrupted_stage_keeps_what_it_measured(made, tmp_path, monkeypatch):
    place, config = made
    config = {name: config[name] for name in ("images", "features")}
    write, count = files.write_array, iter(range(9))

    def write_and_stop(path, array):
        if next(count) == 5:  # the third of the three scaled files
            raise KeyboardInterrupt
        write(path, array)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_array", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            kt_jax.run(config, tmp_path)
    monkeypatch.setattr(calibration, "calibrate", None)
    monkeypatch.setattr(extraction, "see", None)
    kt_jax.run(config, tmp_path)
    np.testing.assert_array_equal(
        read_rows(tmp_path / "features"), read_rows(place / "run" / "features")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 3}, r"config.features.views = 3: choose from 1, 2, 10"),
        ({"grid": 0}, r"config.features.grid = 0: give 1 or more"),
        ({"size": -1}, r"config.features.size = -1: give 1 or more"),
        ({"layer": "conv1_1+conv1_1"}, r"config.features.layer = .* names a layer twice"),
        ({"layer": "conv1_1+"}, r"config.features.layer names '', which the vgg does not have"),
        ({"layer": ...}, r"config.features.layer is missing: a text is needed"),
        ({"size": ...}, r"config.features.size is missing: a whole number is needed"),
        (
            {"backbone": "run/few"},
            r"config.features.layer = 'conv.*', but '.*' decides this option",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(made, tmp_path, monkeypatch, changes, message):
    place, config = made
    monkeypatch.chdir(place)
    section = {**config["features"], **changes}
    section = {name: value for name, value in section.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        kt_jax.run({"images": config["images"], "features": section}, tmp_path / "run")
    assert not (tmp_path / "run" / "features").exists()


def test_given_features_say_nothing_of_other_images(tmp_path):
    about = artifacts.Features(4, 2, layer="given", grid=0, size=0, backbone=None)
    files.write_array(tmp_path / "mine" / "features-00000-of-00001.npy", np.ones((4, 2)))
    mine = support.finish(tmp_path / "mine", about)
    stage = support.make_stage(
        tmp_path / "few",
        features.Options(backbone="mine"),
        given={"backbone": (mine,)},
        images={"images": support.make_images(8, size=8)},
    )
    with pytest.raises(ValueError, match=r"config.few.backbone: 'mine' are given features"):
        features.plan(stage.options, stage.inputs)
    with pytest.raises(ValueError, match="are given features: no backbone is known"):
        kt_jax.open(tmp_path / "mine").embed(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_layer_that_is_zero_is_refused(tmp_path):
    rows = np.array([[1, 0], [2, 0]], np.float16)
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match="layer 'b' is 0 on all images: join other layers"):
        image_rows.find_scales([tmp_path / "rows.npy"], ["a", "b"], [1, 1])
    with pytest.raises(ValueError, match=r"exceeds the range of float16 \(65504\): join other"):
        image_rows.divide(rows, [1, 1], (1e-5, 1.0))


def test_the_command_leaves_to_features_what_they_decide(made, tmp_path, capsys):
    place, _ = made
    named = [str(place / "run" / "features"), str(place / "few"), f"--out={tmp_path / 'out'}"]
    assert commands.main(["embed", *named, "--views=2"]) == 2
    printed = capsys.readouterr().err
    assert "--views=2: " in printed
    assert "/features determines this option" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_page_says_how(made, tmp_path, monkeypatch):
    """docs/features.md: its config, its commands and its Python, of fewer clusters."""
    page = (Path(__file__).parents[2] / "docs/features.md").read_text()
    page = page.replace("1000", "10").replace("k 10 ", "k 10 --max_iterations 1 ")
    source, opened, alone = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("better.py").write_text(source)
    Path("photos").symlink_to(made[0] / "few")
    run, *others = re.findall(r"^    (python -m .*|kt-jax .*)$", page, re.MULTILINE)
    shown = kt_jax.load_config(re.search(r"--config=(\S+)", run)[1]).to_dict()
    own = {name: made[1]["plain"][name] for name in ("backbone", "layer", "size", "batch_size")}
    config = {
        "images": made[1]["images"],
        "features": {**shown["features"], **own},
        "clusters": shown["clusters"],
        "test_features": {**eval(re.search(r"test_features = (.*)", page)[1]), "batch_size": 8},
    }
    config["images"] |= {"test": config["images"]["few"]}
    kt_jax.run(config, "runs/better")
    opened_clusters = kt_jax.open("runs/better/clusters").artifact.about
    assert (opened_clusters.dims, opened_clusters.features.views) == (32, 10)
    np.testing.assert_array_equal(
        read_rows(Path("runs/better/test_features")), read_rows(Path("runs/better/features"))[:7]
    )
    np.save("F.npy", np.random.default_rng(0).normal(size=(300, 260)).astype(np.float16))
    for command in others:
        words = command.replace("python -m kt_jax.kmeans", "kt-jax kmeans").split()[1:]
        assert commands.main(words) == 0
    names = {}
    exec(opened, names)
    np.testing.assert_allclose(
        names["rows"], read_rows(Path("runs/better/test_features")), rtol=2e-3, atol=1e-3
    )
    tensors = files.read_tensors(Path("DIR/centroids.safetensors"))
    assert {name: x.shape for name, x in tensors.items()} == {
        "centroids": (10, 256), "mean": (260,), "components": (260, 256),
    }  # fmt: skip
    names = {"new_rows": np.load("F.npy")[:5]}
    exec(alone, names)
    np.testing.assert_allclose(names["found"].components, tensors["components"], atol=1e-5)
    assert names["new"].cluster.shape == (5,)
