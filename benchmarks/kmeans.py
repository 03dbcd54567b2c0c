"""How fast kt_jax.kmeans is beside its peers: `make bench-kmeans`, or this file's --help.

Every system runs in its own process (kmeans_jobs.py), all in turns in one run, so that what else
the machine does hits all alike; raw numbers go to kmeans.json, and kmeans_report.py makes the page
and the figure from that file alone. A run with --only replaces those sections of the file and
keeps the others. Linux only: memory is read from /proc.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import kmeans_report
import kmeans_rows
import numpy as np

SECTIONS = ("main", "seeding", "out_of_core", "growth", "update")
GEMMS = ("NumPy", "JAX", "JAX (YNN)")
LIMIT = 2 * 3600  # seconds of one process
PACKAGES = (
    *("kt_jax", "jax", "numpy", "faiss-cpu", "scikit-learn", "scikit-learn-intelex"),
    *("daal", "torch", "cuml-cu12", "cuml-cu13", "faiss-gpu-cu12"),
)
# Would pin a library to fewer cores or another kernel, or hand a program over from a cache.
UNSET = re.compile(
    r"(OPENBLAS|OMP|GOMP|MKL|KMP|BLIS|GOTO|GOTOBLAS|NUMEXPR|VECLIB|TBB|XLA|JAX)_\w+|LD_PRELOAD"
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    n: int = 65_536
    d: int = 512
    ks: tuple[int, ...] = (100, 1000, 2000)
    iterations: tuple[int, int] = (5, 25)
    most_real_rows: int = 10**9
    blobs: tuple[int, int, int] = (65_536, 128, 1000)  # n, d, true centres and k
    seeds: tuple[int, ...] = (0, 1, 2)
    seeding_ks: tuple[int, ...] = (100, 1000)
    stream_gb: float = 12
    stream_k: int = 1000
    growth_iterations: int = 5
    growth: dict[str, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {
            "n": tuple(65_536 // 8 * 2**i for i in range(5)),
            "d": (64, 128, 256, 512, 1024),
            "k": (125, 250, 500, 1000, 2000),
        }
    )
    k: int = 1000  # of growth and update
    gpu_ds: tuple[int, ...] = (512, 4096)
    gpu_ks: tuple[int, ...] = (1000, 2000, 10_000)
    gpu_rows: int = 10**9  # at most; the memory decides
    gpu_side: int = 8192


QUICK = Sizes(
    n=4096,
    d=32,
    ks=(8, 32),
    iterations=(2, 6),
    most_real_rows=2048,
    blobs=(4096, 16, 50),
    seeds=(0,),
    seeding_ks=(20,),
    stream_gb=0.3,
    stream_k=16,
    growth_iterations=2,
    growth={"n": (1024, 2048, 4096), "d": (16, 32, 64), "k": (8, 16, 32)},
    k=32,
    gpu_ds=(64,),
    gpu_ks=(100,),
    gpu_rows=8192,
    gpu_side=512,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of this file."""

    sizes: Sizes
    repeats: int
    scratch: Path
    features: Path | None


def main() -> None:
    options = parse()
    sizes = QUICK if options.quick else Sizes()
    if options.out_of_core_gb is not None:
        sizes = dataclasses.replace(sizes, stream_gb=options.out_of_core_gb)
    sections: dict[str, Callable[[Run], dict[str, Any]]] = {
        "main": measure_main,
        "seeding": measure_seeding,
        "out_of_core": measure_out_of_core,
        "growth": measure_growth,
        "update": measure_update,
        "gpu": measure_gpu,
    }
    chosen = options.only.split(",")
    if options.gpu:
        here = child({"job": "look"}, script="kmeans_gpu.py")
        if here.get("backend") != "gpu":
            print(f"no GPU is here: JAX's backend is {here.get('backend', here)}; nothing measured")
            return
        chosen = ["gpu"]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="kmeans-bench-") as scratch:
        run = Run(sizes, options.repeats, Path(scratch), options.features)
        if "out_of_core" in chosen:
            check_space(run)
        for name in chosen:
            about = describe(options)
            save(options.out, name, {**about, **sections[name](run)})
    print(f"wrote kmeans.json, kmeans.md and kmeans.svg into {options.out}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of the sections")
    parser.add_argument("--gpu", action="store_true", help="the GPU's section instead")
    parser.add_argument("--features", type=Path, help="a run's features directory, or one .npy")
    parser.add_argument("--repeats", type=int, default=3, help="of each figure; medians count")
    parser.add_argument("--scratch", type=Path, help="directory for rows on disk")
    parser.add_argument("--out_of_core_gb", type=float, help="twice that is written to --scratch")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--out", type=Path, default=harness.HERE)
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only={options.only}: sections are {', '.join(SECTIONS)}")
    if options.repeats < 1:
        parser.error(f"--repeats={options.repeats}: give 1 or more")
    if options.quick and options.out == harness.HERE:
        parser.error("--quick measures nothing real: give it another --out")
    if options.features and not list(kmeans_rows.shards(options.features)):
        parser.error(f"--features={options.features}: no .npy file is there")
    return options


