"""The stages clusters and pseudo_labels on features made by hand."""

import logging
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from kt_jax import data, kmeans
from kt_jax.evaluation import backbones
from kt_jax.machine import partition, signals
from kt_jax.runs import artifacts
from kt_jax.stages import clusters, pseudo_labels

SECTION = {
    "k": 9,
    "l2": False,
    "centre": True,
    "spherical": False,
    "init": "k-means||",
    "precision": "float32",
    "restarts": 1,
    "max_iterations": 12,
    "tolerance": 0.0,
    "warn_share": 0.25,
}
ROWS = (3 + np.random.default_rng(0).random((500, 7))).astype(np.float16)


def make_stage(workdir, name="clusters", **changes):
    section = {**SECTION, **changes} if name == "clusters" else changes
    images = data.Images(
        keys=tuple(str(number) for number in range(len(ROWS))),
        labels=None,
        class_names=(),
        size=8,
        excluded=(),
        origin="made by hand",
        fingerprint="",
        load=lambda index: np.zeros((8, 8, 3), np.uint8),
    )
    return artifacts.Stage(
        name=name,
        section=ConfigDict(section),
        seed=5,
        workdir=workdir,
        images={"train": images},
        reading=data.Reading(),
        mesh=partition.make_mesh(),
        notice=signals.Notice(),
    )


def write_features(workdir):
    for number, part in enumerate(np.split(ROWS, [300])):
        artifacts.write_array(workdir / "features" / f"features-{number:05d}-of-00002.npy", part)
    facts = {"layer": "conv3", "grid": 4, "size": 48}
    artifacts.finish(workdir / "features", {}, facts, 1.0)


def finish(workdir, **changes):
    stage = make_stage(workdir, **changes)
    artifacts.finish(stage.directory, {}, clusters.run(stage), 1.0)
    return stage.directory


def read(directory):
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name not in ("manifest.json", "started.json")
    }


def test_shards_are_clustered_as_one_matrix(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kt_jax")
    write_features(tmp_path)
    directory = finish(tmp_path, l2=True)
    expected = kmeans.fit(ROWS, 9, seed=5, centre=True, l2=True, max_iterations=12, tolerance=0.0)
    tensors = artifacts.read_tensors(directory / "centroids.safetensors")
    np.testing.assert_array_equal(tensors["centroids"], expected.centroids)
    np.testing.assert_allclose(tensors["mean"], ROWS.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_array_equal(np.load(directory / "assignment.npy"), expected.assignment)
    found = artifacts.read_json(directory / "clusters.json")
    assert found["inertia"] == expected.inertia
    assert found["inertia_curve"] == list(expected.inertia_curve)
    for name in ("k", "l2", "spherical", "init", "precision", "restarts"):
        assert found[name] == {**SECTION, "l2": True}[name]
    assert (found["layer"], found["grid"], found["size"], found["seed"]) == ("conv3", 4, 48, 5)
    facts = artifacts.read_json(directory / "manifest.json")["facts"]
    assert (facts["rows"], facts["dims"]) == (500, 7)
    pattern = r"clusters 2/12 \| inertia \S+ \| \d+ rows moved \| \S+ s/iteration \| ETA at most 0m"
    assert re.search(pattern, caplog.text)
    assert not (directory / "checkpoints").exists()


@pytest.mark.parametrize("number", [1, 5])
def test_an_interrupted_stage_carries_on_to_the_same_clusters(
    tmp_path, monkeypatch, caplog, number
):
    caplog.set_level(logging.INFO, "kt_jax")
    write_features(tmp_path)
    whole = read(finish(tmp_path))
    artifacts.remove(tmp_path / "clusters")
    write, count = artifacts.write_tensors, iter(range(1, 100))

    def write_and_stop(path, tree):
        write(path, tree)
        assert path == tmp_path / "clusters" / "checkpoints" / "state.safetensors"
        if next(count) == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "write_tensors", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finish(tmp_path)
    assert not (tmp_path / "clusters" / "manifest.json").exists()
    caplog.clear()
    assert read(finish(tmp_path)) == whole
    assert f"clusters: resuming after iteration {number - 1} of 12" in caplog.text
    assert f"clusters {number - 1}/12 |" not in caplog.text


def test_a_large_cluster_is_warned_of(tmp_path, caplog):
    write_features(tmp_path)
    finish(tmp_path, warn_share=0.01)
    assert "the largest cluster holds" not in caplog.text  # less than two equal shares
    finish(tmp_path, k=300, warn_share=0.001, max_iterations=0)
    assert "clusters: the largest cluster holds 1 % of the rows" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"l2": True}, {"spherical": True}, {"centre": False}, {"precision": "bfloat16"}],
    ids=lambda changes: next(iter(changes)),
)
def test_pseudo_labels_of_the_clustered_images_are_their_clusters(tmp_path, monkeypatch, changes):
    """The rows lie far from the origin: with another preprocessing the labels are others."""
    write_features(tmp_path)
    artifacts.finish(tmp_path / "pretext", {}, {}, 1.0)
    directory = finish(tmp_path, **changes)

    def extract(backbone, images, grids, **_):
        assert grids == {"conv3": 4}
        for begin in range(0, len(ROWS), 64):
            index = np.arange(begin, min(begin + 64, len(ROWS)))
            yield index, {"conv3": ROWS[index]}

    monkeypatch.setattr(backbones, "load_backbone", lambda _: None)
    monkeypatch.setattr(backbones, "extract", extract)
    stage = make_stage(tmp_path, "pseudo_labels", images="train", batch_size=64)
    assert pseudo_labels.run(stage)["clusters_used"] == 9
    table = artifacts.read_table(stage.directory / "labels.parquet")
    agree = table["cluster"] == np.load(directory / "assignment.npy")
    assert agree.mean() >= (0.99 if changes.get("precision") else 1.0)
    inertia = artifacts.read_json(directory / "clusters.json")["inertia"]
    squares = np.square(table["distance"], dtype=np.float64).sum()
    assert squares == pytest.approx(inertia, rel=1e-2 if changes.get("precision") else 1e-4)
