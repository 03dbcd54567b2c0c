"""Weights of rows: equal to repeated rows, and to none where all are equal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans import rows
from kt_jax.kmeans.__main__ import main
from kt_jax.runs import files

N, D, K = 403, 4, 6
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(N, D)).astype(np.float32) + 2
WHOLE = RANDOM.integers(0, 4, N)  # a quarter weighs nothing
START = ROWS[WHOLE > 0][:K]


def same(found, expected, scale=1):
    """Asserts that results are equal to the bit, with inertias `scale` times as large."""
    for field in dataclasses.fields(kmeans.KMeans):
        one, other = (getattr(each, field.name) for each in (found, expected))
        factor = scale if field.name.startswith("inertia") else 1
        if other is not None and factor != 1:
            other = np.multiply(other, factor)
        np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "k-means||"},
        {"init": "k-means++", "centre": True, "l2": True},
        {"init": "random", "spherical": True, "precision": "exact"},
    ],
)
def test_equal_weights_are_none(options):
    plain = kmeans.fit(ROWS, K, seed=3, **options)
    for scale in (1, 2):
        same(kmeans.fit(ROWS, K, seed=3, sample_weight=[scale] * N, **options), plain, scale)


@pytest.mark.parametrize(
    "options", [{"centre": True, "l2": True}, {"precision": "exact", "spherical": True}]
)
def test_whole_weights_are_repeated_rows(options):
    start = START / np.linalg.norm(START, axis=1, keepdims=True)
    options = {"init": start, "tolerance": 0, **options}
    repeated = kmeans.fit(np.repeat(ROWS, WHOLE, axis=0), K, **options)
    found = kmeans.fit(ROWS, K, sample_weight=WHOLE, **options)
    np.testing.assert_array_equal(np.repeat(found.assignment, WHOLE), repeated.assignment)
    np.testing.assert_allclose(found.centroids, repeated.centroids, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean, repeated.mean, rtol=1e-6)
    np.testing.assert_allclose(found.inertia_curve, repeated.inertia_curve, rtol=1e-5)
    assert found.inertia == pytest.approx(repeated.inertia, rel=1e-5)
    # Rows that weigh nothing are labelled, and sizes are numbers of rows.
    np.testing.assert_array_equal(found.assign(ROWS).cluster, found.assignment)
    assert found.sizes.tolist() == np.bincount(found.assignment, minlength=K).tolist()


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
def test_seeds_are_drawn_by_weight(init):
    weights = (np.arange(N) % 2).astype(np.float64)
    heavy = N - 4
    weights[heavy] = 1e6
    for seed in range(3):
        found = kmeans.fit(ROWS, K, seed=seed, init=init, sample_weight=weights, max_iterations=0)
        at = [np.flatnonzero((ROWS == row).all(1)) for row in found.centroids]
        assert all(len(each) == 1 and weights[each[0]] for each in at)
        assert heavy in np.concatenate(at)


def test_an_empty_cluster_moves_to_no_row_without_weight():
    given = np.array([[0.0], [1.0], [2.0], [70.0], [9.0]])
    seeds, weights = [[0.0], [500.0]], [1, 0.5, 1, 0, 0.25]
    found = kmeans.fit(given, 2, init=seeds, sample_weight=weights, max_iterations=1)
    assert found.repaired == (1,)
    assert found.centroids[1] == 9
    assert found.assignment.tolist() == [0, 0, 0, 1, 1]


def test_streamed_rows_and_other_meshes_give_the_same(tmp_path, monkeypatch):
    auto = (jax.sharding.AxisType.Auto,)
    one, four = (
        jax.make_mesh((count,), ("data",), axis_types=auto, devices=jax.devices()[:count])
        for count in (1, 4)
    )
    np.save(tmp_path / "f.npy", ROWS)
    weights = RANDOM.random(N)
    options = {"init": START, "centre": True, "sample_weight": weights, "chunk_rows": 8}
    found = kmeans.fit(ROWS, K, mesh=one, **options)
    other = kmeans.fit(ROWS, K, mesh=four, **options)
    np.testing.assert_array_equal(found.assignment, other.assignment)
    np.testing.assert_allclose(found.centroids, other.centroids, rtol=1e-5)
    monkeypatch.setitem(rows._BLOCK_BYTES, "cpu", 16 * D * 4)
    kept = kmeans.fit(ROWS, K, mesh=four, **options)
    streamed = kmeans.fit(tmp_path / "f.npy", K, mesh=four, **options)
    same(streamed, kept)
    np.testing.assert_array_equal(streamed.assignment, found.assignment)


def test_an_interrupted_fit_resumes_with_its_weights():
    weights, states = RANDOM.random(N), []
    options = {"tolerance": 0, "max_iterations": 6}
    whole = kmeans.fit(
        ROWS, K, sample_weight=weights, **options, on_iteration=lambda at: states.append(at.state())
    )
    same(kmeans.fit(ROWS, K, sample_weight=weights, **options, resume=states[2]), whole)
    for other in (weights + 1, None):
        with pytest.raises(ValueError, match="resume is a state of another call"):
            kmeans.fit(ROWS, K, sample_weight=other, **options, resume=states[2])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"sample_weight has shape \(3,\): give one for each of n = 403 rows"),
        (np.full(N, "a"), "sample_weight has the dtype <U1: give numbers"),
        (np.r_[np.ones(7), -1, np.ones(N - 8)], "sample_weight of row 7 is -1.0: weights must be"),
        (np.r_[np.nan, np.ones(N - 1)], "sample_weight of row 0 is nan: weights must be 0 or"),
        (np.full(N, 1e10), "and at most 1e"),
        (np.zeros(N), "sample_weight is zero for all rows"),
        (np.full(N, 1e-40), "sample_weight is zero for all rows, or below 1e-30"),
        (np.ma.masked_equal(np.arange(N), 3), "sample_weight: 1 masked values: leave these out"),
        (
            np.r_[np.ones(5), np.zeros(N - 5)],
            "only 5 rows have a weight above zero .*: choose k <= 5",
        ),
    ],
)
def test_other_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(ROWS, K, sample_weight=weights)


def test_weights_of_few_bits_and_vanishing_ones():
    weights = np.arange(N) % 2 + 1.0
    wanted = kmeans.fit(ROWS, K, sample_weight=weights)
    for dtype in (jnp.bfloat16, jnp.float16):
        same(kmeans.fit(ROWS, K, sample_weight=jnp.asarray(weights, dtype)), wanted)
    some = np.where(np.arange(N) % 3, 1.0, 0.0)
    tiny = np.where(some == 0, 1e-40, some)
    same(kmeans.fit(ROWS, K, sample_weight=tiny), kmeans.fit(ROWS, K, sample_weight=some))


def test_rows_without_weight_may_lie_anywhere():
    features, weights = ROWS.copy(), np.ones(N)
    features[: N // 2 + 40], weights[: N // 2 + 40] = 1e6, 0
    found = kmeans.fit(features, K, sample_weight=weights)
    real = features[weights > 0].astype(np.float64)
    distances = np.square(real[:, None] - found.centroids[None]).sum(2)
    np.testing.assert_array_equal(found.assignment[weights > 0], distances.argmin(1))
    assert found.inertia == pytest.approx(distances.min(1).sum(), rel=1e-5)


def test_components_take_no_weights():
    with pytest.raises(ValueError, match="sample_weight with dims = 2: principal components take"):
        kmeans.fit(ROWS, K, sample_weight=np.ones(N), dims=2)


def test_the_command_reads_weights(tmp_path, capsys):
    np.save(tmp_path / "f.npy", ROWS)
    np.save(tmp_path / "w.npy", WHOLE)
    words = [f"--features={tmp_path / 'f.npy'}", f"--k={K}", f"--sample_weight={tmp_path}/w.npy"]
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 0
    same(kmeans.load(tmp_path / "out"), kmeans.fit(ROWS, K, sample_weight=WHOLE))
    assert main([*words, f"--out={tmp_path / 'some'}", "--subsample=200"]) == 0
    found = kmeans.load(tmp_path / "some")
    drawn = np.sort(np.random.default_rng(0).choice(N, 200, replace=False, shuffle=False))
    some = kmeans.fit(ROWS[drawn], K, sample_weight=WHOLE[drawn])
    np.testing.assert_array_equal(found.centroids, some.centroids)
    squared = np.square(some.assign(ROWS).distance, dtype=np.float64)
    assert found.inertia == pytest.approx((squared * WHOLE).sum())
    summary = files.read_json(tmp_path / "some" / "clusters.json")
    assert summary["sample_weight"] == str(tmp_path / "w.npy")
    np.save(tmp_path / "w.npy", np.ones(N))
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 2
    assert "w.npy has changed since" in capsys.readouterr().err


def test_heavy_rows_that_leave_a_cluster_take_no_digits_of_light_ones():
    """Else the light cluster's sum and weight would be what rounding has left: even NaN."""
    light = RANDOM.normal(0, 0.1, 80).reshape(-1, 1)
    rows = np.concatenate([[[-10.0], [10.0]], light[:30] + 0.3, light[30:55] - 12, light[55:] + 12])
    weights = np.ones(len(rows))
    weights[:2] = 1e7, 0.7e7
    init = [[0.0], [-21.0], [21.0]]
    found = kmeans.fit(rows, 3, init=init, sample_weight=weights, tolerance=0)
    assert found.sizes.tolist() == [30, 26, 26]
    np.testing.assert_allclose(found.centroids[0], rows[2:32].mean(0), rtol=1e-5)
