"""A training step beside PyTorch's, and what the loop around it costs: `make bench-train`.

The networks are those of configs/jigsawpp.py at full width: JigsawNet (VGG-16 with batch norms,
tiles of 64 px) and AlexNet (227 px, in groups, with LRN). Same batch, float32, SGD with momentum,
weight decay and clipping in both. Every system runs in a process of its own, all in turns in one
run; train.json holds every measurement, train.md the medians and ratios. Linux only.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CORES = 2
# name: (examples in a batch, how many pictures each is)
NETWORKS = {"JigsawNet": (8, 9), "AlexNet": (64, 1)}
SYSTEMS = (
    "kt_jax", "torch", "torch, channels_last", "torch, compiled", "torch, compiled, channels_last",
)  # fmt: skip
CLASSES = 701
SECONDS = 15.0
LOOP_STEPS = 40
LOOP_TURNS = 5


def repeat(step: Callable[[], None]) -> float:
    """Seconds of a step, once it runs steadily."""
    step()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def make_batch(network: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised pictures as the network takes them, channels last, and labels."""
    rng = np.random.default_rng(0)
    count, _ = NETWORKS[network]
    shape = (count, 9, 64, 64, 3) if network == "JigsawNet" else (count, 227, 227, 3)
    return rng.standard_normal(shape, np.float32), rng.integers(0, CLASSES, count)


def run_kt_jax(network: str) -> dict[str, Any]:
    """One jitted step of `train.make_step`."""
    import jax

    from kt_jax import models, optimizers, partition, train

    partition.configure_xla()

    def make_model(rngs: Any) -> Any:
        if network == "JigsawNet":
            backbone = models.make_backbone("vgg", batch_norm=True, rngs=rngs)
            return models.JigsawNet(backbone, size=64, classes=CLASSES, batch_norm=True, rngs=rngs)
        backbone = models.make_backbone("alexnet", rngs=rngs)
        return models.Classifier(backbone, size=227, classes=CLASSES, rngs=rngs)

    count, _ = NETWORKS[network]
    optimizer = optimizers.make_optimizer(steps=1000, batch_size=count, learning_rate=0.01)
    mesh = partition.make_mesh()
    state = train.init_state(make_model, optimizer, seed=0, mesh=mesh)
    pictures, labels = make_batch(network)
    batch = partition.put_batch({"image": pictures, "label": labels.astype(np.int32)}, mesh)
    step_fn = train.make_step(
        make_model,
        lambda _, batch: (batch["image"], batch["label"]),
        optimizer,
        key=jax.random.key(0),
    )
    begun = time.perf_counter()
    compiled = jax.jit(step_fn, donate_argnums=0).lower(state, batch).compile()
    compiling = time.perf_counter() - begun
    at = [state]

    def step() -> None:
        at[0], metrics = compiled(at[0], batch)
        jax.block_until_ready((at[0], metrics))

    seconds = repeat(step)
    flops = (compiled.cost_analysis() or {})["flops"]
    return {"seconds": seconds, "compile": compiling, "flops": flops, "memory": peak_rss()}


def make_torch_model(network: str, torch: Any) -> Any:
    """The same networks, layer by layer."""
    nn = torch.nn

    def dense(inputs: int, outputs: int, *, norm: bool) -> list[Any]:
        norms = [nn.BatchNorm1d(outputs)] if norm else []
        return [nn.Linear(inputs, outputs), *norms, nn.ReLU(inplace=True), nn.Dropout()]

    if network == "AlexNet":
        layers = [
            nn.Conv2d(3, 96, 11, 4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.LocalResponseNorm(5),
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5),
            nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(),
            *dense(9216, 4096, norm=False), *dense(4096, 4096, norm=False),
            nn.Linear(4096, CLASSES),
        ]  # fmt: skip
        return nn.Sequential(*layers)
    layers, inputs = [], 3
    for outputs, depth in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    tower = nn.Sequential(*layers, nn.Flatten(), *dense(2048, 1024, norm=True))
    head = nn.Sequential(*dense(9 * 1024, 4096, norm=True), nn.Linear(4096, CLASSES))

    class JigsawNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.head = tower, head

        def forward(self, tiles: Any) -> Any:
            return self.head(self.tower(tiles).reshape(-1, 9 * 1024))

    return JigsawNet()


