"""Balanced clusters: their sizes, and labels by numpy from distances and weights."""

import jax
import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans import rows

N, D, K = 403, 6, 11


def make_rows():
    """One group with half of the rows, and four with the rest."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(5, D))[np.minimum(rng.integers(0, 8, N), 4)]
    return (places + 0.4 * rng.normal(size=(N, D))).astype(np.float32)


ROWS = make_rows()


@pytest.fixture(scope="module")
def found():
    return kmeans.fit(ROWS, K, centre=True, l2=True)


@pytest.fixture(scope="module")
def weights(found):
    return kmeans.balance(ROWS, found.centroids, mean=found.mean, l2=True)


def test_sizes_are_about_equal(found, weights):
    labelled = kmeans.assign(ROWS, found.centroids, mean=found.mean, l2=True, weights=weights)
    sizes = np.bincount(labelled.cluster, minlength=K)
    assert found.sizes.max() > 1.5 * N / K
    assert sizes.max() < 1.3 * N / K
    assert sizes.min() > 0.7 * N / K
    assert weights.mean() == pytest.approx(0, abs=1e-6)


def test_labels_are_of_the_least_squared_distance_less_the_weight(found, weights):
    seen = (ROWS - found.mean).astype(np.float64)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    distances = np.linalg.norm(seen[:, None] - found.centroids[None], axis=2)
    order = np.argsort(distances**2 - weights, axis=1)
    labelled = kmeans.assign(ROWS, found.centroids, mean=found.mean, l2=True, weights=weights)
    np.testing.assert_array_equal(labelled.cluster, order[:, 0])
    np.testing.assert_array_equal(labelled.second_cluster, order[:, 1])
    first, second = (np.take_along_axis(distances, x[:, None], 1)[:, 0] for x in order.T[:2])
    np.testing.assert_allclose(labelled.distance, first, atol=1e-5)
    np.testing.assert_allclose(labelled.margin, second - first, atol=1e-5)
    assert (labelled.margin < 0).any()
    nothing = kmeans.assign(ROWS, found.centroids, mean=found.mean, l2=True, weights=np.zeros(K))
    np.testing.assert_array_equal(nothing.cluster, found.assignment)


def test_streams_and_meshes_give_the_same(found, weights, monkeypatch, tmp_path):
    monkeypatch.setitem(rows._BLOCK_BYTES, "cpu", 64 * D * 4)
    np.save(tmp_path / "rows.npy", ROWS)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((3,), ("data",), axis_types=auto, devices=jax.devices()[:3])
    again = kmeans.balance(
        tmp_path / "rows.npy", found.centroids, mean=found.mean, l2=True, mesh=mesh, chunk_rows=32
    )
    np.testing.assert_allclose(again, weights, atol=1e-4)


def test_one_far_row_does_not_matter(found, weights):
    features = np.concatenate([ROWS, np.full((1, D), 1e6)])
    options = {"mean": found.mean, "l2": True}
    again = kmeans.balance(features, found.centroids, **options)
    np.testing.assert_allclose(again, weights, atol=0.02)
    plain = kmeans.fit(ROWS, K)
    again = kmeans.balance(features, plain.centroids)
    sizes = np.bincount(kmeans.assign(ROWS, plain.centroids, weights=again).cluster, minlength=K)
    assert sizes.max() < 1.5 * N / K


def test_rows_of_any_size_are_balanced():
    plain = kmeans.fit(ROWS, K)
    large = kmeans.fit(ROWS * 1e9, K).balance(ROWS * 1e9)
    np.testing.assert_array_equal(large.assignment, plain.balance(ROWS).assignment)


def test_where_nothing_is_to_choose_weights_are_zero():
    assert kmeans.balance(ROWS, ROWS[:1]).tolist() == [0]
    assert kmeans.balance(ROWS[:3], ROWS[:3]).tolist() == [0, 0, 0]
    assert kmeans.balance(np.zeros((3, D)), ROWS[:2], l2=True).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros(3)}, r"weights have shape \(3,\): give one for each of k = 11 clus"),
        ({"weights": [None] * K}, "weights must hold floats or integers; got object"),
        ({"weights": np.full(K, 1e300)}, "weights of cluster 0 are inf: give finite numbers"),
        ({"weights": np.full(K, np.nan)}, "weights of cluster 0 are nan: give finite numbers"),
        ({"weights": np.zeros(K), "nearest": 3}, "nearest = 3 with weights: give 1 or 2"),
    ],
)
def test_what_cannot_work_is_refused(found, changes, message):
    with pytest.raises(ValueError, match=message):
        kmeans.assign(ROWS, found.centroids, **changes)
