"""What devices say of their memory: GPUs and TPUs do, CPUs do not."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax


def read(device: Any) -> Mapping[str, int]:
    """Bytes by name, such as "bytes_limit"; empty of a device that does not say."""
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return device.memory_stats() or {}
    return {}


def find_peak() -> int:
    """The most bytes that were in use at once on a device of this process, since it began.

    JAX cannot set it back. It counts what programs and arrays use, not what JAX reserves. 0 where
    no device says.
    """
    return max(read(device).get("peak_bytes_in_use", 0) for device in jax.local_devices())
