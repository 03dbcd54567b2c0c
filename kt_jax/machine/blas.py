"""Threads of linear algebra on the host, which NumPy and SciPy leave to BLAS."""

import contextlib
import functools

import threadpoolctl

# OpenBLAS's threads wait for each other many times in a decomposition, and spin while they do. Up
# to this size a second thread gains a fifth at most. If the cores have other work too, it takes 14
# to 170 times as long as one thread alone.
_SMALL = 2_400


def decomposing(size: int) -> contextlib.AbstractContextManager:
    """A context in which a matrix [size, size] is decomposed: by one thread, if it is small."""
    if size > _SMALL:
        return contextlib.nullcontext()
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    # The controller knows the libraries that are loaded; SciPy has one of its own.
    import scipy.linalg  # noqa: F401

    return threadpoolctl.ThreadpoolController()
