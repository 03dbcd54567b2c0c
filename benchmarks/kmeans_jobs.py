"""What one measuring process does: `python kmeans_jobs.py '{"job": "gemm", ...}' result.json`.

Each system runs in a process of its own, because BLAS and OpenMP libraries of several systems in
one process share threads and memory, and because the largest memory of a process says whose it
was only if it ran one system. Libraries that may be absent are imported by name where they are
used; that they are absent is then an answer like any other.
"""

import contextlib
import importlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kt_jax import kmeans

# What kt_jax.kmeans compiles with on a CPU. "Plain GEMM" is the fastest of these and NumPy.
YNN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
GEMM_REPEATS = 5


def serve(jobs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Does the job of the command line and writes what it returns."""
    job = json.loads(sys.argv[1])
    Path(sys.argv[2]).write_text(json.dumps(jobs[job["job"]](job)))


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def memory() -> dict[str, int]:
    """Bytes of this process by kind: VmHWM is the most that VmRSS was, RssAnon is no file's."""
    text = Path("/proc/self/status").read_text()
    return {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}


@contextlib.contextmanager
def peak_memory(interval: float = 0.05) -> Iterator[dict[str, int]]:
    """Fills the dictionary it gives with the most of each kind; no kernel keeps RssAnon's."""
    peak: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while True:
            now = memory()
            peak.update({name: max(peak.get(name, 0), value) for name, value in now.items()})
            if done.wait(interval):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure_inertia(x: np.ndarray, centroids: np.ndarray, chunk: int = 4096) -> float:
    """The same float64 arithmetic for all systems, whatever they say themselves."""
    to = centroids.astype(np.float64)
    norms = np.square(to).sum(1)
    total = 0.0
    for start in range(0, len(x), chunk):
        rows = x[start : start + chunk].astype(np.float64)
        total += float((norms[None] - 2 * rows @ to.T).min(1).sum() + np.square(rows).sum())
    return total


# Lloyd's iteration from given centroids. Each gives fit(iterations) -> (centroids, iterations
# done), and what is to be known about the system.


def open_faiss(x: np.ndarray, start: np.ndarray) -> tuple[Any, dict[str, Any]]:
    faiss = importlib.import_module("faiss")

    def fit(iterations: int) -> tuple[np.ndarray, int]:
        found = faiss.Kmeans(
            x.shape[1],
            len(start),
            niter=iterations,
            max_points_per_centroid=10**9,
            min_points_per_centroid=1,
        )
        found.train(x, init_centroids=start)
        return found.centroids, iterations

    return fit, {"threads": faiss.omp_get_max_threads()}


def open_sklearn(module: str, algorithm: str) -> Any:
    """scikit-learn's own or Intel's, which has the same interface."""

    def open_it(x: np.ndarray, start: np.ndarray) -> tuple[Any, dict[str, Any]]:
        cluster = importlib.import_module(module)
        about: dict[str, Any] = {}

        def note(record: logging.LogRecord) -> bool:
            about["note"] = record.getMessage()  # Intel's says if it fell back to scikit-learn's
            return False

        logger = logging.getLogger("sklearnex")
        logger.setLevel(logging.INFO)
        logger.addFilter(note)

        def fit(iterations: int) -> tuple[np.ndarray, int]:
            found = cluster.KMeans(
                len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm=algorithm
            ).fit(x)
            return found.cluster_centers_, int(found.n_iter_)

        return fit, about

    return open_it


def open_ours(precision: str) -> Any:
    def open_it(x: np.ndarray, start: np.ndarray) -> tuple[Any, dict[str, Any]]:
        def fit(iterations: int) -> tuple[np.ndarray, int]:
            found = kmeans.fit(
                x,
                len(start),
                init=start,
                max_iterations=iterations,
                tolerance=0,
                precision=precision,
            )
            about["stopped"] = found.stopped
            return found.centroids, found.iterations

        about: dict[str, Any] = {}
        return fit, about

    return open_it


SYSTEMS = {
    "faiss": open_faiss,
    "scikit-learn lloyd": open_sklearn("sklearn.cluster", "lloyd"),
    "scikit-learn elkan": open_sklearn("sklearn.cluster", "elkan"),
    "scikit-learn-intelex": open_sklearn("sklearnex.cluster", "lloyd"),
    "kt_jax float32": open_ours("float32"),
    "kt_jax exact": open_ours("exact"),
}


def run_iterations(job: dict[str, Any]) -> dict[str, Any]:
    """Times a few and many iterations: the slope between them is free of what happens once.

    The first call warms up. Ours is as long as the one that is timed, since programs for few
    changed centroids are compiled when the iteration first has few; it is also the cold total.
    """
    x, start = np.load(job["rows"]), np.load(job["start"])
    few, many = job["iterations"]
    fit, about = SYSTEMS[job["system"]](x, start)
    loaded = memory()["VmRSS"]
    ours = job["system"].startswith("kt_jax")
    first = seconds(lambda: fit(many if ours else 1))
    begin, worked = time.perf_counter(), time.process_time()
    _, few_done = fit(few)
    between = time.perf_counter()
    centroids, done = fit(many)
    end = time.perf_counter()
    cores = (time.process_time() - worked) / (end - begin)
    peak = memory()["VmHWM"]
    few_seconds, many_seconds = between - begin, end - between
    more = done - few_done
    return {
        "seconds_per_iteration": (many_seconds - few_seconds) / more if more else None,
        "few_seconds": few_seconds,
        "total_seconds": many_seconds,
        "first_seconds": first,
        "iterations": [few_done, done],
        "inertia": measure_inertia(x, centroids),
        "peak_bytes": peak,
        "loaded_bytes": loaded,
        "cores_used": cores,
        **about,
    }


def run_gemm(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of x @ c.T alone, the 2nkd floating-point operations that k-means ranks by."""
    x, start = np.load(job["rows"]), np.load(job["start"])
    out = np.empty((len(x), len(start)), np.float32)

    def best(run: Callable[[], Any]) -> float:
        run()
        return float(np.median([seconds(run) for _ in range(GEMM_REPEATS)]))

    library, plain = job["system"], lambda: np.matmul(x, start.T, out=out)
    if library == "NumPy":
        return {"seconds": best(plain)}
    options = YNN if library == "JAX (YNN)" else None
    multiply = jax.jit(lambda rows, to: rows @ to.T, compiler_options=options)
    rows, to = jnp.asarray(x), jnp.asarray(start)
    return {"seconds": best(lambda: multiply(rows, to).block_until_ready())}


# From seeding to convergence.


def run_sklearn_defaults(job: dict[str, Any]) -> dict[str, Any]:
    cluster = importlib.import_module("sklearn.cluster")
    x = np.load(job["rows"])
    cluster.KMeans(2, n_init=1, max_iter=1).fit(x[:256])  # starts its threads
    begin = time.perf_counter()
    found = cluster.KMeans(job["k"], n_init=1, random_state=job["seed"]).fit(x)
    total = time.perf_counter() - begin
    inertia = measure_inertia(x, found.cluster_centers_)
    return {"seconds": total, "inertia": inertia, "iterations": int(found.n_iter_)}


class _ReachedError(Exception):
    """The inertia is as low as asked for."""


def run_until(job: dict[str, Any]) -> dict[str, Any]:
    """Our fit until its inertia is as low as `target`: at first compiling, then not."""
    x = np.load(job["rows"])
    return {name: _fit_until(x, job) for name in ("cold", "warm")}


def _fit_until(x: np.ndarray, job: dict[str, Any]) -> dict[str, Any]:
    curve: list[tuple[float, float]] = []
    centroids = np.zeros(0)

    def look(progress: kmeans.Progress) -> None:
        nonlocal centroids
        curve.append((time.perf_counter() - begin, progress.inertia))
        if progress.inertia <= job["target"]:
            centroids = progress.state()["centroids"]
            raise _ReachedError

    begin = time.perf_counter()
    try:
        centroids = kmeans.fit(
            x, job["k"], seed=job["seed"], tolerance=0, max_iterations=300, on_iteration=look
        ).centroids
        reached = False
    except _ReachedError:
        reached = True
    return {
        "seconds": curve[-1][0],
        "seeded_seconds": curve[0][0],  # the first of all iterations is in it
        "seeds_inertia": curve[0][1],
        "reached": reached,
        "iterations": len(curve) - 1,
        "inertia": measure_inertia(x, centroids),
    }


# Ours alone.


def _iteration_seconds(x: Any, k: int, iterations: int, seed: int = 0) -> list[float]:
    """How long each iteration took, less the first of all, which compiles and seeds."""
    times: list[float] = []
    kmeans.fit(
        x,
        k,
        init="random",
        seed=seed,
        tolerance=0,
        max_iterations=iterations,
        on_iteration=lambda _: times.append(time.perf_counter()),
    )
    return np.diff(times).tolist()


def run_stream(job: dict[str, Any]) -> dict[str, Any]:
    """Rows on disk, and how much memory they took."""
    jax.devices()
    before = memory()
    with peak_memory() as peak:
        begin = time.perf_counter()
        times = _iteration_seconds(job["features"], job["k"], job["iterations"])
        total = time.perf_counter() - begin
    return {
        "seconds": times,
        "total_seconds": total,
        "peak_anonymous_bytes": peak["RssAnon"],
        "peak_file_bytes": peak["RssFile"],
        "before_anonymous_bytes": before["RssAnon"],
    }


def run_resident(job: dict[str, Any]) -> dict[str, Any]:
    """The first of the same rows, in memory; the second of two fits, which compiles nothing."""
    x = np.array(np.load(job["features"], mmap_mode="r")[: job["n"]])
    _iteration_seconds(x, job["k"], job["iterations"])
    return {"seconds": _iteration_seconds(x, job["k"], job["iterations"])}


def run_growth(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of an iteration as one of n, d and k grows and the others stay."""
    rng = np.random.default_rng(0)
    axes: dict[str, list[tuple[int, float]]] = {}
    for axis, values in job["axes"].items():
        axes[axis] = []
        for value in values:
            n, d, k = ({**job["base"], axis: value}[name] for name in ("n", "d", "k"))
            x = rng.standard_normal((n, d), dtype=np.float32)
            _iteration_seconds(x, k, job["iterations"])
            times = _iteration_seconds(x, k, job["iterations"])
            axes[axis].append((value, float(np.median(times))))
    return {"axes": axes}


def run_update(job: dict[str, Any]) -> dict[str, Any]:
    """The sum of each cluster's rows by three methods, which must agree."""
    n, d, k = job["n"], job["d"], job["k"]
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.standard_normal((n, d), dtype=np.float32))
    label = jnp.asarray(rng.integers(0, k, n, dtype=np.int32))
    highest = jax.lax.Precision.HIGHEST

    def scatter(rows: jax.Array, label: jax.Array) -> jax.Array:
        return jnp.zeros((k, d)).at[label].add(rows)

    def one_hot(rows: jax.Array, label: jax.Array) -> jax.Array:
        return jnp.dot(jax.nn.one_hot(label, k, axis=0), rows, precision=highest)

    def by_order(rows: jax.Array, label: jax.Array) -> jax.Array:
        order = jnp.argsort(label)
        return jax.ops.segment_sum(rows[order], label[order], k, indices_are_sorted=True)

    options = YNN if jax.default_backend() == "cpu" else None
    expected, times = None, {}
    for name, method in (("scatter-add", scatter), ("one-hot", one_hot), ("sorted", by_order)):
        run = jax.jit(method, compiler_options=options)
        sums = np.asarray(run(rows, label))
        expected = sums if expected is None else expected
        np.testing.assert_allclose(sums, expected, atol=1e-3, err_msg=name)
        again = [seconds(lambda run=run: run(rows, label).block_until_ready()) for _ in range(5)]
        times[name] = float(np.median(again))
    return {"seconds": times}


if __name__ == "__main__":
    serve(
        {
            "iterations": run_iterations,
            "gemm": run_gemm,
            "sklearn_defaults": run_sklearn_defaults,
            "until": run_until,
            "stream": run_stream,
            "resident": run_resident,
            "growth": run_growth,
            "update": run_update,
        }
    )
