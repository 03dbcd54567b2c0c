"""More centroids than two, from the nearest on."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from kt_jax import kmeans


def make(k, *, rows=77, d=4):
    rng = np.random.default_rng(k)
    return (rng.normal(size=(n, d)).astype(np.float32) + 10 for n in (rows, k))


def mesh_of(devices):
    auto = (AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize(("k", "nearest"), [(9, 5), (9, 9), (4, 9), (2, 3), (1, 3)])
def test_the_nearest_are_those_of_brute_force(k, nearest, l2):
    features, centroids = make(k)
    mean = features.mean(0)
    seen = features - mean
    if l2:
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        centroids -= 10
    else:
        centroids -= mean
    found = kmeans.assign(features, centroids, mean=mean, l2=l2, nearest=nearest, chunk_rows=16)
    distances = np.linalg.norm(seen[:, None].astype(float) - centroids[None], axis=2)
    order = np.argsort(distances, axis=1)[:, :nearest]
    np.testing.assert_array_equal(found.clusters, order)
    expected = np.take_along_axis(distances, order, axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4, atol=1e-5)
    assert (np.diff(found.distances) >= 0).all()


def test_labels_stay_what_they_are_whatever_the_number_of_nearest():
    features, centroids = make(9)
    usual = kmeans.assign(features, centroids)
    more = kmeans.assign(features, centroids, nearest=6)
    for name in ("cluster", "distance", "second_cluster", "margin"):
        np.testing.assert_array_equal(getattr(more, name), getattr(usual, name))
    np.testing.assert_array_equal(more.clusters[:, :2], usual.clusters)
    np.testing.assert_array_equal(usual.clusters[:, 0], usual.cluster)


def test_one_device_and_four_rank_alike():
    features, centroids = make(9, rows=200)
    one, four = (
        kmeans.assign(features, centroids, nearest=5, mesh=mesh_of(devices)) for devices in (1, 4)
    )
    np.testing.assert_array_equal(one.clusters, four.clusters)
    np.testing.assert_allclose(one.distances, four.distances, rtol=1e-6)


def test_none_of_the_nearest_is_refused():
    with pytest.raises(ValueError, match="nearest = 0: give 1 or more"):
        kmeans.assign(np.ones((4, 2)), np.ones((2, 2)), nearest=0)
