"""Decompositions of small matrices take one thread, and leave the others as they were."""

import pytest
import scipy.linalg
import threadpoolctl

from kt_jax.machine import blas


def count_threads():
    found = threadpoolctl.threadpool_info()
    return {each["num_threads"] for each in found if each["user_api"] == "blas"}


@pytest.mark.parametrize(("size", "within"), [(2_400, {1}), (2_401, {2})])
def test_a_small_matrix_has_one_thread(size, within):
    assert scipy.linalg  # which brings a BLAS of its own
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with blas.decomposing(size):
            assert count_threads() == within
        assert count_threads() == {2}
