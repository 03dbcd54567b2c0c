"""A plugin of pytest: scikit-learn's own tests of k-means, of `kt_jax.kmeans.estimator.KMeans`.

    pytest -p scikit_learn_plugin --pyargs sklearn.cluster.tests.test_k_means

It leaves out the tests of what the estimator does not have. Known differences may fail.
"""

import re

import pytest
import sklearn.cluster

from kt_jax.kmeans import estimator

# By regular expressions of the tests' names.
_OUT = {
    r"[Mm]ini_?[Bb]atch": "no mini-batches",
    r"sparse|csr_": "no sparse matrices",
    r"elkan": "one algorithm",
    r"verbose": "it logs instead",
    r"k_means_function|kmeans_plusplus|n_init_auto|copyx": "no such function or parameter",
    r"relocate_empty_clusters|euclidean_distance|test_inertia\b|is_same_clustering|"
    r"sample_weight_init|sample_weight_zero": "a private function",
    r"all_init.*lambda|all_init.*callable|init_auto_with_initial_centroids": "init is no function",
}
_DIFFERENT = {
    r"float_precision|integer_input|transform|predict|fortran|scaled_weights|weighted_vs_repeated":
        "float32",
    r"init_fitted_centers": "float32: sums follow the rows that moved, in another order",
    r"warns_less_centers|relocating_with_duplicates": "k above the distinct rows is refused",
    r"wrong_params|n_samples|init_wrong": "refused with a ValueError in other words",
    r"kmeans_results": "n_iter_ counts updates, without the pass that finds nothing to update",
    r"n_init_precomputed_centers": "warned of in other words",
}  # fmt: skip


class KMeans(estimator.KMeans):
    """Takes the parameters that change no result, too."""

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means++",
        n_init="auto",
        max_iter=300,
        tol=1e-4,
        verbose=0,
        random_state=None,
        copy_x=True,
        algorithm="lloyd",
    ):
        super().__init__(
            n_clusters, init=init, n_init=n_init, max_iter=max_iter, tol=tol,
            random_state=random_state,
        )  # fmt: skip
        self.verbose, self.copy_x, self.algorithm = verbose, copy_x, algorithm


def pytest_configure(config):
    sklearn.cluster.KMeans = KMeans


def pytest_collection_modifyitems(config, items):
    for item in items:
        for marks, mark in ((_OUT, pytest.mark.skip), (_DIFFERENT, pytest.mark.xfail)):
            for pattern, reason in marks.items():
                if re.search(pattern, item.name):
                    item.add_marker(mark(reason=reason))
                    break
