"""Threads of linear algebra on the host, which NumPy and SciPy leave to BLAS."""

import contextlib
import threading
from collections.abc import Iterator

import threadpoolctl

# OpenBLAS's threads wait for each other many times in a decomposition, and spin while they do. Up
# to this size a second thread gains little on quiet cores. If the cores have other work, several
# threads take many times as long as one.
_SMALL = 2_400
# A limit is of the whole process, and ends with the thread that set it first.
_LOCK = threading.Lock()


@contextlib.contextmanager
def decomposing(size: int) -> Iterator[None]:
    """A context in which a matrix [size, size] is decomposed: by one thread, if it is small."""
    if size > _SMALL:
        yield
        return
    with _LOCK, threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
