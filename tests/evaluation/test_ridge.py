"""Ridge regression from moments equals ridge regression from rows."""

import numpy as np
import pytest
import scipy.linalg
import threadpoolctl
from sklearn.linear_model import Ridge

from kt_jax.evaluation import few_shot, ridge


def make_rows(n, d, classes, *, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % classes)
    rows = generator.normal(3, 2, (n, d)) + 2 * np.eye(classes, d)[labels]
    return rows, labels


def standardise(rows, channels):
    maps = rows.reshape(len(rows), -1, channels)
    return (rows - rows.mean(0)) / np.tile(maps.std((0, 1)), maps.shape[1])


@pytest.mark.parametrize("channels", [3, 12])
def test_scores_are_those_of_scikit_learn(channels):
    rows, labels = make_rows(80, 12, 3)
    halves = [ridge.moments_of(rows[part], labels[part], 3) for part in np.split(np.arange(80), 2)]
    x = standardise(rows, channels)
    unit = x.var(0).mean()
    fitted = list(ridge.fit(halves[0] + halves[1], channels))
    for penalty, found in zip(ridge.PENALTIES, fitted, strict=True):
        theirs = Ridge(alpha=penalty * unit * len(rows)).fit(x, np.eye(3)[labels])
        ours = rows @ found.weights + found.bias
        np.testing.assert_allclose(ours, theirs.predict(x), atol=1e-8)


def test_the_system_is_solved_by_one_thread(monkeypatch):
    rows, labels = make_rows(40, 4, 2)
    solve, seen = scipy.linalg.cho_factor, []

    def watch(*given, **options):
        found = threadpoolctl.threadpool_info()
        seen.extend(each["num_threads"] for each in found if each["user_api"] == "blas")
        return solve(*given, **options)

    monkeypatch.setattr(scipy.linalg, "cho_factor", watch)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        list(ridge.fit(ridge.moments_of(rows, labels, 2), 4))
    assert set(seen) == {1}


def test_a_channel_that_never_varies_does_no_harm():
    rows, labels = make_rows(40, 4, 2)
    rows[:, 1] = 7.0
    for found in ridge.fit(ridge.moments_of(rows, labels, 2), 4):
        assert np.isfinite(rows @ found.weights).all()


def test_rounded_sums_of_rows_that_hardly_vary_can_be_solved():
    rows, labels = make_rows(40, 6, 2)
    rows[:, 2:4] = 50 + 1e-4 * rows[:, 2:4]
    rows[:, 5] = rows[:, 4]
    exact = ridge.moments_of(rows, labels, 2)
    noise = np.random.default_rng(0).normal(0, 1e-6, (6, 6)) * exact.products
    rounded = ridge.Moments(exact.counts, exact.by_class, exact.products + noise + noise.T)
    for found in ridge.fit(rounded, 6):
        scores = rows @ found.weights + found.bias
        assert np.isfinite(scores).all()
        assert (scores.argmax(1) == labels).mean() > 0.6


def test_few_rows_have_the_same_classifier_and_the_leave_one_out_of_refits():
    rows, labels = make_rows(30, 40, 3)
    found, right = few_shot.fit(rows, labels, 3, 10)
    moments = ridge.moments_of(rows, labels, 3)
    same = [np.allclose(each.weights, found.weights, atol=1e-6) for each in ridge.fit(moments, 10)]
    assert sum(same) == 1
    x = standardise(rows, 10)
    shares = []
    for penalty in ridge.PENALTIES:
        model = Ridge(alpha=penalty * x.var(0).mean() * len(rows))
        hits = 0
        for row in range(30):
            others = np.arange(30) != row
            model.fit(x[others], np.eye(3)[labels[others]])
            hits += int(model.predict(x[row : row + 1])[0].argmax() == labels[row])
        shares.append(hits / 30)
    assert right == pytest.approx(max(shares))
    assert right == pytest.approx(shares[same.index(True)])
    assert 0.3 < right < 0.9
