"""Reduced and whitened rows against numpy and scikit-learn; streams, labels and resuming."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

from kt_jax import kmeans
from kt_jax.kmeans import device, reduction, rows

N, D, DIMS, K = 301, 24, 5, 7


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def make_rows(n=N, d=D, rank=8, noise=0.1):
    """Far from the origin, in `rank` directions of decreasing variance, and a little in all."""
    rng = np.random.default_rng(0)
    some = rng.normal(size=(n, rank)) * np.linspace(4, 1, rank)
    mixed = some @ np.linalg.qr(rng.normal(size=(d, rank)))[0].T
    return (3 + mixed + noise * rng.normal(size=(n, d))).astype(np.float32)


ROWS = make_rows()


def as_seen(found, features, *, l2=False):
    """Rows as the docstring says, in float64."""
    seen = (features.astype(np.float64) - found.mean) @ found.components
    return seen / np.linalg.norm(seen, axis=1, keepdims=True) if l2 else seen


@pytest.mark.parametrize("whiten", [False, True])
def test_components_are_those_of_scikit_learn(whiten):
    found = kmeans.fit(ROWS, K, dims=DIMS, whiten=whiten, max_iterations=0)
    theirs = PCA(DIMS, whiten=whiten, svd_solver="full").fit(ROWS.astype(np.float64))
    expected = theirs.transform(ROWS.astype(np.float64))
    mine = as_seen(found, ROWS)
    signs = np.sign((mine * expected).sum(0))
    np.testing.assert_allclose(mine, expected * signs, atol=1e-4)
    # No sign is left to chance.
    largest = np.abs(found.components).argmax(0)
    assert (found.components[largest, np.arange(DIMS)] > 0).all()
    if whiten:
        np.testing.assert_allclose(np.cov(mine.T), np.eye(DIMS), atol=1e-4)


def test_more_dimensions_than_rows():
    features = make_rows(n=12, d=40)
    found = kmeans.fit(features, 3, dims=8)
    centred = features - features.mean(0, dtype=np.float64)
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    mine, theirs = (x / np.linalg.norm(x, axis=0) for x in (found.components, vectors[:8].T))
    np.testing.assert_allclose(np.abs((mine * theirs).sum(0)), 1, atol=1e-4)


@pytest.mark.parametrize("l2", [False, True])
def test_clusters_are_those_of_rows_reduced_before(l2):
    """And the mean is subtracted whatever `centre` says; the length divides after reducing."""
    found = kmeans.fit(ROWS, K, dims=DIMS, whiten=True, l2=l2)
    assert found.centroids.shape == (K, DIMS)
    np.testing.assert_allclose(found.mean, ROWS.mean(0), rtol=1e-6)
    before = as_seen(found, ROWS).astype(np.float32)
    expected = kmeans.fit(before, K, l2=l2)
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    assert found.inertia == pytest.approx(expected.inertia, rel=1e-5)
    centred = kmeans.fit(ROWS, K, dims=DIMS, whiten=True, l2=l2, centre=True)
    np.testing.assert_array_equal(centred.centroids, found.centroids)
    seen = as_seen(found, ROWS, l2=l2)
    distances = np.linalg.norm(seen[:, None] - found.centroids[None], axis=2)
    labelled = kmeans.assign(
        ROWS, found.centroids, mean=found.mean, components=found.components, l2=l2
    )
    np.testing.assert_array_equal(labelled.cluster, found.assignment)
    np.testing.assert_allclose(labelled.distance, distances.min(1), atol=1e-5)


def test_a_row_has_the_same_bits_whatever_rows_are_beside_it():
    found = kmeans.fit(ROWS, K, dims=DIMS, l2=True)
    how = {"mean": found.mean, "components": found.components, "l2": True}
    every = kmeans.assign(ROWS, found.centroids, **how)
    for count, devices in ((1, 1), (70, 4), (257, 3)):
        some = kmeans.assign(ROWS[:count], found.centroids, mesh=make_mesh(devices), **how)
        np.testing.assert_array_equal(some.distance, every.distance[:count])
        np.testing.assert_array_equal(some.margin, every.margin[:count])


def test_a_row_taken_alone_has_the_bits_that_it_has_in_its_block():
    """A seed is its row. A product of one row alone would be summed up in another order."""
    rng = np.random.default_rng(0)
    features, components = (rng.normal(size=x).astype(np.float32) for x in ((70, 900), (900, 9)))
    matrix = rows.Rows(features, K, mesh=None, chunk_rows=None, l2=True)
    matrix.look_from(device.Frame(np.zeros(900, np.float32), np.zeros(9, np.float32), components))
    (block,) = matrix.for_each(lambda _, block: matrix.fetch(block.values))
    for number in (0, 5, 69):
        np.testing.assert_array_equal(matrix.take(np.array([number]))[0], block[number])


@pytest.mark.parametrize(("devices", "keeps"), [(1, True), (4, False)])
def test_streams_and_meshes_give_the_same(devices, keeps, monkeypatch, tmp_path):
    options = {"dims": DIMS, "whiten": True, "l2": True, "init": "random"}
    expected = kmeans.fit(ROWS, K, **options)
    monkeypatch.setitem(rows._BLOCK_BYTES, "cpu", 16 * D * 4)
    monkeypatch.setattr(rows, "_REDUCED_BYTES", 2**20 if keeps else 0)
    np.save(tmp_path / "rows.npy", ROWS)
    prepared = []
    prepare = rows.device.prepare
    monkeypatch.setattr(rows.device, "prepare", lambda *args: prepared.append(1) or prepare(*args))
    found = kmeans.fit(tmp_path / "rows.npy", K, mesh=make_mesh(devices), **options)
    blocks = -(-N // (16 * devices))
    assert len(prepared) == blocks if keeps else len(prepared) > 3 * blocks
    np.testing.assert_allclose(found.components, expected.components, atol=1e-5)
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-5)


@pytest.mark.parametrize("when", ["on_seeding", "on_iteration"])
def test_a_resumed_run_takes_the_components_that_it_had(when, monkeypatch):
    options = {"dims": DIMS, "whiten": True, "tolerance": 0.0}
    expected = kmeans.fit(ROWS, K, **options)
    states = []
    kmeans.fit(ROWS, K, **options, **{when: lambda at: states.append(at.state())})
    monkeypatch.setattr(reduction, "find_components", None)
    found = kmeans.fit(ROWS, K, **options, resume=states[1])
    for name in ("components", "centroids", "assignment", "inertia_curve"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    plain = []
    kmeans.fit(ROWS, K, tolerance=0.0, on_iteration=lambda at: plain.append(at.state()))
    with pytest.raises(ValueError, match=r"resume is a state of another call \(dims = 0, here 5"):
        kmeans.fit(ROWS, K, **options, resume=plain[0])
    with pytest.raises(ValueError, match="whiten = True, here False"):
        kmeans.fit(ROWS, K, **options | {"whiten": False}, resume=states[1])


BAD = ROWS.copy()
BAD[17, 3] = np.nan
WILD = ROWS.copy()
WILD[17, 3] = 1e30
FLAT = make_rows(rank=3, noise=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": -1}, "dims = -1: give 1 or more, or 0 to keep all dimensions"),
        ({"dims": 2.5}, "dims = 2.5 is no whole number"),
        ({"whiten": 1, "dims": 2}, "whiten = 1: give True or False"),
        ({"whiten": True}, "whiten = True without dims: say how many"),
        ({"dims": D + 1}, "dims = 25, but n = 301 rows of d = 24 vary in at most 24 directions"),
        ({"dims": 9, "features": ROWS[:9]}, "vary in at most 8 directions: choose dims <= 8"),
        ({"dims": 2, "features": BAD}, "features row 17 holds nan at column 3"),
        ({"dims": 2, "features": WILD}, r"features row \d+ holds \S+ at column"),
        ({"dims": 2, "whiten": True, "features": np.ones((9, 3))}, "the rows do not vary"),
        ({"dims": 2, "l2": True, "features": ROWS * 1e-17}, "the rows of features vary by less"),
        ({"dims": 2, "features": ROWS * 1e-20}, "vary by less than 1.0e-15, where products"),
        ({"dims": 3, "init": ROWS[:K]}, "init have d = 24, features have d = 3"),
    ],
)
def test_what_cannot_work_is_refused(changes, message, untyped):
    features = changes.get("features", ROWS)
    options = {name: value for name, value in changes.items() if name != "features"}
    with pytest.raises(ValueError, match=message):
        kmeans.fit(features, K, **options)


def test_directions_without_variance_are_not_whitened(caplog):
    found = kmeans.fit(FLAT, K, dims=5, whiten=True)
    assert found.components.any(0).tolist() == [True] * 3 + [False] * 2
    assert "rows vary in 3 directions by more than 1e-06" in caplog.text
    assert "the other 2 of dims = 5 components are zero" in caplog.text
    fewer = kmeans.fit(FLAT, K, dims=3, whiten=True)
    np.testing.assert_array_equal(found.assignment, fewer.assignment)


def test_components_that_do_not_fit_are_refused():
    centroids = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"components have shape \(4, 3\), features have d = 24"):
        kmeans.assign(ROWS, centroids, components=np.ones((4, 3)))
    with pytest.raises(ValueError, match="centroids have d = 3, features have d = 2"):
        kmeans.assign(ROWS, centroids, components=np.ones((D, 2)))
    with pytest.raises(ValueError, match="components row 0 holds nan at column 0"):
        kmeans.assign(ROWS, centroids, components=np.full((D, 3), np.nan))
