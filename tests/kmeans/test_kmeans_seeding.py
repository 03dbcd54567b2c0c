"""Tests of k-means' seeds: which rows they are, how they are drawn, that meshes do not matter."""

import jax
import numpy as np
import pytest
from sklearn.cluster import kmeans_plusplus

from kt_jax import kmeans
from kt_jax.kmeans import rows, seeding

METHODS = ("k-means||", "k-means++", "random")


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def seeds(features, k, **options):
    return kmeans.fit(features, k, max_iterations=0, **options).centroids


@pytest.mark.parametrize("init", METHODS)
def test_seeds_are_distinct_rows_and_the_same_on_any_mesh(init):
    # Padding is rows of zeros: a seed that is no row of ours would be one of them.
    features = np.random.default_rng(0).normal(size=(413, 3)).astype(np.float32) + 5
    expected = seeds(features, 20, init=init, mesh=make_mesh(4), chunk_rows=7)
    assert all((features == seed).all(1).any() for seed in expected)
    assert len(np.unique(expected, axis=0)) == 20
    for mesh, chunk_rows in [(make_mesh(1), 413), (make_mesh(2), 50)]:
        found = seeds(features, 20, init=init, mesh=mesh, chunk_rows=chunk_rows)
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(seeds(features, 20, init=init, seed=1), expected)


@pytest.mark.parametrize("init", ["k-means||", "k-means++"])
def test_far_rows_are_found(init):
    # 30 places, far apart and of very unequal sizes: D^2 finds them all, random rows do not.
    rng = np.random.default_rng(0)
    sizes = np.array([2000] * 5 + [3] * 25)
    places = rng.normal(size=(30, 4)) * 100
    features = np.repeat(places, sizes, axis=0) + rng.normal(size=(sizes.sum(), 4)) * 0.1
    features = features[rng.permutation(len(features))].astype(np.float32)
    for seed in range(3):
        found = seeds(features, 30, init=init, seed=seed)
        distance = np.linalg.norm(found[:, None] - places[None], axis=-1)
        assert sorted(distance.argmin(1).tolist()) == list(range(30))
    by_chance = seeds(features, 30, init="random")
    nearest = np.linalg.norm(by_chance[:, None] - places[None], axis=-1).argmin(1)
    assert len(set(nearest.tolist())) < 15


@pytest.mark.parametrize(("init", "worse"), [("k-means++", 1.02), ("k-means||", 1.05)])
def test_seeds_are_as_good_as_scikit_learns(init, worse):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 8)) * 2
    features = centres[rng.integers(0, 40, 3000)] + rng.normal(size=(3000, 8))
    features = features.astype(np.float32)

    def inertia(found):
        return (np.linalg.norm(features[:, None] - found[None], axis=-1).min(1) ** 2).sum()

    ours = np.mean([inertia(seeds(features, 40, init=init, seed=s)) for s in range(12)])
    theirs = np.mean([inertia(kmeans_plusplus(features, 40, random_state=s)[0]) for s in range(12)])
    assert ours < worse * theirs


def test_the_race_draws_by_weight():
    # D^2 of the three places is 0, 1 and 9 from the middle one. Draws are of rows, not of places.
    features = np.repeat(np.array([[0.0], [1.0], [4.0]], np.float32), [900, 60, 40], axis=0)
    matrix = rows.Rows(features, 3, mesh=make_mesh(4), chunk_rows=32)
    weight = matrix.split(np.square(features[:, 0] - 1).astype(np.float32))
    far = drawn = 0
    for seed in range(200):
        key = jax.random.key(seed, impl="threefry2x32")
        numbers = seeding._race(matrix, weight, key, 5)
        assert len(set(numbers.tolist())) == 5
        assert ((numbers < 900) | (numbers >= 960)).all()  # weight 0 is never drawn
        far += (numbers >= 960).sum()
        drawn += 5
    # 40 rows of weight 9 beside 900 of weight 1: 0.286 of a draw, less without replacement.
    assert 0.23 <= far / drawn <= 0.33


def test_given_centroids_start_there():
    features = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    start = features[:3] + 0.25
    np.testing.assert_array_equal(seeds(features, 3, init=start), start)
    with pytest.raises(ValueError, match="init has 3 centroids, k = 4"):
        seeds(features, 4, init=start)
    with pytest.raises(ValueError, match="init have d = 3, features have d = 2"):
        seeds(features, 3, init=np.ones((3, 3)))
    with pytest.raises(ValueError, match="init row 1 holds nan at column 0"):
        seeds(features, 3, init=np.array([[0, 0], [np.nan, 0], [1, 1]]))
    with pytest.raises(ValueError, match=r"init = 'kmeans\+\+': choose one of k-means\|\|"):
        seeds(features, 3, init="kmeans++")


@pytest.mark.parametrize("init", METHODS)
def test_equal_rows(init):
    # 5 places, each planted 200 times, and one row by itself.
    features = np.repeat(np.arange(5.0)[:, None] * 3 + 0.1, 200, axis=0)
    features = np.concatenate([features, [[100.1]]]).astype(np.float32)
    found = kmeans.fit(features, 6, init=init)
    assert found.inertia < 1e-6
    assert sorted(found.sizes.tolist()) == [1] + [200] * 5
    with pytest.raises(
        ValueError, match=r"k = 7 .* distinct rows: of the n = 1001 .* only 6 differ"
    ):
        kmeans.fit(features, 7, init=init)
    with pytest.raises(ValueError, match="only 6 differ"):
        kmeans.fit(features, 7, init=np.arange(7.0)[:, None])
