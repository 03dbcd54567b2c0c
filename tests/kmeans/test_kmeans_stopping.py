"""A run that `on_iteration` stops, and its state."""

import numpy as np
import pytest

from kt_jax import kmeans

ROWS = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
OPTIONS = {"tolerance": 0, "max_iterations": 12}


@pytest.mark.parametrize("true", [True, np.True_])
def test_it_stops_with_the_centroids_of_that_iteration(true):
    seen = []

    def stop(at):
        seen.append(at.state())
        return true if at.iteration == 3 else None

    found = kmeans.fit(ROWS, 5, on_iteration=stop, **OPTIONS)
    expected = kmeans.fit(ROWS, 5, tolerance=0, max_iterations=3)
    assert found.stopped == "on_iteration returned True"
    for name in ("centroids", "assignment", "inertia", "inertia_curve", "iterations", "sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    whole = kmeans.fit(ROWS, 5, **OPTIONS)
    assert whole.iterations > 3
    resumed = kmeans.fit(ROWS, 5, resume=seen[-1], **OPTIONS)
    np.testing.assert_array_equal(resumed.centroids, whole.centroids)
    assert resumed.inertia_curve == whole.inertia_curve
    assert resumed.stopped == whole.stopped


def test_no_restart_follows():
    seen = []

    def stop(at):
        seen.append((at.restart, at.iteration))
        return seen[-1] == (1, 2)

    found = kmeans.fit(ROWS, 5, restarts=5, on_iteration=stop, **OPTIONS)
    assert seen[-1] == (1, 2)
    assert {restart for restart, _ in seen} == {0, 1}
    assert found.inertia_curve[-1] == pytest.approx(found.inertia)


@pytest.mark.parametrize("other", [1, 0.5, "yes", [1], np.ones(3), {"a": 1}, False, np.False_])
def test_only_true_stops_it(other):
    found = kmeans.fit(ROWS, 5, on_iteration=lambda _: other, max_iterations=1)
    assert found.stopped == "max_iterations"
