"""The project's own programs at the paper's geometry, traced for a mesh from shapes alone."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kt_jax import training
from kt_jax.config import load_config
from kt_jax.evaluation import backbones, extraction, linear
from kt_jax.kmeans import comparing, device, lloyd, rows, seeding
from kt_jax.models import views
from kt_jax.pretext import puzzles
from kt_jax.runs import files
from kt_jax.runs.graph import Graph, make_graph
from kt_jax.stages import classify, pretext
from kt_jax.training import optimizers

CONFIG = Path(__file__).resolve().parent.parent / "configs/jigsawpp.py"
# Rows, their numbers and clusters of the paper's k-means; the pruned step compares with an eighth.
N, D, K = 1_281_167, 8_192, 2_000
PRUNED = K // 8
MICRO_BATCHES = 4
FEATURES_A_CHIP = 32  # images of a batch
# Images a chip of trainings with larger batches. 9 x 56 tiles nearly fill lanes of 128.
LARGE = {"teacher_large": 56, "student_large": 256}
# Of the student's conv1 (AlexNet), max-pooled, and ImageNet's classes.
PROBED, CLASSES = 9_216, 1_000


def open_graph(batch: int) -> Graph:
    """The paper's experiment with that batch for both trainings."""
    config = load_config(str(CONFIG))
    for name in ("pretext", "student"):
        config[name].batch_size = batch
        config[name].optimizer.reference_batch = 256
    return make_graph(files.to_plain(config))


def choose_batch(mesh: Mesh) -> int:
    """The paper's 256, or for more than 32 chips 1,024: puzzles are made in groups of 8."""
    return 256 if mesh.size <= 256 // puzzles.GROUP else 1024


def trace_step(
    graph: Graph,
    name: str,
    mesh: Mesh,
    *,
    precision: str = "bfloat16",
    remat: bool = False,
    accumulate: int = 1,
) -> tuple[Any, Any]:
    """Traces the step of a training stage; returns it and the shapes of its state."""
    options = graph[name].options
    if name == "pretext":
        make_model = pretext.make_network(options)
        chosen = pretext.make_permutation_set(options, 0)

        def make_examples(key: Any, batch: Any) -> Any:
            made = puzzles.make_puzzles(key, batch["image"], jnp.asarray(chosen), options.puzzles)
            return views.standardise(made.tiles), made.label
    else:
        make_model = classify.make_network(options, graph["clusters"].options.k)

        def make_examples(key: Any, batch: Any) -> Any:
            crops = views.random_resized_crop(
                key, batch["image"], size=options.size, area=options.crop_area
            )
            return crops, batch["label"]

    optimizer = optimizers.make_optimizer(
        options.optimizer, steps=options.steps, batch_size=options.batch_size
    )
    shapes = jax.eval_shape(lambda: _init(make_model, optimizer))
    state = _everywhere(mesh, shapes)
    batch = {
        "image": _sharded(mesh, (options.batch_size, 256, 256, 3), jnp.uint8),
        "label": _sharded(mesh, (options.batch_size,), jnp.int32),
    }
    step: Any = training.make_step(
        make_model, make_examples, optimizer, key=jax.random.key(0), precision=precision,
        remat=remat, accumulate=accumulate,
    )  # fmt: skip
    return step.program.trace(state, batch, step.key_data), shapes


def _init(make_model: Any, optimizer: Any) -> training.TrainState:
    params, batch_stats = training.init_variables(make_model, 0)
    return training.TrainState(
        jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params)
    )


def _everywhere(mesh: Mesh, tree: Any) -> Any:
    """Shapes of arrays that every device has."""
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


_ROWS = P("data")


