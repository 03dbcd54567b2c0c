"""A training step beside PyTorch's, and what the loop around it costs: `make bench-train`.

The networks are those of configs/jigsawpp.py at full width: JigsawNet (VGG-16 with batch norms,
tiles of 64 px) and AlexNet (227 px, in groups, with LRN); and ResNet-18 and ViT-Ti at 224 px, next
to torchvision's. Same batch and precision, SGD with
momentum, weight decay and clipping in both. Every system runs in a process of its own, all in turns
in one run; train.json holds every measurement, train.md the medians and ratios. With --gpu, larger
batches in bfloat16 go to train_gpu.json and train_gpu.md. Linux only.
"""

import dataclasses
import statistics
import tempfile
from typing import Any

import harness
from train_jobs import CORES, PICTURES, SECONDS

PACKAGES = ("kt_jax", "jax", "jaxlib", "flax", "torch", "torchvision")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured on a kind of machine."""

    name: str
    platform: str
    precision: str
    batches: dict[str, int]  # examples
    product: int  # side of the matrices
    systems: tuple[str, ...]


CPU = Setting(
    name="train",
    platform="cpu",
    precision="float32",
    batches={"JigsawNet": 8, "AlexNet": 64, "ResNet-18": 32, "ViT-Ti": 32},
    product=3072,
    systems=(
        *("kt_jax", "torch", "torch, channels_last", "torch, compiled"),
        "torch, compiled, channels_last",
    ),
)
GPU = Setting(
    name="train_gpu",
    platform="cuda",
    precision="bfloat16",
    batches={"JigsawNet": 128, "AlexNet": 1024, "ResNet-18": 512, "ViT-Ti": 512},
    product=8192,
    systems=("kt_jax", "torch, channels_last", "torch, compiled, channels_last"),
)


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Every measurement."""
    common = {"platform": setting.platform, "precision": setting.precision}

    def ask(system: str, **job: Any) -> dict[str, Any]:
        return harness.ask(
            "train_jobs.py", {"system": system, **common, **job}, JAX_PLATFORMS=setting.platform
        )

    found: dict[str, Any] = {**common, "gemm": [], "steps": {}, "loop": [], "first": {}}
    for _ in range(repeats):
        found["gemm"].append(ask("gemm", side=setting.product))
        for network, count in setting.batches.items():
            rows = found["steps"].setdefault(network, {system: [] for system in setting.systems})
            for system in setting.systems:
                rows[system].append(ask(system, network=network, count=count))
        found["loop"].append(ask("loop"))
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            found["first"][name] = ask("first", cache=cache)["first"]
    return found


def median(rows: list[dict[str, Any]], key: str) -> float | None:
    """The median of what was measured, None where nothing was."""
    values = [row[key] for row in rows if key in row]
    return statistics.median(values) if values else None


def make_page(found: dict[str, Any]) -> list[str]:
    """The medians and their ratios."""
    gemm = median(found["gemm"], "flops") or 0.0
    gpu = found["platform"] == "cuda"
    lines = [
        "# Training steps\n",
        f"`make bench-train{' BENCH_FLAGS=--gpu' if gpu else ''}`, {found['date']}: "
        + (found["gemm"][0]["device"] if gpu else f"{found['machine']}, {CORES} cores")
        + "; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f". Medians of {found['repeats']} turns of {SECONDS:.0f} s, every system in a process of "
        f"its own: forward, backward and update in {found['precision']}. FLOP as XLA counts them "
        f"for kt_jax's step; the {found['precision']} matrix product of this machine: "
        f"{gemm / 1e9:,.0f} GFLOP/s. *Ratio*: the fastest torch row's seconds over these; above 1 "
        "is faster than it.\n",
    ]
    for network, rows in found["steps"].items():
        count = rows["kt_jax"][0]["count"]
        pictures = count * PICTURES[network]
        flops = median(rows["kt_jax"], "flops") or 0.0
        peers = [median(each, "seconds") for name, each in rows.items() if name != "kt_jax"]
        best = min((seconds for seconds in peers if seconds), default=None)
        lines += [
            f"## {network}: {count} examples, {pictures} pictures, {flops / 1e9:,.0f} GFLOP\n",
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
                f"{seconds:#.3g}", f"{pictures / seconds:,.1f}", f"{rate / 1e9:,.0f}",
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
        f"its log {fit * 1e3:.1f} ms: {fit / bare - 1:+.1%}. The first step, with its compilation: "
        f"{found['first']['cold']:.1f} s, with a warm compilation cache "
        f"{found['first']['warm']:.1f} s.\n",
    ]
    return lines


def main() -> None:
    """Measures, and writes the .json and the page."""
    options = harness.parse(__doc__ or "", gpu="on a GPU, in bfloat16")
    setting = GPU if options.gpu else CPU
    harness.write(setting.name, measure(setting, options.repeats), options, PACKAGES, make_page)


if __name__ == "__main__":
    main()
