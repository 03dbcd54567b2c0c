"""The plan for large machines, by the shapes of the programs themselves: `make scale`.

Lowers and compiles the steps of configs/jigsawpp.py for 64 devices that this machine only
pretends to have: nothing is computed. Their FLOPs, collectives and memory, libtpu's estimates of
the programs that it compiled (ahead.json), what loaders were measured to do (loader.json) and the
figures that makers print of their machines give docs/scale.md.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import ahead_programs
import ahead_targets
import jax
import jax.numpy as jnp
import numpy as np

from kt_jax import models, training
from kt_jax.config import load_config
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.pretext import puzzles
from kt_jax.runs import files
from kt_jax.runs.graph import Graph, make_graph

HERE = Path(__file__).resolve().parent
DEVICES = 64
# Jigsaw's batch norms and Caffe's AlexNet want no more: Goyal et al. 2017 scale linearly to 8,192.
BATCH = 1024
# The share of its peak that a GPU reaches. Both trainings are measured on an H200 ("On a GPU" in
# docs/benchmarks.md): 47 ms for 256 puzzles, 26.8 ms for 1,024 images. The rest is a guess.
UTILISATION = {"pretext": 0.33, "features": 0.4, "clusters": 0.4, "student": 0.15}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What its maker prints: FLOP/s, bytes and bytes/s of each chip; cores of all.

    flops: in bfloat16; float32: of float32 in the precision that JAX's products have by default.
    target: its name in ahead.json, if a compiler has estimated its programs.
    """

    name: str
    chips: int
    flops: float
    float32: float
    memory: float
    link: float
    cores: int
    target: str = ""


MACHINES = (
    # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 1,600 Gbit/s between chips; 224 vCPU a host
    # of 8.
    # There float32 is rounded to bfloat16 in products.
    Machine("v5e-64", 64, 197e12, 197e12, 16e9, 200e9, 8 * 112, "v5e:8x8"),
    # nvidia.com, H100 SXM: 989 TFLOP/s dense, 80 GB, NVLink 900 GB/s (450 a way); 208 vCPU a host.
    # There float32 is rounded to TensorFloat-32 in products: half as many.
    Machine("8 x H100", 8, 989e12, 494e12, 80e9, 450e9, 104),
)
SETS = {"ImageNet": 1_281_167, "100M images": 100_000_000}


def abstract_step(graph: Graph, name: str, mesh: Any) -> dict[str, Any]:
    """FLOPs, collectives and memory of a stage's step, compiled for the mesh."""
    fact: dict[str, Any] = {}
    for remat in (True, False):
        traced, shapes = ahead_programs.trace_step(graph, name, mesh, remat=remat)
        lowered = traced.lower()
        compiled = lowered.compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        fact["rematerialised" if remat else "activations"] = memory
    return fact | {
        "state": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)),
        "parameters": sum(x.size for x in jax.tree.leaves(shapes.params)),
        "flops": lowered.cost_analysis()["flops"] / BATCH,
        "collectives": collectives(compiled.as_text()),
    }


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """How many of each kind a compiled program has, and the bytes that they move in all."""
    found: dict[str, tuple[int, int]] = {}
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    for shape, kind in re.findall(rf"^ .*? = (.*?) ({kinds})(?:-start)?\(", text, re.MULTILINE):
        size = sum(
            BYTES[dtype] * int(np.prod([int(x) for x in dims.split(",") if x]))
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape)
        )
        count, total = found.get(kind, (0, 0))
        found[kind] = (count + 1, total + size)
    return found


def forward_flops(graph: Graph) -> float:
    """Of the teacher, up to the layer that is clustered, for one image of the features' size."""
    options, features = graph["pretext"].options.backbone, graph["features"].options

    def make_model(rngs: Any) -> Any:
        return models.make_backbone(size=features.size, rngs=rngs, **options)

    graphdef = training.structure(make_model, training=False)
    size = features.size
    lowered: Any = jax.jit(
        lambda variables, pixels: training.bind(graphdef, *variables)(pixels)[features.layer]
    ).lower(
        jax.eval_shape(lambda: training.init_variables(make_model, 0)),
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    )
    return lowered.cost_analysis()["flops"]


def read_compiled(machine: Machine) -> dict[str, dict[str, Any]]:
    """What ahead.json has of the programs of each stage; empty without a target.

    Raises:
      SystemExit: a program was not compiled for the machine.
    """
    if not machine.target:
        return {}
    found = json.loads((HERE / "ahead.json").read_text()).get(machine.target, {})
    programs = {"pretext": "teacher", "features": "features", "clusters": "kmeans_step",
                "student": "student"}  # fmt: skip
    if any("cycles" not in found.get(name, {}) for name in programs.values()):
        raise SystemExit(f"first: make ahead AHEAD_FLAGS='--targets={machine.target}'")
    return {stage: found[name] for stage, name in programs.items()}


