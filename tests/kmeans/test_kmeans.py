"""Tests of kt_jax.kmeans: exact on crafted rows, by property, and on meshes of 1, 2, 4 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans

from kt_jax import kmeans

quick = settings(max_examples=10, deadline=None, derandomize=True)


def make_blobs(n=401, d=5, k=6, seed=0, spread=20.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * spread
    label = rng.permutation(np.arange(n) % k)
    return (centres[label] + rng.normal(size=(n, d))).astype(np.float32), label


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def brute_force(features, centroids):
    difference = features.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return np.sqrt((difference**2).sum(-1))


def test_fit_recovers_blobs():
    features, label = make_blobs()
    found = kmeans.fit(features, 6, seed=1)  # k-means++ misses a blob with 5 seeds in 100
    pairs = set(zip(label.tolist(), found.assignment.tolist(), strict=True))
    assert len(pairs) == 6
    assert found.sizes.tolist() == np.bincount(found.assignment).tolist()
    assert found.sizes.sum() == 401
    assert found.stopped == "no row moved"


@quick
@given(st.integers(0, 2**31), st.sampled_from([2, 7]), st.sampled_from([0.0, 1000.0]))
def test_inertia_never_rises_and_belongs_to_its_assignment(seed, k, offset):
    features = np.random.default_rng(seed).normal(size=(203, 3)).astype(np.float32) + offset
    features = features.astype(np.float32)
    found = kmeans.fit(features, k, seed=seed, tolerance=0.0, chunk_rows=64)
    assert (np.diff(found.inertia_curve) <= 0).all()
    assert len(found.inertia_curve) == found.iterations + 1 == len(found.repaired) + 1
    own = features.astype(np.float64) - found.centroids[found.assignment].astype(np.float64)
    np.testing.assert_allclose(found.inertia, (own**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.inertia, found.inertia_curve[-1], rtol=1e-5)
    # Converged: every centroid is the mean of its rows.
    means = [features[found.assignment == c].astype(np.float64).mean(0) for c in range(k)]
    np.testing.assert_allclose(found.centroids, means, rtol=1e-6, atol=1e-5)


@quick
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 9]), st.sampled_from([0.0, 3000.0]))
def test_assign_is_brute_force(seed, k, offset):
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(77, 4)) + offset).astype(np.float32)
    centroids = (rng.normal(size=(k, 4)) + offset).astype(np.float32)
    found = kmeans.assign(features, centroids, chunk_rows=16)
    distances = brute_force(features, centroids)
    expected = np.sort(distances, axis=1)
    np.testing.assert_allclose(found.distance, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(distances[np.arange(77), found.cluster], found.distance, rtol=1e-5)
    if k == 1:
        assert (found.second_cluster == -1).all()
        assert np.isposinf(found.margin).all()
    else:
        margin = expected[:, 1] - expected[:, 0]
        np.testing.assert_allclose(found.margin, margin, rtol=1e-4, atol=1e-5)
        second = distances[np.arange(77), found.second_cluster]
        np.testing.assert_allclose(second, expected[:, 1], rtol=1e-5)


def test_assign_repeats_the_assignment_of_fit():
    features, _ = make_blobs(spread=0.5)
    found = kmeans.fit(features, 6, max_iterations=3)
    again = kmeans.assign(features, found.centroids)
    np.testing.assert_array_equal(again.cluster, found.assignment)
    np.testing.assert_allclose(
        found.inertia, np.square(again.distance, dtype=np.float64).sum(), rtol=1e-6
    )


def test_any_mesh_and_chunk_gives_the_same_clusters():
    features, _ = make_blobs(spread=1.0)  # overlapping, so that it takes many iterations
    expected = kmeans.fit(features, 6, mesh=make_mesh(4))
    assert expected.iterations >= 3
    cases = [(make_mesh(1), 4096), (make_mesh(2), 50)]
    for mesh, chunk_rows in cases:
        found = kmeans.fit(features, 6, mesh=mesh, chunk_rows=chunk_rows)
        np.testing.assert_array_equal(found.assignment, expected.assignment)
        np.testing.assert_allclose(found.inertia, expected.inertia, rtol=1e-5)
        np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-4)


def test_the_seed_decides():
    features, _ = make_blobs(spread=0.5)
    one, same, other = (kmeans.fit(features, 6, seed=s, max_iterations=2) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.centroids, same.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


def test_empty_clusters_move_to_the_farthest_distinct_rows():
    # Clusters 1 and 3 are empty. The farthest rows are the two at 9, equal: the second repair must
    # skip the other 9 and take -6, the farthest that is left.
    seeds = np.array([[0, 0], [500, 500], [0, 100], [-400, 0]])
    features = [[0, 0], [0, 3], [9, 0], [9, 0], [0, 100], [0, -3], [-6, 0], [-3, 0]]
    seen = []
    found = kmeans.fit(
        np.array(features), 4, init=seeds, max_iterations=1, on_iteration=seen.append
    )
    assert found.repaired == (2,)
    assert found.centroids[[1, 3]].tolist() == [[9, 0], [-6, 0]]
    assert [(at.iteration, at.moved > 0, at.repaired) for at in seen] == [
        (0, True, 0),
        (1, True, 2),
    ]
    assert [at.inertia for at in seen] == list(found.inertia_curve)
    assert found.inertia_curve[1] < found.inertia_curve[0]
    assert found.stopped == "max_iterations"
    done = kmeans.fit(np.array(features), 4, init=seeds)
    assert done.sizes.min() >= 1
    assert done.repaired[0] == 2
    assert sum(done.repaired) == 2


def test_repair_takes_the_lowest_of_equally_far_rows():
    seeds = np.array([[0.0], [1000.0]])
    rows = np.array([[0], [0], [-4], [4], [4], [-4]])  # on different devices: chunk_rows=1
    found = kmeans.fit(rows, 2, init=seeds, max_iterations=1, chunk_rows=1)
    assert found.centroids[1].tolist() == [-4]


def test_stop_waits_for_empty_clusters():
    # Seeds are the mean already, so the inertia does not fall, but an empty cluster is to repair.
    seeds = np.array([[0.0], [1000.0]])
    found = kmeans.fit(np.array([[-1.0], [1.0], [1.0]]), 2, init=seeds, tolerance=0.5)
    assert found.inertia == 0
    assert sorted(found.sizes.tolist()) == [1, 2]


def test_stops_by_tolerance():
    features, _ = make_blobs(spread=1.0)
    early = kmeans.fit(features, 6, tolerance=0.05)
    assert early.stopped == "inertia fell by less than tolerance"
    assert early.iterations < kmeans.fit(features, 6, tolerance=0.0).iterations
    falls = -np.diff(early.inertia_curve) / early.inertia_curve[:-1]
    assert falls[-1] <= 0.05
    assert (falls[:-1] > 0.05).all()


def test_ties_go_to_the_lowest_centroid():
    found = kmeans.assign(np.array([[1, 7]]), np.array([[2, 7], [0, 7], [2, 7], [9, 9]]))
    assert found.cluster.tolist() == [0]
    assert found.second_cluster.tolist() == [1]
    assert found.margin.tolist() == [0]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", np.int32, np.uint8, jnp.bfloat16])
def test_any_number_type_and_container(dtype, tmp_path):
    features = np.array([[0, 0], [2, 0], [100, 100], [102, 100]]).astype(dtype)
    np.asarray(features, np.float32).tofile(tmp_path / "rows")
    on_disk = np.memmap(tmp_path / "rows", np.float32, mode="r", shape=(4, 2))
    for rows in (features, jnp.asarray(features, jnp.float32), on_disk):
        found = kmeans.fit(rows, 2)
        assert sorted(found.centroids.tolist()) == [[1, 0], [101, 100]]
        assert found.inertia == 4


def test_constant_features_and_n_clusters_have_no_inertia():
    assert kmeans.fit(np.full((1001, 3), 0.1, np.float32), 1).inertia == 0
    features, _ = make_blobs(n=23)
    found = kmeans.fit(features, 23)
    assert found.inertia == 0
    assert found.sizes.tolist() == [1] * 23


def test_as_good_as_scikit_learn():
    features, _ = make_blobs(n=600, d=8, k=12, spread=2.0)
    for seed in range(3):  # the same seeds lead to the same optimum
        seeds = kmeans.fit(features, 12, seed=seed, max_iterations=0).centroids
        theirs = SklearnKMeans(12, init=seeds, n_init=1, tol=0).fit(features).inertia_
        ours = kmeans.fit(features, 12, seed=seed, tolerance=0.0)
        np.testing.assert_allclose(ours.inertia, theirs, rtol=1e-4)


def test_found_by_identity():
    # Of arrays == is an array, which is neither true nor false.
    features, _ = make_blobs(n=23)
    found, other = (kmeans.fit(features, 2) for _ in range(2))
    assert found == found
    assert found != other
    assert len({found, other, found}) == 2
    assert len({kmeans.assign(features, found.centroids) for _ in range(2)}) == 2


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_numpy_numbers_are_numbers(kind, untyped):
    features, _ = make_blobs(n=23)
    expected = kmeans.fit(features, 4, seed=3, max_iterations=5, l2=True, chunk_rows=8)
    states = []
    found = kmeans.fit(
        features,
        kind(4),
        seed=kind(3),
        max_iterations=kind(5),
        restarts=kind(1),
        chunk_rows=kind(8),
        l2=np.True_,
        on_iteration=lambda at: states.append(at.state()),
    )
    np.testing.assert_array_equal(found.centroids, expected.centroids)
    again = kmeans.fit(features, 4, seed=3, max_iterations=5, l2=True, resume=states[0])
    np.testing.assert_array_equal(again.assignment, expected.assignment)


def test_rows_whose_squares_underflow_are_refused():
    features, _ = make_blobs()
    kept = kmeans.fit(features * np.float32(1e-15), 6)
    np.testing.assert_array_equal(kept.assignment, kmeans.fit(features, 6).assignment)
    message = "rows of features differ, but lie within 2.2e-15 of their middle.*multiply features"
    for scale in (1e-17, 1e-25):
        for options in ({}, {"centre": True}):
            with pytest.raises(ValueError, match=message):
                kmeans.fit(features * np.float32(scale), 6, **options)
    with pytest.raises(ValueError, match="the centroids differ, but lie within"):
        kmeans.assign(features * np.float32(1e-25), features[:6] * np.float32(1e-25))
    # Lengths of 1 have nothing to lose, and equal rows no distance.
    scaled = kmeans.fit(features * np.float32(1e-25), 6, l2=True)
    np.testing.assert_array_equal(scaled.assignment, kmeans.fit(features, 6, l2=True).assignment)
    for value in (0, 1e-30, 1e9):
        constant = np.full((50, 3), value, np.float32)
        for centre in (False, True):
            assert kmeans.fit(constant, 1, centre=centre).inertia == 0
        assert (kmeans.assign(constant, constant[:2]).distance == 0).all()


@pytest.mark.parametrize(("offset", "warned"), [(1e3, False), (1e6, True), (-1e7, True)])
def test_rounding_that_tells_is_warned_of(caplog, offset, warned):
    features = np.random.default_rng(0).normal(size=(401, 5)) + offset
    kmeans.fit(features, 2)
    assert ("subtract their median in float64 first" in caplog.text) == warned
    caplog.clear()
    kmeans.fit(np.full((401, 5), offset), 1)
    assert not caplog.text


def with_value(value):
    features = np.ones((20000, 2))
    features[17001, 1] = value
    return features


@pytest.mark.parametrize(
    ("features", "k", "options", "message"),
    [
        ([1.0], 1, {}, r"features must be \[rows, d\].*got shape \(1,\)"),
        (
            [[1.0], [1.0, 2.0]],
            1,
            {},
            "features is a list that cannot be read as an array: .*inhomo",
        ),
        ([], 1, {}, r"got shape \(0,\)"),
        (["a.npy", 1.0], 1, {}, "features must be"),
        ({}, 1, {}, "features must be an array of numbers, or convertible .*; got a dict"),
        (np.ones(3), 1, {}, r"features must be \[rows, d\].*got shape \(3,\)"),
        (np.ones((0, 3)), 1, {}, r"rows, d >= 1; got shape \(0, 3\)"),
        (np.ones((3, 0)), 1, {}, r"rows, d >= 1; got shape \(3, 0\)"),
        (np.ones((3, 2), complex), 1, {}, "floats or integers; got complex128"),
        (with_value(np.nan), 1, {}, "features row 17001 holds nan at column 1"),
        (with_value(-np.inf), 1, {}, "features row 17001 holds -inf at column 1"),
        (with_value(np.inf), 1, {"l2": True}, "features row 17001 holds inf at column 1"),
        (with_value(np.nan), 1, {"centre": True}, "features row 17001 holds nan at column 1"),
        (with_value(1e300), 1, {}, r"row 17001 holds 1e\+300.*finite and within"),
        (np.ones((3, 2)), 0, {}, "k = 0 clusters for n = 3 rows"),
        (np.ones((3, 2)), 4, {}, "k = 4 clusters for n = 3 rows"),
        (np.eye(3).repeat(5, 0), 4, {}, "k = 4 is larger than .* only 3 differ.*choose k <= 3"),
        (np.ones((3, 2)), 1, {"tolerance": -0.1}, "tolerance = -0.1 is negative"),
        (np.ones((3, 2)), 1, {"tolerance": float("nan")}, "tolerance = nan is no number"),
        (np.ones((3, 2)), 1, {"tolerance": float("inf")}, "tolerance = inf is infinite"),
        (np.ones((3, 2)), 1, {"max_iterations": -1}, "max_iterations = -1 is negative"),
        (np.ones((3, 2)), 1, {"chunk_rows": 0}, "chunk_rows = 0"),
        (np.ones((3, 2)), 1, {"seed": -1}, "seed = -1 is negative"),
        (np.ones((3, 2)), 4.0, {}, "k = 4.0 is no whole number: give one"),
        (np.ones((3, 2)), "4", {}, "k = '4' is no whole number"),
        (np.ones((3, 2)), True, {}, "k = True is no whole number"),
        (np.ones((3, 2)), np.array([2]), {}, r"k = array\(\[2\]\) is no whole number"),
        (np.ones((3, 2)), 1, {"seed": 0.5}, "seed = 0.5 is no whole number"),
        (np.ones((3, 2)), 1, {"max_iterations": 1e3}, "max_iterations = 1000.0 is no whole number"),
        (np.ones((3, 2)), 1, {"restarts": None}, "restarts = None is no whole number"),
        (np.ones((3, 2)), 1, {"chunk_rows": "9"}, "chunk_rows = '9' is no whole number"),
        (np.ma.masked_less(np.eye(3), 1), 1, {}, "features: 6 masked values: leave these out"),
        (np.ones((3, 2)), 1, {"restarts": 0}, "restarts = 0"),
        (np.ones((3, 2)), 1, {"restarts": 2, "init": np.ones((1, 2))}, "all would be the same run"),
        (np.ones((3, 2)), 1, {"precision": "float16"}, "precision = 'float16': choose one of auto"),
        (np.ones((3, 2)), 1, {"precision": "tensorfloat32"}, "is for GPUs; this is a cpu"),
    ],
)
def test_fit_refuses(features, k, options, message, untyped):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(features, k, **options)


def test_assign_refuses():
    with pytest.raises(ValueError, match="centroids have d = 3, features have d = 2"):
        kmeans.assign(np.ones((4, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="centroids: 1 masked values"):
        kmeans.assign(np.ones((4, 2)), np.ma.masked_equal([[1, 2], [3, 4]], 4))
    with pytest.raises(ValueError, match="centroids row 1 holds nan"):
        kmeans.assign(np.ones((4, 2)), np.array([[0, 0], [0, np.nan]]))
    with pytest.raises(ValueError, match=r"axes \('model',\).*\"data\""):
        kmeans.assign(np.ones((4, 2)), np.ones((2, 2)), mesh=jax.make_mesh((1,), ("model",)))
