"""`KMeans.assign`, `KMeans.save` and `kmeans.load`."""

import dataclasses

import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans.__main__ import main
from kt_jax.runs import artifacts, files

K = 7
WAYS = {
    "plain": {},
    "centred": {"centre": True, "l2": True},
    "spherical": {"spherical": True},
    "whitened": {"l2": True, "dims": 3, "whiten": True},
}


def make_rows(n=600, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, 5)) + 2).astype(np.float32)


ROWS, OTHERS = make_rows(), make_rows(80, seed=1)


def same(found, expected):
    """Asserts that two results are equal to the bit."""
    for field in dataclasses.fields(kmeans.KMeans):
        one, other = (getattr(each, field.name) for each in (found, expected))
        assert type(one) is type(other), field.name
        np.testing.assert_array_equal(one, other, err_msg=field.name, strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_saved_is_loaded_and_sees_rows_as_fit_did(way, tmp_path):
    options = WAYS[way]
    fitted = kmeans.fit(ROWS, K, max_iterations=4, **options)
    fitted.save(tmp_path / "saved")
    found = kmeans.load(str(tmp_path / "saved"))
    same(found, fitted)
    assert found.k == K
    assert (found.l2, found.spherical) == (way != "plain", way == "spherical")
    for each in (fitted, found):
        np.testing.assert_array_equal(each.assign(ROWS).cluster, fitted.assignment)
    l2 = way != "plain"
    named = {"mean": fitted.mean, "components": fitted.components, "l2": l2}
    expected = kmeans.assign(OTHERS, fitted.centroids, **named, nearest=3)
    ranked = found.assign(OTHERS, nearest=3)
    np.testing.assert_array_equal(ranked.clusters, expected.clusters)
    np.testing.assert_array_equal(ranked.distances, expected.distances)


def test_weights_of_balance_are_kept(tmp_path):
    fitted = kmeans.fit(ROWS, K, max_iterations=4)
    weights = np.linspace(-3, 3, K, dtype=np.float32)
    labels = kmeans.assign(OTHERS, fitted.centroids, weights=weights).cluster
    dataclasses.replace(fitted, weights=weights).save(tmp_path)
    np.testing.assert_array_equal(kmeans.load(tmp_path).assign(OTHERS).cluster, labels)
    assert (labels != fitted.assign(OTHERS).cluster).any()
    assert artifacts.open_artifact(tmp_path, name="mine", reader="a test").about.balanced


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("older", [False, True])
def test_directories_of_the_command_are_loaded(way, older, tmp_path):
    np.save(tmp_path / "f.npy", ROWS)
    out, options = tmp_path / "out", WAYS[way]
    words = (f"--{name}={x}" if x > 1 else f"--{name}" for name, x in options.items())
    assert main([f"--features={tmp_path / 'f.npy'}", f"--out={out}", f"--k={K}", *words]) == 0
    if older:  # before `spherical` was written by itself
        summary = files.read_json(out / "clusters.json")
        del summary["spherical"]
        files.write_json(out / "clusters.json", summary)
        manifest = files.read_json(out / "manifest.json")
        manifest["files"] = artifacts.hash_outputs(out)
        files.write_json(out / "manifest.json", manifest)
    same(kmeans.load(out), kmeans.fit(ROWS, K, **options))


def test_a_saved_directory_has_the_files_and_the_manifest_of_the_command(tmp_path):
    np.save(tmp_path / "f.npy", ROWS)
    main([f"--features={tmp_path / 'f.npy'}", f"--out={tmp_path / 'a'}", f"--k={K}", "--l2"])
    kmeans.load(tmp_path / "a").save(tmp_path / "b")
    one, other = (artifacts.open_artifact(tmp_path / x, name=x, reader="a test") for x in "ab")
    assert one.about == other.about
    assert one.manifest["facts"] == other.manifest["facts"]
    assert one.manifest["files"].keys() == other.manifest["files"].keys()
    for name in ("centroids.safetensors", "assignment.npy"):
        assert one.manifest["files"][name] == other.manifest["files"][name]


def test_other_directories_are_refused(tmp_path):
    fitted = kmeans.fit(ROWS[:20], 2)
    with pytest.raises(FileNotFoundError, match=r"no \S+/manifest\.json: give a finished"):
        kmeans.load(tmp_path)
    (tmp_path / "text").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty directory: give another one, or delete"):
        fitted.save(tmp_path)
    with pytest.raises(ValueError, match="text is not an empty directory"):
        fitted.save(tmp_path / "text")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    artifacts.finish(tmp_path, artifacts.Sweep(1), {}, section={}, facts={}, seconds=0.0)
    with pytest.raises(ValueError, match="holds Sweep, not Clusters: give a directory of clusters"):
        kmeans.load(tmp_path)
    fitted.save(tmp_path / "saved")
    files.write_array(tmp_path / "saved" / "assignment.npy", np.zeros(20, np.int32))
    with pytest.raises(ValueError, match=r"assignment\.npy has changed since it was written"):
        kmeans.load(tmp_path / "saved")


def test_balanced_clusters_have_the_weights_of_balance():
    fitted = kmeans.fit(ROWS, K, centre=True, l2=True)
    named = {"mean": fitted.mean, "l2": True}
    balanced = fitted.balance(ROWS)
    weights = kmeans.balance(ROWS, fitted.centroids, **named)
    np.testing.assert_array_equal(balanced.weights, weights)
    expected = kmeans.assign(ROWS, fitted.centroids, **named, weights=weights).cluster
    np.testing.assert_array_equal(balanced.assignment, expected)
    assert balanced.sizes.tolist() == np.bincount(expected, minlength=K).tolist()
    assert np.ptp(balanced.sizes) < np.ptp(fitted.sizes)
    assert balanced.inertia == fitted.inertia
