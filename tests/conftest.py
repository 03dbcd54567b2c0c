"""Four fake devices, and JAX's strict modes, for every test."""

import os

# Before the backend starts; field experience: most sharding mistakes show on four CPU devices.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping
import pytest

from kt_jax import partition

partition.configure_xla()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile("kt_jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("kt_jax")


@pytest.fixture
def untyped():
    """Without the type checks of tests, as users call it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
