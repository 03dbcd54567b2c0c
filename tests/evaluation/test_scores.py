"""Intervals, and the comparison of two rows image by image."""

import numpy as np
import pytest
from scipy import stats

from kt_jax.evaluation import scores
from kt_jax.runs import files


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(0).integers(-1, 2, 300).astype(float)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=9_999, method="percentile", random_state=1
    ).confidence_interval
    np.testing.assert_allclose(scores.bootstrap(values), theirs, atol=0.01)


def test_two_rows_are_compared_image_by_image(tmp_path):
    labels = np.arange(100) % 4
    good, bad = labels.copy(), labels.copy()
    good[:10] += 1
    bad[:20] += 1  # wrong where the other is, and ten times more
    rows = [{"subject": name, "predictions": [x]} for name, x in (("good", good), ("bad", bad))]
    scores.write(tmp_path, rows, labels, leakage=[])
    written = files.read_json(tmp_path / "scores.json")
    assert written["leakage"] == []
    value, (low, high) = scores.difference(tmp_path, *written["rows"])
    assert value == pytest.approx(0.1)
    assert 0.04 < low < 0.06
    assert 0.15 < high < 0.17
    # Two such networks on other images could not be told apart.
    assert scores.bootstrap((good == labels).astype(float))[0] < 0.85


def test_a_row_of_several_draws_counts_their_mean():
    labels = np.array([0, 1, 0, 1])
    found = scores.accuracy([np.array([0, 1, 0, 0]), np.array([0, 0, 0, 0])], labels)
    assert found["value"] == pytest.approx(0.625)
    assert found["n"] == 4
    assert found["interval"][0] <= 0.625 <= found["interval"][1]