# One process, and several in turns.


def child(job: dict[str, Any], script: str = "kmeans_jobs.py") -> dict[str, Any]:
    """Returns what a job's process measured, or {"error": why it did not}."""
    env = {name: value for name, value in os.environ.items() if not UNSET.fullmatch(name)}
    if script == "kmeans_jobs.py":
        env["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(harness.HERE / script), json.dumps(job), str(result)]
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {LIMIT} s"}
        if done.returncode:
            raised = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b.*$", done.stderr, re.M)
            reason = raised[-1] if raised else f"ended with {done.returncode}"
            return {"error": re.sub(r"(/[\w.+-]+)+/", "", reason)[:200]}  # no one's paths
        return json.loads(result.read_text())


def in_turns(
    names: Sequence[str], repeats: int, job: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Measures one system after another, and then again from another one on."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in (*names[first:], *names[:first]):
            if not any("error" in result for result in results[name]):
                results[name].append(child(job(name)))
                harness.say(f"  {name}, repeat {repeat + 1}: {short(results[name][-1])}")
    return results


def short(result: dict[str, Any]) -> str:
    return json.dumps(result, default=str)[:160]


# The sections.


def make_real(run: Run) -> Path | None:
    if run.features is None:
        return None
    return kmeans_rows.make_real(run.scratch, run.features, run.sizes.most_real_rows)


def measure_main(run: Run) -> dict[str, Any]:
    rows = []
    for name, path in (
        ("Gaussian", kmeans_rows.make_gaussian(run.scratch, run.sizes.n, run.sizes.d)),
        ("real", make_real(run)),
    ):
        if path is None:
            continue
        n, d = np.load(path, mmap_mode="r").shape
        for k in (k for k in run.sizes.ks if k <= n / 2):
            harness.say(f"main: {name} {n} x {d}, k = {k}")
            start = kmeans_rows.make_start(run.scratch, path, k)
            rows.append({"data": name, "n": n, "d": d, "k": k, **measure_row(run, path, start)})
    return {"iterations": run.sizes.iterations, "repeats": run.repeats, "rows": rows}


def measure_row(run: Run, rows: Path, start: Path) -> dict[str, Any]:
    names = [*(f"gemm {library}" for library in GEMMS), *kmeans_report.SYSTEMS]

    def job(name: str) -> dict[str, Any]:
        gemm = name.startswith("gemm ")
        return {
            "job": "gemm" if gemm else "iterations",
            "system": name.removeprefix("gemm "),
            "rows": str(rows),
            "start": str(start),
            "iterations": run.sizes.iterations,
        }

    results = in_turns(names, run.repeats, job)
    return {
        "gemm": {library: results.pop(f"gemm {library}") for library in GEMMS},
        "systems": results,
    }


def measure_seeding(run: Run) -> dict[str, Any]:
    real = make_real(run)
    cases = [("real", real, k) for k in run.sizes.seeding_ks if real is not None]
    cases.append(
        ("blobs", kmeans_rows.make_blobs(run.scratch, *run.sizes.blobs), run.sizes.blobs[2])
    )
    rows = []
    for name, path, k in cases:
        n, d = np.load(path, mmap_mode="r").shape
        if k > n / 2:
            continue
        harness.say(f"seeding: {name} {n} x {d}, k = {k}")
        tries = [measure_seed(path, k, seed) for seed in run.sizes.seeds]
        rows.append({"data": name, "n": n, "d": d, "k": k, "tries": tries})
    return {"rows": rows}


def measure_seed(rows: Path, k: int, seed: int) -> dict[str, Any]:
    job = {"rows": str(rows), "k": k, "seed": seed}
    peer = child({"job": "sklearn_defaults", **job})
    harness.say(f"  scikit-learn, seed {seed}: {short(peer)}")
    if "error" in peer:
        return {"seed": seed, "scikit-learn": peer, "kt_jax": {}}
    ours = child({"job": "until", "target": peer["inertia"] * 1.001, **job})
    harness.say(f"  kt_jax, seed {seed}: {short(ours)}")
    return {"seed": seed, "scikit-learn": peer, "kt_jax": ours}


def check_space(run: Run) -> None:
    needed = 2 * run.sizes.stream_gb * 1e9
    free = shutil.disk_usage(run.scratch).free
    if free < needed + 1e9:
        raise SystemExit(
            f"out_of_core writes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in "
            "--scratch: give another directory or less --out_of_core_gb"
        )


def measure_out_of_core(run: Run) -> dict[str, Any]:
    k, resident_rows = run.sizes.stream_k, run.sizes.n
    whole, parts = kmeans_rows.make_large(run.scratch, run.sizes.stream_gb)
    n = np.load(whole, mmap_mode="r").shape[0]
    harness.say(f"out_of_core: {n} x {kmeans_rows.STREAM_D}, k = {k}")
    features = {"one memory map": str(whole), "12 shards": [str(path) for path in parts]}

    def job(name: str) -> dict[str, Any]:
        common = {"k": k, "iterations": 3}
        if name == "resident":
            return {"job": "resident", "features": str(whole), "n": resident_rows, **common}
        for path in (whole, *parts):
            kmeans_rows.forget(path)
        return {"job": "stream", "features": features[name], **common}

    results = in_turns(("resident", *features), 1, job)
    for path in (whole, *parts):
        path.unlink()
    size = {"n": n, "d": kmeans_rows.STREAM_D, "k": k, "bytes": n * kmeans_rows.STREAM_D * 4}
    return {**size, "resident_rows": resident_rows, "systems": results}


def measure_growth(run: Run) -> dict[str, Any]:
    base = {"n": run.sizes.n, "d": run.sizes.d, "k": run.sizes.k}
    job = {
        "job": "growth",
        "axes": run.sizes.growth,
        "base": base,
        "iterations": run.sizes.growth_iterations,
    }
    return {"base": base, **in_turns(("results",), run.repeats, lambda _: job)}


def measure_update(run: Run) -> dict[str, Any]:
    rows = kmeans_rows.make_gaussian(run.scratch, run.sizes.n, run.sizes.d)
    size = {"n": run.sizes.n, "d": run.sizes.d, "k": run.sizes.k}
    common = {
        **size,
        "rows": str(rows),
        "start": str(kmeans_rows.make_start(run.scratch, rows, run.sizes.k)),
    }

    def job(name: str) -> dict[str, Any]:
        return {"job": "update" if name == "update" else "gemm", "system": name, **common}

    return {**size, "systems": in_turns((*GEMMS, "update"), run.repeats, job)}


def measure_gpu(run: Run) -> dict[str, Any]:
    """Rates beside what the GPU gives to plain products, in the same run."""
    sizes = run.sizes

    def measure(**job: Any) -> dict[str, Any]:
        result = {**job, **child({**job, "most_rows": sizes.gpu_rows}, script="kmeans_gpu.py")}
        harness.say(short(result))
        return result

    def measure_system(system: str, precisions: Sequence[str]) -> list[dict[str, Any]]:
        cells = [
            {"d": d, "k": k, "precision": precision}
            for d in sizes.gpu_ds
            for k in sizes.gpu_ks
            for precision in precisions
        ]
        result = measure(job=system, cells=cells)
        rows = result.get("rows") or [{**cell, "error": result["error"]} for cell in cells]
        return [{"job": system, **row} for row in rows]

    systems = {
        "kt_jax": ("float32", "exact", "tensorfloat32", "bfloat16"),
        "torch": ("float32", "tensorfloat32", "bfloat16"),
        **dict.fromkeys(("cuML", "faiss"), ("float32",)),
    }
    rows = [
        row for system, precisions in systems.items() for row in measure_system(system, precisions)
    ]
    return {
        "device": measure(job="look"),
        "gemm": measure(job="gemm", side=sizes.gpu_side),
        "rows": sorted(rows, key=lambda row: (row["d"], row["k"])),
    }


# The file.


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what a section was measured; paths stay out of it."""
    words = [f"--{name}" for name in ("gpu", "quick") if getattr(options, name)]
    if not options.gpu and options.only != ",".join(SECTIONS):
        words.append(f"--only={options.only}")
    words += ["--features=..."] if options.features else []
    words += [f"--repeats={options.repeats}"] if options.repeats != 3 else []
    if options.out_of_core_gb is not None:
        words.append(f"--out_of_core_gb={options.out_of_core_gb:g}")
    return {
        "command": " ".join(["python benchmarks/kmeans.py", *words]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": harness.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "versions": {"Python": platform.python_version(), **harness.find_versions(PACKAGES)},
    }


def save(out: Path, name: str, section: dict[str, Any]) -> None:
    """Puts one section in place of its last measurement, and makes the page anew."""
    path = out / "kmeans.json"
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything[name] = section
    path.write_text(json.dumps(everything, indent=1) + "\n")
    kmeans_report.write(json.loads(path.read_text()), out)


if __name__ == "__main__":
    main()
