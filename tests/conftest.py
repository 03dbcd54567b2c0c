"""Four fake devices, and JAX's strict modes, for every test; and what makes tests fast."""

import gc
import importlib.util
import os
import tempfile
from importlib import metadata

# Before the backend starts; field experience: most sharding mistakes show on four CPU devices.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tests compile for longer than they compute. LLVM optimises nothing; the passes that decide what is
# sent between devices, and when, are those of users. No worker and no process that a test starts
# compiles what another has: the cache begins empty and ends with the tests.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="kt_jax-compilations-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    _FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if metadata.version("jaxlib").startswith("0.10."):
        # The newer emitters of fusions take twice as long; later versions have no others.
        _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS_OF_USERS"] = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
    # A worker for each core leaves none for a second thread (kt_jax/machine/blas.py).
    for _NAME in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_NAME, "1")
    # A fifth of the time of small programs goes into noting where each operation was written.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import hypothesis
import jax
import jaxtyping
import pytest

from kt_jax.machine import partition

# Tracing makes millions of objects, few of them in cycles.
gc.set_threshold(100_000, 20, 20)
partition.configure_xla()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile("kt_jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("kt_jax")

# `make reference` installs PyTorch for these, and fails where it finds none of them.
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["models/*reference*.py"]
if not importlib.util.find_spec("tensorflow"):
    collect_ignore_glob.append("models/test_reference_saved_model.py")
# These need the extra [browser] and a Chromium.
if not importlib.util.find_spec("playwright"):
    collect_ignore_glob.append("results/atlas/*browser*.py")

# The files that take longest, which workers begin with.
_LONGEST = (
    "test_main.py",
    "test_architectures.py",
    "test_kmeans_paths.py",
    "test_survival.py",
    "test_docs.py",
    "test_train.py",
)


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Gives back the memory of a module's programs, gigabytes in all."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def of_users():
    """The environment of processes that compile as users do, for what depends on last digits."""
    return {"XLA_FLAGS": os.environ["XLA_FLAGS_OF_USERS"]}


@pytest.fixture
def untyped():
    """Without the type checks of tests, as users call it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
