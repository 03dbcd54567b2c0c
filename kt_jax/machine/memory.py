"""The memory of devices. GPUs and TPUs report it, CPUs do not."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax


def read(device: Any) -> Mapping[str, int]:
    """The memory statistics of a device in bytes, such as "bytes_limit"; empty if not reported."""
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return device.memory_stats() or {}
    return {}


def find_peak() -> int:
    """The peak memory in bytes of the fullest device of this process, since the process began.

    JAX cannot reset the peak. It counts programs and arrays, not memory that JAX only reserves.
    0 if no device reports it.
    """
    return max(read(device).get("peak_bytes_in_use", 0) for device in jax.local_devices())
