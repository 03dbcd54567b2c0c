"""Labels of clustered images, and distances to more centroids than two."""

import dataclasses
import shutil

import numpy as np
import pytest
import support

import kt_jax
from kt_jax import kmeans
from kt_jax.evaluation import image_rows, labelling
from kt_jax.kmeans import result
from kt_jax.machine import signals
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs
from kt_jax.stages import label

IMAGES, K = 24, 5


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """Random centroids of the features of a random network."""
    directory = tmp_path_factory.mktemp("given") / "clusters"
    architecture = {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True}
    support.make_backbone(directory / "backbone", architecture, 16)
    backbone = support.backbones.describe(architecture, 16)
    (directory / "backbone" / "manifest.json").unlink()
    features = artifacts.Features(
        rows=IMAGES, dims=16, layer="conv1_1", grid=2, size=16, backbone=backbone
    )
    centroids = np.random.default_rng(0).normal(size=(K, 16)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = dataclasses.replace(
        kmeans.fit(np.eye(16, dtype=np.float32), K, max_iterations=0, l2=True),
        centroids=centroids,
        mean=np.full(16, 0.3, np.float32),
    )
    result.write(directory, found, {})
    return support.finish(directory, artifacts.Clusters(K, IMAGES, True, features))


def make_inputs(clusters):
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3), np.uint8)
    images = support.make_images(
        IMAGES, size=16, load=lambda index: pixels[index], fingerprint="noise"
    )
    return Inputs("config.labels", {"clusters": (clusters,)}, {"images": images})


def run(directory, clusters, *, notice=None, **options):
    chosen = label.Options(clusters="clusters", batch_size=8, **options)
    stage = support.make_stage(directory, chosen)
    stage = dataclasses.replace(stage, inputs=make_inputs(clusters), notice=notice or stage.notice)
    return label.run(stage)[0]


class Stop(signals.Notice):
    """Tells to stop before the last batch."""

    asked = 0

    def reached(self):
        self.asked += 1
        return self.asked > 2


def test_more_distances_are_kept_in_a_file_of_their_own(tmp_path, clusters, monkeypatch):
    monkeypatch.setattr(label, "_ROWS_PER_SHARD", 8)
    about = run(tmp_path / "two", clusters)
    assert about.nearest == 2
    assert not (tmp_path / "two" / labelling.NEAREST).exists()
    with pytest.raises(SystemExit):
        run(tmp_path / "four", clusters, nearest=4, notice=Stop())
    about = run(tmp_path / "four", clusters, nearest=4)
    assert about.nearest == 4
    usual, more = ((tmp_path / name / labelling.LABELS).read_bytes() for name in ("two", "four"))
    assert more == usual
    found = files.read_tensors(tmp_path / "four" / labelling.NEAREST)
    table = files.read_table(tmp_path / "two" / labelling.LABELS)
    assert found["clusters"].shape == found["distances"].shape == (IMAGES, 4)
    np.testing.assert_array_equal(found["clusters"][:, 0], table["cluster"])
    np.testing.assert_array_equal(found["clusters"][:, 1], table["second_cluster"])
    np.testing.assert_array_equal(found["distances"][:, 0], table["distance"])
    assert (np.diff(found["distances"]) >= 0).all()
    assert all(len(set(row)) == 4 for row in found["clusters"].tolist())


def test_clustered_images_get_the_labels_of_k_means_without_a_network(
    tmp_path, clusters, monkeypatch
):
    """The bytes are those that the network gives."""
    run(tmp_path / "seen", clusters)
    images = make_inputs(clusters).images["images"]
    known = copy_with_labels(clusters, tmp_path / "clusters", images)
    with monkeypatch.context() as patched:
        patched.setattr(labelling, "load_labeller", lambda _: pytest.fail("it loads a network"))
        run(tmp_path / "known", known)
    seen, found = ((tmp_path / name / labelling.LABELS).read_bytes() for name in ("seen", "known"))
    assert seen == found
    # More distances, other images, and clusters of older versions need the network.
    (line,) = label.plan(label.Options(clusters="clusters"), make_inputs(known)).lines
    assert line.endswith("which were clustered: their features are known")
    (line,) = label.plan(label.Options(clusters="clusters", nearest=3), make_inputs(known)).lines
    assert line.endswith("with their 3 nearest centroids")
    others = dataclasses.replace(images, fingerprint="others")
    assert labelling.covers(known, images)
    assert not labelling.covers(known, others)
    (known / labelling.LABELS).unlink()
    run(tmp_path / "again", known)
    assert (tmp_path / "again" / labelling.LABELS).read_bytes() == seen


def copy_with_labels(clusters, directory, images):
    """The clusters, as if the stage `clusters` had written labels of these images."""
    rows = image_rows.extract(
        labelling.load_labeller(clusters).backbone,
        images,
        clusters.about.features,
        batch_size=8,
        mesh=support.make_stage(directory, None).mesh,
        reading=kt_jax.data.Reading(),
        notice=signals.Notice(),
    )
    matrix = np.concatenate([some for _, some in rows])
    features = directory.parent / "features"
    files.write_array(features / "features-00000-of-00001.npy", matrix)
    index = {"index": np.arange(IMAGES), "key": list(images.keys)}
    files.write_table(features / "index.parquet", index)
    about = dataclasses.replace(clusters.about.features, images=images.fingerprint)
    shutil.copytree(clusters.directory, directory)
    read = result.read(clusters)
    fitted = dataclasses.replace(read, assignment=read.assign(matrix).cluster)
    mesh = support.make_stage(directory, None).mesh
    labelling.write_labels(directory, support.finish(features, about), fitted, mesh=mesh)
    return support.finish(directory, dataclasses.replace(clusters.about, features=about))


def test_a_plan_says_how_many_there_will_be(clusters):
    told = label.plan(label.Options(clusters="clusters", nearest=9), make_inputs(clusters))
    assert told.about.nearest == K
    assert told.lines == ("labels for 24 images of , with their 5 nearest centroids",)
    usual = label.plan(label.Options(clusters="clusters"), make_inputs(clusters))
    assert told.disk() - usual.disk() == IMAGES * K * 16


def test_fewer_than_two_are_refused():
    with pytest.raises(ValueError, match=r"^nearest = 1: give 2 or more"):
        label.Options(clusters="clusters", nearest=1)


def test_given_features_have_two(clusters):
    images = make_inputs(clusters).images["images"]
    features = artifacts.Features(
        rows=IMAGES, dims=16, layer="given", grid=0, size=0, backbone=None,
        keys=kt_jax.data.hash_keys(images),
    )  # fmt: skip
    about = dataclasses.replace(clusters.about, features=features)
    inputs = make_inputs(dataclasses.replace(clusters, about=about))
    with pytest.raises(ValueError, match=r"config\.labels\.nearest = 3: .* two centroids"):
        label.plan(label.Options(clusters="clusters", nearest=3), inputs)
