"""The stages clusters and label on features made by hand, and of a tiny backbone."""

import dataclasses
import logging
import re
import shutil

import numpy as np
import pytest
import support
from sklearn import metrics

from kt_jax import kmeans
from kt_jax.evaluation import backbones, extraction
from kt_jax.kmeans import clustering
from kt_jax.runs import artifacts, files, options, pipeline
from kt_jax.stages import clusters, label

OPTIONS = clusters.Options(
    features="features", k=9, l2=False, precision="float32", max_iterations=12, tolerance=0.0
)
ROWS = (3 + np.random.default_rng(0).random((500, 7))).astype(np.float16)


BACKBONE = artifacts.Backbone({}, 48, "none", {"conv3": (1, 1, 7)}, ("conv3",), 0)


def write_features(workdir, rows=ROWS):
    directory = workdir / "features"
    for number, part in enumerate(np.split(rows, [len(rows) * 3 // 5])):
        files.write_array(directory / f"features-{number:05d}-of-00002.npy", part)
    files.write_json(directory / "backbone" / "backbone.json", "carried")
    about = artifacts.Features(len(rows), 7, layer="conv3", grid=4, size=48, backbone=BACKBONE)
    return support.finish(directory, about)


def finish(features, **changes):
    """The clusters of features, beside them."""
    changed = dataclasses.replace(OPTIONS, **changes)
    directory = features.directory.with_name("clusters")
    given = {"features": (features,)}
    about, facts = clusters.run(support.make_stage(directory, changed, given=given, seed=5))
    return support.finish(directory, about, facts=facts)


def read(artifact):
    written = (artifact / name for name in artifact.manifest["files"])
    return {path.name: path.read_bytes() for path in written}


def test_stability_compares_the_clusters_with_those_of_other_seeds(tmp_path):
    features = write_features(tmp_path)
    alone = finish(features, l2=True)
    before = read(alone)
    shutil.rmtree(alone.directory)
    found = finish(features, l2=True, stability=2)
    assert read(found) == before
    fitted = [
        kmeans.fit(ROWS, 9, seed=5 + n, centre=True, l2=True, max_iterations=12, tolerance=0.0)
        for n in range(3)
    ]
    first, *others = (each.assignment for each in fitted)
    expected = np.mean([metrics.adjusted_rand_score(first, each) for each in others])
    assert found.manifest["facts"]["stability"] == pytest.approx(expected)


def test_a_negative_stability_is_refused(tmp_path):
    given = {"features": (write_features(tmp_path),)}
    changed = dataclasses.replace(OPTIONS, stability=-1)
    stage = support.make_stage(tmp_path / "clusters", changed, given=given)
    with pytest.raises(ValueError, match=r"config\.clusters\.stability = -1: give 0 or more"):
        clusters.plan(changed, stage.inputs)


def test_shards_are_clustered_as_one_matrix(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kt_jax")
    features = write_features(tmp_path)
    found = finish(features, l2=True)
    expected = kmeans.fit(ROWS, 9, seed=5, centre=True, l2=True, max_iterations=12, tolerance=0.0)
    tensors = files.read_tensors(found / "centroids.safetensors")
    np.testing.assert_array_equal(tensors["centroids"], expected.centroids)
    np.testing.assert_allclose(tensors["mean"], ROWS.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_array_equal(np.load(found / "assignment.npy"), expected.assignment)
    written = files.read_json(found / "clusters.json")
    assert written["inertia"] == expected.inertia
    assert written["inertia_curve"] == list(expected.inertia_curve)
    for name in ("k", "spherical", "init", "precision", "restarts"):
        assert written[name] == getattr(OPTIONS, name)
    assert (written["l2"], written["layer"], written["seed"]) == (True, "conv3", 5)
    assert found.about == artifacts.Clusters(k=9, rows=500, l2=True, features=features.about)
    assert (found.manifest["facts"]["rows"], found.manifest["facts"]["dims"]) == (500, 7)
    assert files.read_json(found / "backbone" / "backbone.json") == "carried"
    pattern = r"clusters 2/12 \| inertia \S+ \| \d+ rows moved \| \S+ s/iteration \| ETA at most 0m"
    assert re.search(pattern, caplog.text)
    assert not (found / "checkpoints").exists()


@pytest.mark.parametrize("number", [1, 5])
def test_an_interrupted_stage_carries_on_to_the_same_clusters(
    tmp_path, monkeypatch, caplog, number
):
    caplog.set_level(logging.INFO, "kt_jax")
    features = write_features(tmp_path)
    whole = read(finish(features))
    files.remove(tmp_path / "clusters")
    write, count = files.write_tensors, iter(range(1, 100))

    def write_and_stop(path, tree):
        write(path, tree)
        assert path == tmp_path / "clusters" / "checkpoints" / "state.safetensors"
        if "chosen" not in tree and next(count) == number:  # not of the seeding
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(clustering, "_SECONDS_BETWEEN_STATES", 0)
        patched.setattr(files, "write_tensors", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finish(features)
    assert not (tmp_path / "clusters" / "manifest.json").exists()
    caplog.clear()
    assert read(finish(features)) == whole
    assert f"clusters: resuming after iteration {number - 1} of 12" in caplog.text
    assert f"clusters {number - 1}/12 |" not in caplog.text


def test_a_large_cluster_is_warned_of(tmp_path, caplog):
    features = write_features(tmp_path)
    finish(features, warn_share=0.01)
    assert "the largest cluster holds" not in caplog.text  # less than two equal shares
    finish(features, k=300, warn_share=0.001, max_iterations=0)
    assert "clusters: the largest cluster holds 1 % of the rows" in caplog.text


def finish_plainly(tmp_path):
    """The sizes of the clusters by default."""
    found = finish(write_features(tmp_path / "plain"))
    return files.read_json(found / "clusters.json")["sizes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"l2": True},
        {"spherical": True},
        {"centre": False},
        {"precision": "bfloat16"},
        {"dims": 3, "whiten": True},
        {"balanced": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_pseudo_labels_of_the_clustered_images_are_their_clusters(tmp_path, monkeypatch, changes):
    """The rows lie far from the origin: with another preprocessing the labels are others."""
    found = finish(write_features(tmp_path), **changes)

    def extract(backbone, images, grids, **_):
        assert grids == {"conv3": 4}
        for begin in range(0, len(ROWS), 64):
            index = np.arange(begin, min(begin + 64, len(ROWS)))
            yield index, {"conv3": ROWS[index]}

    network = backbones.FrozenBackbone(BACKBONE, {}, {})
    monkeypatch.setattr(backbones, "load_backbone", lambda directory, about: network)
    monkeypatch.setattr(extraction, "extract", extract)
    images = support.make_images(len(ROWS), size=8, origin="made by hand", fingerprint="f")
    chosen = label.Options(clusters="clusters", batch_size=64)
    given = {"clusters": (found,)}
    stage = support.make_stage(tmp_path / "labels", chosen, given=given, images={"images": images})
    about, facts = label.run(stage)
    nearest = 0 if changes.get("balanced") else 2
    expected = artifacts.Labels(500, 9, images="f", origin="made by hand", nearest=nearest)
    assert about == expected
    assert found.about.dims == changes.get("dims", 0)
    assert facts["clusters_used"] == 9
    table = files.read_table(stage.directory / "labels.parquet")
    agree = table["cluster"] == np.load(found / "assignment.npy")
    assert agree.mean() >= (0.99 if changes.get("precision") else 1.0)
    written = files.read_json(found / "clusters.json")
    inertia = written["inertia"]
    squares = np.square(table["distance"], dtype=np.float64).sum()
    if changes.get("balanced"):
        assert squares > 1.01 * inertia
        assert written["sizes"] == np.bincount(table["cluster"]).tolist()
        assert np.std(written["sizes"]) < np.std(finish_plainly(tmp_path)) / 2
        return
    assert squares == pytest.approx(inertia, rel=1e-2 if changes.get("precision") else 1e-4)


def test_reduced_clusters_say_how(tmp_path):
    found = finish(write_features(tmp_path), dims=3, whiten=True, l2=True)
    tensors = files.read_tensors(found / "centroids.safetensors")
    assert {name: x.shape for name, x in tensors.items()} == {
        "centroids": (9, 3), "mean": (7,), "components": (7, 3),
    }  # fmt: skip
    written = files.read_json(found / "clusters.json")
    assert (written["dims"], written["whiten"]) == (3, True)
    seen = (ROWS.astype(np.float64) - tensors["mean"]) @ tensors["components"]
    np.testing.assert_allclose(np.cov(seen.T), np.eye(3), atol=1e-3)


def test_there_are_no_more_components_than_directions(tmp_path):
    found = finish(write_features(tmp_path), dims=8)
    assert files.read_tensors(found / "centroids.safetensors")["components"].shape == (7, 7)
    assert (found.about.dims, files.read_json(found / "clusters.json")["dims"]) == (7, 7)
    # Two of six rows are equal: one of five components is zero.
    few = write_features(tmp_path / "few", ROWS[[0, 1, 2, 3, 4, 4]])
    found = finish(few, dims=7, whiten=True, k=2)
    components = files.read_tensors(found / "centroids.safetensors")["components"]
    assert components.any(0).tolist() == [True] * 4 + [False]


def test_clusters_of_all_dimensions_say_nothing_of_others(tmp_path):
    """Nothing finished is made otherwise by options that came later."""
    found = finish(write_features(tmp_path))
    assert files.read_tensors(found / "centroids.safetensors").keys() == {"centroids", "mean"}
    assert not {"dims", "whiten", "balanced"} & files.read_json(found / "clusters.json").keys()
    assert options.deciding(OPTIONS).keys() == {
        "k",
        "l2",
        "precision",
        "max_iterations",
        "tolerance",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": -1}, r"config.clusters.dims = -1: give 1 or more"),
        ({"whiten": True}, r"config.clusters.whiten = True without dims"),
    ],
)
def test_dimensions_that_rows_do_not_have_are_refused(tmp_path, changes, message):
    given = {"features": (write_features(tmp_path),)}
    changed = dataclasses.replace(OPTIONS, **changes)
    stage = support.make_stage(tmp_path / "clusters", changed, given=given)
    with pytest.raises(ValueError, match=message):
        clusters.plan(stage.options, stage.inputs)


def test_balanced_clusters_know_no_third_centroid(tmp_path):
    about = artifacts.Features(9, 7, layer="conv3", grid=4, size=8, backbone=BACKBONE)
    about = artifacts.Clusters(k=4, rows=9, l2=False, features=about, balanced=True)
    stage = support.make_stage(
        tmp_path / "labels",
        label.Options(clusters="mine", nearest=3),
        given={"clusters": (artifacts.Artifact("mine", tmp_path, about, {}),)},
        images={"images": support.make_images(9, size=8)},
    )
    with pytest.raises(ValueError, match=r"labels.nearest = 3, but 'mine' are balanced"):
        label.plan(stage.options, stage.inputs)
    # Soft targets, which need distances, refuse labels with 0 of them.
    found = label.plan(label.Options(clusters="mine"), stage.inputs)
    assert found.about.nearest == 0


def test_copied_alone_clusters_label_images_elsewhere(tmp_path):
    about = backbones.describe({"name": "vgg", "channels": (4, 8), "convs": (1, 1)}, 16)
    teacher = backbones.random_backbone(about, seed=0)
    arrays = {"backbone": teacher.params}, {"backbone": teacher.batch_stats}
    backbones.save_network(tmp_path / "teacher", about, *arrays)
    support.finish(tmp_path / "teacher", about)
    images = {"train": {"source": "photographs", "views_per_photograph": 8, "size": 24}}
    shown = {"kind": "features", "layer": "conv2_1", "size": 16, "batch_size": 16}
    labels = {"kind": "label", "batch_size": 16}
    config = {
        "images": images,
        "features": {**shown, "backbone": str(tmp_path / "teacher")},
        "clusters": {"kind": "clusters", "features": "features", "k": 4},
        "labels": {**labels, "clusters": "clusters"},
    }
    pipeline.run(config, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(tmp_path / "moved" / "clusters", tmp_path / "copy")
    alone = {"images": images, "labels": {**labels, "clusters": str(tmp_path / "copy")}}
    pipeline.run(alone, tmp_path / "elsewhere")
    runs = [tmp_path / name / "labels" for name in ("moved", "elsewhere")]
    expected, found = (files.read_table(run / "labels.parquet") for run in runs)
    assert len(set(expected["cluster"].tolist())) == 4
    assert expected.keys() == found.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)
    described = [artifacts.open_artifact(run, name="labels", reader="a test").about for run in runs]
    assert described[0] == described[1]


def test_clusters_of_given_features_label_no_images(tmp_path):
    given = artifacts.Clusters(k=4, rows=9, l2=False, features=None)
    stage = support.make_stage(
        tmp_path / "labels",
        label.Options(clusters="mine"),
        given={"clusters": (artifacts.Artifact("mine", tmp_path, given, {}),)},
        images={"images": support.make_images(9, size=8)},
    )
    with pytest.raises(ValueError, match=r"labels.clusters: 'mine' are clusters of given features"):
        label.plan(stage.options, stage.inputs)