def run_torch(network: str, system: str) -> dict[str, Any]:
    """Forward, backward, clip, update."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    model = make_torch_model(network, torch).train()
    pictures, labels = make_batch(network)
    channels_first = np.ascontiguousarray(
        np.moveaxis(pictures.reshape(-1, *pictures.shape[-3:]), -1, 1)
    )
    shown, targets = torch.from_numpy(channels_first), torch.from_numpy(labels)
    if "channels_last" in system:
        model = model.to(memory_format=torch.channels_last)
        shown = shown.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    called = torch.compile(model) if "compiled" in system else model

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(called(shown), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    begun = time.perf_counter()
    step()
    first = time.perf_counter() - begun
    seconds = repeat(step)
    return {"seconds": seconds, "compile": max(first - seconds, 0.0), "memory": peak_rss()}


def run_gemm() -> dict[str, Any]:
    """The machine's float32 matrix product, in FLOP/s: what a step is measured by."""
    import jax
    import jax.numpy as jnp

    from kt_jax import partition

    partition.configure_xla()
    n = 3072
    x = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.dot)
    return {"flops": 2 * n**3 / repeat(lambda: product(x, x).block_until_ready())}


class Nowhere:
    """Keeps no checkpoint."""

    def restore(self, like: Any) -> None:
        """There is none."""

    def save(self, step: int, state: Any) -> None:
        """Forgets it."""

    def wait(self) -> None:
        """Returns at once."""


def run_loop(*, first_only: bool) -> dict[str, Any]:
    """Quickstart's teacher: the bare jitted step, and `train.fit` around it, with log and views.

    `first_only`: until the first step's end.
    """
    import jax
    import jax.numpy as jnp

    from kt_jax import config as configs
    from kt_jax import learning, logs, partition, preemption, puzzles, train, views
    from kt_jax.stages import pretext

    partition.configure_xla()
    section = configs.load_config(str(HERE.parent / "configs/quickstart.py")).pretext
    chosen = pretext.make_permutation_set(section, 0)
    rules = pretext.make_rules(section)
    optimizer = learning.make_optimizer(section, 10**6)
    mesh = partition.make_mesh()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (section.batch_size, 48, 48, 3), np.uint8)

    def make_examples(key: Any, batch: Any) -> tuple[Any, Any]:
        made = puzzles.make_puzzles(key, batch["image"], jnp.asarray(chosen), rules)
        return views.standardise(made.tiles), made.label

    def make_batches(_: int) -> Iterator[Any]:
        while True:
            yield partition.put_batch({"image": pixels}, mesh)

    make_model = pretext.make_network(section)
    step_fn = train.make_step(make_model, make_examples, optimizer, key=jax.random.key(0))

    def make_state() -> train.TrainState:
        return train.init_state(make_model, optimizer, seed=0, mesh=mesh)

    def run_fit(steps: int) -> float:
        with tempfile.TemporaryDirectory() as place, preemption.Notice() as notice:
            log = logs.StageLog(
                Path(place), stage="loop", steps=steps, images_per_step=section.batch_size
            )
            fresh = jax.block_until_ready(make_state())
            begun = time.perf_counter()
            state = train.fit(
                fresh, step_fn, make_batches, steps=steps, checkpoints=Nowhere(), log=log,
                notice=notice, log_every=20, checkpoint_every=10**6,
            )  # fmt: skip
            jax.block_until_ready(state)
            seconds = time.perf_counter() - begun
            log.close()
        return seconds / steps

    def run_bare(steps: int) -> float:
        state, batches = jax.block_until_ready(make_state()), make_batches(0)
        begun = time.perf_counter()
        for _ in range(steps):
            state, _ = step_fn(state, next(batches))
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) / steps

    state, batches = make_state(), make_batches(0)
    begun = time.perf_counter()
    jax.block_until_ready(step_fn(state, next(batches)))
    if first_only:
        return {"first": time.perf_counter() - begun}
    run_fit(2)
    times = [(run_bare(LOOP_STEPS), run_fit(LOOP_STEPS)) for _ in range(LOOP_TURNS)]
    bare, fit = zip(*times, strict=True)
    return {"bare": statistics.median(bare), "fit": statistics.median(fit)}


def peak_rss() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """What one measuring process does; that torch is not installed is an answer like any other."""
    if job["system"] == "gemm":
        return run_gemm()
    if job["system"] in ("loop", "first"):
        return run_loop(first_only=job["system"] == "first")
    if job["system"] == "kt_jax":
        return run_kt_jax(job["network"])
    try:
        return run_torch(job["network"], job["system"])
    except ImportError as error:
        return {"absent": str(error)}


