"""The estimator of scikit-learn: its checks, its tests of k-means, and `kmeans.fit`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kt_jax import kmeans
from kt_jax.kmeans.estimator import KMeans
from kt_jax.runs import versions

ROWS = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "seeds are drawn from other rows than "
    "repeated ones: scikit-learn's own KMeans fails it, too"
}


@pytest.mark.slow  # each check has other shapes, and so compiles
@parametrize_with_checks(
    [KMeans(2, random_state=0, max_iter=20)], expected_failed_checks=lambda _: EXPECTED
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_scikit_learns_own_tests_of_k_means(tmp_path):
    settings = tmp_path / "pytest.ini"  # else pytest finds pyproject.toml above .venv
    settings.write_text("[pytest]\n")
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, os.getcwd(), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
    command += ["-c", str(settings)]
    command += ["-p", "scikit_learn_plugin", "--pyargs", "sklearn.cluster.tests.test_k_means"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    # Most of those that the plugin leaves in; each known difference takes one or two away.
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 15, done.stdout[-4000:]


def test_it_is_fit():
    estimator = KMeans(5, random_state=3, tol=0, max_iter=7).fit(ROWS)
    found = kmeans.fit(ROWS, 5, seed=3, init="k-means++", tolerance=0, max_iterations=7)
    np.testing.assert_array_equal(estimator.cluster_centers_, found.centroids)
    np.testing.assert_array_equal(estimator.labels_, found.assignment)
    assert (estimator.inertia_, estimator.n_iter_) == (found.inertia, found.iterations)
    np.testing.assert_array_equal(estimator.predict(ROWS), found.assignment)
    distances = np.linalg.norm(ROWS[:, None].astype(float) - found.centroids[None], axis=2)
    np.testing.assert_allclose(estimator.transform(ROWS), distances, rtol=1e-4)
    assert estimator.score(ROWS) == pytest.approx(-found.inertia, rel=1e-5)
    weights = np.arange(300)
    weighted = clone(estimator).fit(ROWS, sample_weight=weights)
    expected = -(weights * distances.min(1) ** 2).sum()
    assert estimator.score(ROWS, sample_weight=weights) == pytest.approx(expected, rel=1e-5)
    assert weighted.inertia_ == pytest.approx(-weighted.score(ROWS, sample_weight=weights))
    twice = clone(estimator).fit(ROWS, sample_weight=2.0)
    assert twice.inertia_ == pytest.approx(-twice.score(ROWS, sample_weight=2))
    assert twice.inertia_ == pytest.approx(2 * found.inertia, rel=1e-5)


def test_it_fits_in_a_pipeline_and_takes_centroids():
    pipeline = make_pipeline(StandardScaler(), KMeans(3, init=ROWS[:3]))
    labels = pipeline.fit_predict(ROWS)
    assert labels.tolist() == pipeline.predict(ROWS).tolist()
    assert list(pipeline.get_feature_names_out()) == ["kmeans0", "kmeans1", "kmeans2"]
    with pytest.warns(RuntimeWarning, match="n_init=4 from given centroids"):
        KMeans(3, init=ROWS[:3], n_init=4, max_iter=2).fit(ROWS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": -1}, "max_iter = -1 is negative"),
        ({"tol": -1.0}, "tol = -1.0 is negative"),
        ({"n_init": 0}, "n_init = 0: give 1 or more"),
        ({"init": "best"}, "init = 'best': choose one of k-means"),
        ({"n_clusters": 301}, "n_samples=300 should be >= n_clusters=301"),
        ({"n_clusters": 2.5}, "n_clusters = 2.5 is no whole number"),
        ({"n_clusters": 0}, "n_clusters = 0: give 1 or more"),
        ({"random_state": -1}, "random_state = -1 is negative: give 0 or more"),
    ],
)
def test_parameters_are_refused_by_their_names(options, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**options).fit(ROWS)


def test_without_scikit_learn_it_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import kt_jax.kmeans.estimator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: kt_jax.kmeans.estimator needs scikit-learn: "
        + versions.install_extra("sklearn")
    )