def _sharded(
    mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.float32, spec: P = _ROWS
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def _train(program: str, mesh: Mesh) -> Any:
    name = "pretext" if program.startswith("teacher") else "student"
    accumulate = MICRO_BATCHES if program.endswith("_accumulated") else 1
    graph = open_graph(count_images(program, mesh))
    return trace_step(graph, name, mesh, accumulate=accumulate)[0]


def _features(mesh: Mesh) -> Any:
    """Of the teacher at the layer that is clustered."""
    graph = open_graph(choose_batch(mesh))
    options = graph["features"].options
    teacher = graph["pretext"].options
    about = backbones.describe(teacher.backbone, teacher.puzzles.tile)
    program = extraction._make_program(
        backbones.to_json(about), ((options.layer, options.grid),), options.size, False
    )
    shapes = _everywhere(mesh, backbones.variable_shapes(about))
    pixels = _sharded(mesh, (count_images("features", mesh), 256, 256, 3), jnp.uint8)
    place = _everywhere(mesh, jax.ShapeDtypeStruct((4,), jnp.float32))
    traceable: Any = program
    return traceable.trace(shapes, pixels, place)


def _ridge(mesh: Mesh) -> Any:
    """The sums of the closed-form probe; the system itself is solved by the host, in float64."""
    batch = count_images("ridge", mesh)
    rows_of = _sharded(mesh, (batch, PROBED))
    sums = [jax.ShapeDtypeStruct(x, jnp.float32) for x in _ridge_shapes()]
    state = {"conv1": tuple(_everywhere(mesh, sums))}
    targets = _everywhere(mesh, jax.ShapeDtypeStruct((N,), jnp.int32))
    index, mask = _sharded(mesh, (batch,), jnp.int32), _sharded(mesh, (batch,), jnp.bool_)
    return linear._add.trace(state, [{"conv1": rows_of}], targets, index, mask, CLASSES)


def _ridge_shapes() -> tuple[tuple[int, ...], ...]:
    return (CLASSES,), (PROBED, CLASSES), (PROBED, PROBED)


def _points(mesh: Mesh, count: int) -> comparing.Points:
    count = -(-count // comparing.GROUP) * comparing.GROUP
    values = jax.ShapeDtypeStruct((count, D), jnp.float32)
    one = jax.ShapeDtypeStruct((count,), jnp.float32)
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    return _everywhere(mesh, comparing.Points(values, one, one, one, numbers))


def _kmeans(name: str, mesh: Mesh) -> Any:
    block_rows, chunk = rows.choose_blocks((N, D), K, mesh)
    setting = device.Setting(mesh, chunk, precision="exact")
    in_rows = functools.partial(_sharded, mesh)
    each, number = in_rows((block_rows,)), in_rows((block_rows,), jnp.int32)
    counts = in_rows((block_rows,), jnp.bool_)
    near = in_rows((block_rows, D), jnp.bfloat16) if setting.platform == "tpu" else None
    block = device.Prepared(in_rows((block_rows, D)), each, each, each, counts, near)
    centroids = jax.ShapeDtypeStruct((K, D), jnp.float32)
    totals = jax.tree.map(
        lambda x, spec: _sharded(mesh, x.shape, x.dtype, spec),
        jax.eval_shape(functools.partial(lloyd.zero_totals, setting), centroids),
        lloyd._TOTALS,
    )
    said = _everywhere(mesh, jax.ShapeDtypeStruct((), jnp.bool_))
    whole = _everywhere(mesh, jax.ShapeDtypeStruct((), jnp.int32))
    every = _points(mesh, K)
    if name in ("step", "step_pruned"):
        changed = _everywhere(mesh, jax.ShapeDtypeStruct((K,), jnp.bool_))
        subset = every if name == "step" else _points(mesh, PRUNED)
        state = number, each, each
        return lloyd.step.trace(setting, block, state, totals, subset, every, changed, said, said)
    if name == "update":
        sums = _everywhere(mesh, (centroids, centroids))
        sizes = _everywhere(mesh, jax.ShapeDtypeStruct((K,), jnp.int32))
        origin = _everywhere(mesh, jax.ShapeDtypeStruct((D,), jnp.float32))
        old = _everywhere(mesh, centroids)
        return lloyd.update.trace(setting, totals, sums, sizes, old, origin)
    if name == "label":
        setting = device.Setting(mesh, chunk, precision="float32")
        return comparing.label.trace(setting, block, every, whole)
    if name == "seeding":
        points = _points(mesh, math.ceil(seeding._DRAWN * K))
        return seeding._approach.trace(setting, block, (each, number), points, whole, said)
    stored = in_rows((block_rows, D), jnp.float16)
    if name == "sums":
        return device.lane_sums.trace(setting, stored)
    zeros = _everywhere(mesh, jax.ShapeDtypeStruct((D,), jnp.float32))
    return device.prepare.trace(setting, stored, device.Frame(zeros, zeros), whole)


# Points that every row is compared with, and passes of bfloat16 products that one takes on a TPU.
_COMPARED = {
    "kmeans_step": (K, 1),
    "kmeans_step_pruned": (PRUNED, 1),
    "kmeans_label": (K, 6),
    "kmeans_seeding": (math.ceil(seeding._DRAWN * K), 6),
}


def count_images(name: str, mesh: Mesh) -> int:
    """The images of a step of a training, or of a batch of another program."""
    if name in LARGE:
        return LARGE[name] * mesh.size
    if name in ("features", "ridge"):
        return FEATURES_A_CHIP * mesh.size
    return choose_batch(mesh)


def count_flops(name: str, mesh: Mesh) -> float:
    """The FLOPs on a chip that a program is for: a loop's body as often as it runs.

    k-means: products of rows and centroids, not the sums of the clusters. Others: what XLA counts
    of the same program for one CPU, since it counts nothing for machines that are absent.
    """
    if name in _COMPARED:
        points, passes = _COMPARED[name]
        return 2 * rows.choose_blocks((N, D), K, mesh)[0] / mesh.size * D * points * passes
    if name.startswith("kmeans"):
        return 0.0  # sums and conversions
    alone = Mesh(np.array(jax.devices("cpu")[:1]), ("data",), axis_types=(AxisType.Auto,))
    of_one = PROGRAMS[name](alone).lower().cost_analysis()["flops"] / count_images(name, alone)
    flops = of_one * count_images(name, mesh) / mesh.size
    if name == "ridge":
        return 6 * flops  # in float32
    return flops * (MICRO_BATCHES if name.endswith("_accumulated") else 1)


# name: (mesh -> the traced program).
PROGRAMS: dict[str, Callable[[Mesh], Any]] = {
    **{
        name: functools.partial(_train, name)
        for name in ("teacher", "student", "student_accumulated", *LARGE)
    },
    "features": _features,
    "ridge": _ridge,
    **{
        f"kmeans_{name}": functools.partial(_kmeans, name)
        for name in ("step", "step_pruned", "update", "label", "seeding", "sums", "prepare")
    },
}