def estimate(
    machine: Machine, compiled: dict[str, dict[str, Any]], images: int, config: Any
) -> dict[str, float]:
    """Seconds of each stage's computing by the compiler's cycles."""
    clock = ahead_targets.TARGETS[machine.target][0].clock
    seconds = {name: found["cycles"]["total"] / clock for name, found in compiled.items()}
    passes = images / (ahead_programs.FEATURES_A_CHIP * machine.chips)
    block = compiled["clusters"]["flops"] / (2 * ahead_programs.D * ahead_programs.K)  # a chip's
    blocks = math.ceil(images / (block * machine.chips))
    return {
        "pretext": config.pretext.steps * seconds["pretext"],
        "features": passes * seconds["features"],
        "clusters": config.clusters.max_iterations * blocks * seconds["clusters"],
        "student": config.student.steps * seconds["student"],
    }


def hours(seconds: float) -> str:
    """Hours and minutes, or days."""
    if seconds > 100 * 3600:
        return f"{seconds / 86400:,.0f} days"
    return f"{seconds / 3600:,.1f} h" if seconds > 600 else f"{seconds:,.0f} s"


def size(count: float) -> str:
    """Bytes, as a person writes them."""
    power = min(int(np.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000**power:,.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def plan(
    machine: Machine, images: int, facts: dict[str, Any], config: Any, rate: float
) -> list[str]:
    """The rows of one machine and one set: what every stage asks for and how long it takes."""
    dims = facts["dims"]
    k = config.clusters.k
    iterations = config.clusters.max_iterations
    # Products of "exact": bfloat16 for all, float32 (six passes of bfloat16) for some rows.
    scored = images * k * dims * 2
    trained = {
        name: config[name].steps * config[name].batch_size for name in ("pretext", "student")
    }
    feature_bytes = images * dims * 2
    rows = [
        ("pretext", trained["pretext"] * facts["pretext"]["flops"], trained["pretext"],
         2 * 3 * facts["pretext"]["parameters"] * 4),
        ("features", images * facts["forward"], images, feature_bytes),
        ("clusters", scored * iterations, 0, 3 * k * dims * 4),
        ("student", trained["student"] * facts["student"]["flops"], trained["student"],
         2 * 3 * facts["student"]["parameters"] * 4),
    ]  # fmt: skip
    compiled = read_compiled(machine)
    estimated = estimate(machine, compiled, images, config) if compiled else {}
    lines = []
    for name, flops, read, stored in rows:
        # Frozen networks compute in float32.
        peak = machine.float32 if name == "features" else machine.flops
        at_peak = flops / (peak * machine.chips)
        computing = estimated.get(name, at_peak / UTILISATION[name])
        loading = read / (rate * machine.cores)
        moving = exposed = 0.0
        if name in ("pretext", "student"):
            # On accelerators gradients are bfloat16, half of what the CPU's compiler says.
            moved = facts[name]["collectives"]["all-reduce"][1] / 2
            waited = 0.0
            if compiled:
                collectives = compiled[name]["collectives"]
                moved = sum(each["bytes"] for each in collectives)
                waited = sum(each["bytes"] for each in collectives if not each["asynchronous"])
            # A ring sends everything twice, less one share.
            moving, exposed = (config[name].steps * 2 * x / machine.link for x in (moved, waited))
        both = max(computing, moving - exposed) + exposed
        cells = [
            name, f"{flops / 1e15:,.1f}", hours(computing), f"{at_peak / computing:.0%}",
            hours(loading) if read else "", hours(moving) if moving else "",
            hours(max(both, loading)), size(stored),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    resident = feature_bytes / machine.chips
    fits = resident < 0.8 * machine.memory
    lines.append(
        f"\nFeatures: {size(feature_bytes)}, {size(resident)} a chip: "
        + (
            "they stay on the devices."
            if fits
            else "more than a chip holds, so that k-means reads them from disk in every iteration "
            f"({hours(feature_bytes * iterations / 5e9)} at 5 GB/s)."
        )
    )
    return lines


def main() -> None:
    """Writes docs/scale.md."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    partition.configure_xla()
    config = load_config(str(HERE.parent / "configs/jigsawpp.py"))
    for name in ("pretext", "student"):
        section = config[name]
        section.steps = section.steps * section.batch_size // BATCH
        section.batch_size = BATCH
        section.optimizer.reference_batch = 256
        section.optimizer.drop_every //= 4
    graph = make_graph(files.to_plain(config))
    mesh = partition.make_mesh()
    facts: dict[str, Any] = {
        name: abstract_step(graph, name, mesh) for name in ("pretext", "student")
    }
    facts["forward"] = forward_flops(graph)
    chosen = graph["features"].options
    teacher = graph["pretext"].options
    about = backbones.describe(teacher.backbone, teacher.puzzles.tile)
    shapes = backbones.layer_shapes(about, chosen.size)
    height, width, channels = shapes[chosen.layer]
    facts["dims"] = min(height, chosen.grid) * min(width, chosen.grid) * channels
    measured = json.loads((HERE / "loader.json").read_text())["rates"]["500 x 375 to 224 px"]
    rate = statistics.median(measured["kt_jax"]) / 2
    write_page(config, facts, rate, HERE.parent / "docs/scale.md")
    print((HERE.parent / "docs/scale.md").read_text())


def write_page(config: Any, facts: dict[str, Any], rate: float, path: Path) -> None:
    """The page, of what was counted."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax"))
    lines = [
        "# The plan for large machines\n",
        f"`make scale`, {datetime.date.today()}, {versions}. **Nothing on this page was timed on "
        "the machines that it names**: it multiplies what the compiled programs say of themselves "
        "with what makers print, and none of it has been run.\n",
        "configs/jigsawpp.py with `--config.pretext.batch_size=1024 "
        "--config.student.batch_size=1024`, `optimizer.reference_batch=256` (the linear scaling "
        "rule), and a quarter of `steps` and `optimizer.drop_every`: puzzles are made in groups of "
        f"{puzzles.GROUP} that stay on one chip, so 64 chips want batches of at least "
        f"{puzzles.GROUP * DEVICES}.\n",
        f"## The steps, compiled for {DEVICES} simulated devices\n",
        "FLOPs as XLA counts them. Collectives are those of the compiled program: gradients and "
        "batch norms' moments are summed, and nothing of the batch or the activations moves. Here "
        "gradients are summed in float32; accelerators sum them in bfloat16, half the bytes. "
        "Activations are those of XLA's CPU compiler in bfloat16, which keeps most of what `remat` "
        "would compute again; accelerators fuse more, and compute it again.\n",
        "| stage | parameters | GFLOP an image | collectives | a chip's state | a chip's "
        "activations | with `remat` |",
        "|---" * 7 + "|",
    ]
    for name in ("pretext", "student"):
        fact = facts[name]
        moved = ", ".join(
            f"{count} {kind}, {size(total)}" for kind, (count, total) in fact["collectives"].items()
        )
        lines.append(
            f"| {name} | {fact['parameters'] / 1e6:.1f} M | {fact['flops'] / 1e9:,.1f} | {moved} | "
            f"{size(fact['state'])} | {size(fact['activations'])} | "
            f"{size(fact['rematerialised'])} |"
        )
    lines += [
        f"\nFeatures: {facts['forward'] / 1e9:,.1f} GFLOP an image up to "
        f"{config.features.layer} at {config.features.size} px, {facts['dims']:,} numbers of "
        "float16.\n",
        "## Hours and storage\n",
        "*Computing* on TPUs is what libtpu estimates of the [compiled programs]"
        "(accelerators.md); on GPUs it is FLOPs over the share of the peak that an H200 reached "
        "for both trainings ([benchmarks](benchmarks.md#on-a-gpu)), and over 40% for the rest, "
        "which nothing has confirmed. The peak is that of bfloat16 for training and k-means, of "
        "float32 (on TPUs products of bfloat16, on GPUs of TensorFloat-32) for features. *Loading* "
        f"is JPEG files over {rate:,.0f} images/s a core (benchmarks/loader.json, 500 x 375 px), "
        "on all of the hosts' cores. *Moving* is the all-reduce "
        "over the chips' links. On GPUs it hides behind the computing. On TPUs what libtpu makes "
        "asynchronous hides, and the rest is added. Loading hides behind both. k-means: "
        f"{config.clusters.k:,} clusters, {config.clusters.max_iterations} iterations, as if all "
        "rows moved in each, not counting what pruning saves; its all-reduce is "
        f"{size(2 * config.clusters.k * facts['dims'] * 4)} an iteration. Pseudo-labels of the "
        "clustered images are copied from the clusters. Training takes the same steps whatever the "
        "set: that is the paper's schedule.\n",
    ]
    for machine in MACHINES:
        for name, images in SETS.items():
            lines += [
                f"### {name} on {machine.name}\n",
                "| stage | PFLOP | computing | of the peak | loading | moving | time | stored |",
                "|---" * 8 + "|",
                *plan(machine, images, facts, config, rate),
                "",
            ]
    lines += [
        "## What this says\n",
        "- The probe is not in the tables: `linear_sgd` keeps the features of five layers of every "
        "image twice, about 250 GB for ImageNet, on the first host's disk. Probe a part of a "
        "larger set.",
        "- AlexNet computes little for every image and has many parameters: eight GPUs wait for "
        "JPEG decoding (prepare the images at 256 px once), 64 chips for the update and the "
        "gradients of its dense layers, which cost the same for any batch (a larger one).",
        "- k-means over 100 million images is bound by the disks that features are read from, not "
        "by its products: a smaller `features.grid` divides both.",
    ]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