def ask(job: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Runs a job in a process of its own."""
    found = subprocess.run(
        [sys.executable, str(HERE / "train.py"), f"--job={json.dumps(job)}"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(found.stdout.splitlines()[-1])
    print(job, answer, file=sys.stderr, flush=True)
    return answer


def measure(repeats: int) -> dict[str, Any]:
    """Every measurement."""
    found: dict[str, Any] = {"gemm": [], "steps": {}, "loop": [], "first": {}}
    for _ in range(repeats):
        found["gemm"].append(ask({"system": "gemm"}))
        for network in NETWORKS:
            rows = found["steps"].setdefault(network, {system: [] for system in SYSTEMS})
            for system in SYSTEMS:
                rows[system].append(ask({"system": system, "network": network}))
        found["loop"].append(ask({"system": "loop"}))
    with tempfile.TemporaryDirectory() as cache:
        options = {"JAX_COMPILATION_CACHE_DIR": cache}
        for name in ("cold", "warm"):
            found["first"][name] = ask({"system": "first"}, **options)["first"]
    return found


def median(rows: list[dict[str, Any]], key: str) -> float | None:
    """The median of what was measured, None where nothing was."""
    values = [row[key] for row in rows if key in row]
    return statistics.median(values) if values else None


def write_page(found: dict[str, Any], path: Path) -> None:
    """The medians and their ratios."""
    gemm = median(found["gemm"], "flops") or 0.0
    lines = [
        "# Training steps\n",
        f"`make bench-train`, {found['date']}: {found['machine']}, {CORES} cores; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f". Medians of {found['repeats']} turns of {SECONDS:.0f} s, every system in a process of "
        "its own: forward, backward and update in float32. FLOP as XLA counts them for kt_jax's "
        f"step; the float32 matrix product of this machine: {gemm / 1e9:,.0f} GFLOP/s. *Ratio*: "
        "the fastest torch row's seconds over these; above 1 is faster than it.\n",
    ]
    for network, rows in found["steps"].items():
        count, pictures = NETWORKS[network]
        flops = median(rows["kt_jax"], "flops") or 0.0
        peers = [median(each, "seconds") for name, each in rows.items() if name != "kt_jax"]
        best = min((seconds for seconds in peers if seconds), default=None)
        lines += [
            f"## {network}: {count} examples, {count * pictures} pictures, "
            f"{flops / 1e9:,.0f} GFLOP\n",
            "| system | s/step | pictures/s | GFLOP/s | of the product | compile s | peak GB "
            "| ratio |",
            "|---" * 8 + "|",
        ]
        for name, each in rows.items():
            seconds = median(each, "seconds")
            if seconds is None:
                lines.append(f"| {name} | absent |" + " |" * 6)
                continue
            rate = flops / seconds
            cells = [
                f"{seconds:.2f}", f"{count * pictures / seconds:.1f}", f"{rate / 1e9:,.0f}",
                f"{rate / gemm:.0%}", f"{median(each, 'compile'):.1f}",
                f"{(median(each, 'memory') or 0) / 1e9:.2f}",
                "" if best is None else f"{best / seconds:.2f}",
            ]  # fmt: skip
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    bare, fit = median(found["loop"], "bare") or 0.0, median(found["loop"], "fit") or 0.0
    lines += [
        "## The loop\n",
        f"Quickstart's teacher: a bare jitted step {bare * 1e3:.1f} ms, within `train.fit` with "
        f"its log {fit * 1e3:.1f} ms: {fit / bare - 1:+.1%}. To the first step's end: "
        f"{found['first']['cold']:.1f} s, with a warm compilation cache "
        f"{found['first']['warm']:.1f} s.\n",
    ]
    path.write_text("\n".join(lines))


def main() -> None:
    """Measures, and writes train.json and train.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns of every system")
    parser.add_argument("--out", type=Path, default=HERE, help="where train.json and .md go")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(json.loads(arguments.job))))
        return
    found = measure(arguments.repeats)
    versions = {}
    for package in ("kt_jax", "jax", "jaxlib", "flax", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {
        "date": str(datetime.date.today()),
        "machine": next(
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "python": platform.python_version(),
        "versions": versions,
        "repeats": arguments.repeats,
    }
    (arguments.out / "train.json").write_text(json.dumps(found, indent=1) + "\n")
    write_page(found, arguments.out / "train.md")
    print((arguments.out / "train.md").read_text())


if __name__ == "__main__":
    main()
