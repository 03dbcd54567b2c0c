"""What one measuring process does on a GPU; as kmeans_jobs.py, and apart from it for its peers.

A process measures one system at every size: starting JAX or torch on a GPU takes longer than most
measurements. A rate is 2nkd / seconds: what the matrix product alone needs, whatever else a system
computes.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from kmeans_jobs import seconds, serve

from kt_jax import kmeans

ROW_BYTES = 2**31  # of float32 rows: fits any GPU of 8 GB, with what a system keeps beside them
CHUNK_BYTES = 2**30  # of distances, where a peer has to be told
TIMES = 10


def look(job: dict[str, Any]) -> dict[str, Any]:
    """What is here; in its own process, since JAX takes most of a GPU's memory for good."""
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return {"backend": jax.default_backend(), "device": device.device_kind, "bytes": limit}


def at_every_size(
    measure: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Measures cell after cell; a cell that fails says why, and costs no other."""

    def run(job: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for cell in job["cells"]:
            try:
                rows.append({**cell, **measure({**job, **cell})})
            except Exception as error:  # out of memory, most often
                rows.append({**cell, "error": f"{type(error).__name__}: {error}"[:200]})
        return {"rows": rows}

    return run


def rate(job: dict[str, Any], elapsed: float) -> float:
    return 2 * rows_of(job) * job["d"] * job["k"] / elapsed / 1e12


def rows_of(job: dict[str, Any]) -> int:
    return min(job["most_rows"], ROW_BYTES // (4 * job["d"]))


def median_seconds(run: Callable[[], Any]) -> float:
    """Of several, after two that compile and choose an algorithm."""
    run(), run()
    return float(np.median([seconds(run) for _ in range(TIMES)]))


def run_gemm(job: dict[str, Any]) -> dict[str, Any]:
    """TFLOP/s of a square product: what this GPU gives."""
    side = job["side"]
    tf32 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32
    kinds = {
        "bfloat16": (jnp.bfloat16, None),
        "tensorfloat32": (jnp.float32, tf32),
        "float32": (jnp.float32, jax.lax.Precision.HIGHEST),
    }
    rates = {}
    for name, (dtype, precision) in kinds.items():
        a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in (0, 1))

        def multiply(a: jax.Array, b: jax.Array, precision: Any = precision) -> jax.Array:
            return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

        run = jax.jit(multiply)
        elapsed = median_seconds(lambda run=run, a=a, b=b: run(a, b).block_until_ready())
        rates[name] = 2 * side**3 / elapsed / 1e12
    return {"rates": rates}


def run_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Whole iterations of `fit`, host's work and all, and the whole call of `assign`."""
    n, d, k, precision = rows_of(job), job["d"], job["k"], job["precision"]
    x = jax.random.normal(jax.random.key(0), (n, d), jnp.float32)
    start = np.asarray(x[:k])

    def iterate() -> float:
        times: list[float] = []
        kmeans.fit(
            x,
            k,
            init=start,
            tolerance=0,
            max_iterations=TIMES,
            precision=precision,
            on_iteration=lambda _: times.append(time.perf_counter()),
        )
        return float(np.median(np.diff(times)))

    iterate()  # compiles
    step = iterate()
    label = median_seconds(lambda: kmeans.assign(x, start, precision=precision))
    return {"n": n, "step": rate(job, step), "assign": rate(job, label)}


def run_torch(job: dict[str, Any]) -> dict[str, Any]:
    """The few lines that one writes oneself: chunks of a matrix product, argmin, index_add."""
    torch: Any = importlib.import_module("torch")
    n, d, k = rows_of(job), job["d"], job["k"]
    tf32 = job["precision"] == "tensorfloat32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    half = job["precision"] == "bfloat16"
    x = torch.randn(n, d, device="cuda")
    start = x[:k].clone()
    chunk = max(CHUNK_BYTES // (4 * k), 1)

    def nearest(rows: Any, to: Any) -> Any:
        norms = to.square().sum(1)
        if half:
            return (norms - 2 * (rows.bfloat16() @ to.bfloat16().T).float()).argmin(1)
        return (norms - 2 * rows @ to.T).argmin(1)

    compiled = True
    fast = torch.compile(nearest)
    try:
        fast(x[:chunk], start)
    except Exception:  # whatever torch.compile lacks here: a compiler, Triton, this GPU
        compiled, fast = False, nearest

    def assign() -> Any:
        label = torch.cat([fast(rows, start) for rows in x.split(chunk)])
        torch.cuda.synchronize()
        return label

    def step() -> None:
        label = assign()
        sums = torch.zeros(k, d, device="cuda").index_add_(0, label, x)
        sums / torch.bincount(label, minlength=k).clamp(min=1)[:, None]
        torch.cuda.synchronize()

    return {
        "n": n,
        "step": rate(job, median_seconds(step)),
        "assign": rate(job, median_seconds(assign)),
        "compiled": compiled,
    }


def slope(fit: Callable[[int], Any]) -> float:
    """Seconds of an iteration, free of what happens once."""
    fit(1)
    few, many = (seconds(lambda count=count: fit(count)) for count in (2, 2 + TIMES))
    return (many - few) / TIMES


def run_cuml(job: dict[str, Any]) -> dict[str, Any]:
    cluster, cupy = importlib.import_module("cuml.cluster"), importlib.import_module("cupy")
    n, d, k = rows_of(job), job["d"], job["k"]
    x = cupy.random.standard_normal((n, d), dtype=cupy.float32)

    def fit(iterations: int) -> None:
        cluster.KMeans(k, init=x[:k], n_init=1, max_iter=iterations, tol=0).fit(x)
        cupy.cuda.Device().synchronize()

    return {"n": n, "step": rate(job, slope(fit))}


def run_faiss(job: dict[str, Any]) -> dict[str, Any]:
    faiss = importlib.import_module("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        raise RuntimeError("this faiss has no GPU code")
    n, d, k = rows_of(job), job["d"], job["k"]
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    options = {"max_points_per_centroid": 10**9, "min_points_per_centroid": 1, "gpu": True}

    def fit(iterations: int) -> None:
        faiss.Kmeans(d, k, niter=iterations, **options).train(x, init_centroids=x[:k])

    return {"n": n, "step": rate(job, slope(fit))}


if __name__ == "__main__":
    serve(
        {
            "look": look,
            "gemm": run_gemm,
            "kt_jax": at_every_size(run_ours),
            "torch": at_every_size(run_torch),
            "cuML": at_every_size(run_cuml),
            "faiss": at_every_size(run_faiss),
        }
    )
