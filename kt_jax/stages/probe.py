"""Stage 6: linear probes say how good the student's features are, beside the baselines.

Protocol (after Zhang et al. 2016, as the paper's Table 4 is): every layer's activation, frozen,
max-pooled (they resize) to at most `max_dims` dimensions, a batch normalisation without
parameters and one linear layer; all layers in one pass. Training sees the central view or its
mirror image, testing the central view. The last step counts; no test image chose anything.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kt_jax import data, models, training
from kt_jax.evaluation import backbones, leakage
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts
from kt_jax.training import learning

READS = ("pretext", "student")
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class Subject:
    """What is probed: a frozen backbone and its layers, or (None) the pixels themselves."""

    name: str
    backbone: backbones.FrozenBackbone | None
    layers: tuple[str, ...]
    seed: int


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes results.json: protocol, split, selection, rows, teacher_rows, leakage.

    Without a label for every image there is nothing to probe: rows is empty and left_out says why.
    """
    section = stage.section
    train_images = stage.images[section.train_images]
    test_images = stage.images[section.test_images]
    results: dict[str, Any] = {
        "protocol": f"linear, frozen, max-pooled to <= {section.max_dims} dims, non-affine batch "
        f"norm, {section.epochs} epochs of the centre view or its mirror image, centre view in "
        "testing",
        "split": f"train: {train_images.origin} ({len(train_images)} images); "
        f"test: {test_images.origin} ({len(test_images)} images)",
        "selection": "last step; no test image was used to choose anything",
        "rows": [],
        "teacher_rows": [],
        "leakage": leakage.find_leakage(stage, READS, train_images, test_images),
    }
    if reason := _why_left_out(train_images, test_images):
        artifacts.write_json(stage.directory / "results.json", {**results, "left_out": reason})
        return {"left_out": reason}

    student = backbones.load_backbone(stage.open("student"))
    teacher = backbones.load_backbone(stage.open("pretext"))
    for seed in section.seeds:
        random = backbones.random_backbone(student.options, seed=stage.seed + seed)
        subjects = [
            Subject("student", student, CONVOLUTIONS, seed),
            Subject("random", random, CONVOLUTIONS, seed),
            Subject("pixels", None, ("pixels",), seed),
            Subject("teacher", teacher, tuple(section.teacher_layers), seed),
        ]
        for subject in subjects:
            rows = results["teacher_rows" if subject.name == "teacher" else "rows"]
            accuracies = probe(stage, subject, train_images, test_images)
            rows += [
                {"backbone": subject.name, "layer": layer, "accuracy": accuracy, "seed": seed}
                for layer, accuracy in accuracies.items()
            ]
    artifacts.write_json(stage.directory / "results.json", results)
    return {"rows": len(train_images), "test_rows": len(test_images)}


def probe(
    stage: artifacts.Stage, subject: Subject, train_images: Any, test_images: Any
) -> dict[str, float]:
    """Test accuracy of one subject by layer.

    A finished subject's result is kept, so that an interrupted stage does not repeat it.
    """
    section = stage.section
    name = f"{subject.name}-{subject.seed}"
    done = stage.directory / "cache" / f"{name}.json"
    scratch = stage.directory / "cache" / name
    if done.exists():
        artifacts.delete(scratch)
        return artifacts.read_json(done)
    grids = _grids(subject, section)
    seen = _cache(stage, subject, grids, train_images, scratch / "train", mirrored=(False, True))
    targets = np.tile(train_images.labels, 2)
    steps = max(1, section.epochs * len(train_images) // section.batch_size)
    order = data.Shuffled(len(targets), stage.seed + subject.seed)
    dims = {layer: rows.shape[1] for layer, rows in seen.items()}
    classes = len(train_images.class_names)

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return models.LinearProbes(dims, classes=classes, rngs=rngs)

    def make_examples(
        _: jax.Array, batch: training.Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        return {layer: batch[layer].astype(jnp.float32) for layer in dims}, batch["label"]

    def make_batches(first_step: int) -> Iterator[training.Batch]:
        size = section.batch_size
        for step in range(first_step, steps):
            chosen = np.array([order(step * size + row) for row in range(size)])
            batch = {layer: rows[chosen] for layer, rows in seen.items()}
            yield partition.put_rows({**batch, "label": targets[chosen]}, stage.mesh)

    state = learning.learn(
        stage,
        make_model,
        make_examples,
        make_batches,
        name=f"probe of {name}",
        seed=stage.seed + subject.seed,
        steps=steps,
        log_every=max(1, steps // 5),
        checkpoint_every=steps,
        log_directory=scratch,
        store_directory=stage.directory / "checkpoints" / name,
        loss_fn=_sum_of_losses,
    )
    held_out = _cache(stage, subject, grids, test_images, scratch / "test", mirrored=(False,))
    accuracies = _test(stage, state, make_model, held_out, test_images.labels)
    artifacts.write_json(done, accuracies)
    partition.wait_for_all(f"the tests of {name}")
    artifacts.delete(scratch)
    return accuracies


def _sum_of_losses(
    logits: Mapping[str, jax.Array], labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The layers' probes do not touch one another: their losses are added."""
    losses = {
        layer: optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()
        for layer, x in logits.items()
    }
    total = functools.reduce(jnp.add, losses.values())
    right = {f"{layer}_accuracy": (x.argmax(-1) == labels).mean() for layer, x in logits.items()}
    return total, {"loss": total, **right}


def _grids(subject: Subject, section: Any) -> dict[str, int]:
    """The largest pooling grid of each layer that keeps to max_dims."""
    if subject.backbone is None:
        return {"pixels": int((section.max_dims / 3) ** 0.5)}
    shapes = backbones.layer_shapes(subject.backbone.options, section.size)
    return {layer: int((section.max_dims / shapes[layer][2]) ** 0.5) for layer in subject.layers}


def _cache(
    stage: artifacts.Stage,
    subject: Subject,
    grids: Mapping[str, int],
    images: Any,
    directory: Path,
    *,
    mirrored: tuple[bool, ...],
) -> dict[str, np.ndarray]:
    """Each layer's features [views * n, d] float16 as a file that the page cache holds."""
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, np.memmap] = {}
    for view, flip in enumerate(mirrored):
        for index, rows in _extract(stage, subject, grids, images, mirrored=flip):
            for layer, x in rows.items() if artifacts.writes() else ():
                if layer not in files:
                    files[layer] = np.lib.format.open_memmap(
                        directory / f"{layer}.npy",
                        mode="w+",
                        dtype=np.float16,
                        shape=(len(mirrored) * len(images), x.shape[1]),
                    )
                files[layer][view * len(images) + index] = x
    for file in files.values():
        file.flush()  # where other hosts see it
    partition.wait_for_all(str(directory))
    return {layer: np.load(directory / f"{layer}.npy", mmap_mode="r") for layer in grids}


def _extract(
    stage: artifacts.Stage,
    subject: Subject,
    grids: Mapping[str, int],
    images: Any,
    *,
    mirrored: bool,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    section = stage.section
    if subject.backbone is not None:
        yield from backbones.extract(
            subject.backbone,
            images,
            grids,
            size=section.size,
            batch_size=section.batch_size,
            mesh=stage.mesh,
            reading=stage.reading,
            notice=stage.notice,
            mirrored=mirrored,
        )
        return
    side = min(section.size, grids["pixels"])

    @jax.jit
    def pixels(batch: jax.Array) -> jax.Array:
        view = views.centre_view(batch, section.size)
        view = views.mirror(view) if mirrored else view
        small = jax.image.resize(view, (view.shape[0], side, side, 3), "linear")
        return small.reshape(small.shape[0], -1).astype(jnp.float16)

    for batch in data.eval_batches(images, section.batch_size, reading=stage.reading):
        stage.notice.check()
        shown = partition.put_batch(
            {name: batch[name] for name in ("image", "index", "mask")}, stage.mesh
        )
        rows, index, mask = partition.fetch((pixels(shown["image"]), shown["index"], shown["mask"]))
        yield index[mask], {"pixels": rows[mask]}


def _test(
    stage: artifacts.Stage,
    state: training.TrainState,
    make_model: training.MakeModel,
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> dict[str, float]:
    """Accuracy by layer on the cached features."""
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def predict(state: training.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        inputs = {name: x.astype(jnp.float32) for name, x in batch.items()}
        logits = training.bind(graphdef, state.params, state.batch_stats)(inputs)
        return {name: x.argmax(-1) for name, x in logits.items()}

    right = dict.fromkeys(features, 0)
    for begin in range(0, len(labels), stage.section.batch_size):
        stage.notice.check()
        rows = slice(begin, begin + stage.section.batch_size)
        predicted = predict(state, {name: np.asarray(x[rows]) for name, x in features.items()})
        for name, guess in predicted.items():
            right[name] += int((np.asarray(guess) == labels[rows]).sum())
    return {name: count / len(labels) for name, count in right.items()}


def _why_left_out(*sets: data.Images) -> str | None:
    several = "is multi-label: probes of several classes an image are not measured here"
    for images in sets:
        if images.single_labels is None:
            none = images.labels is None
            return f"{images.origin} {'has no labels' if none else several}"
    return None


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for layers that the teacher has not, images that are too small, or a test set
        of other classes.
    """
    section = config.probe
    learning.check(config, "probe")
    seen, held_out = images[section.train_images], images[section.test_images]
    if reason := _why_left_out(seen, held_out):
        return [f"left out: {reason}"]
    if seen.class_names != held_out.class_names:
        raise ValueError(
            f"config.probe.train_images ({seen.origin}) has the classes {seen.class_names[:5]}..., "
            f"test_images ({held_out.origin}) has {held_out.class_names[:5]}...: they must agree."
        )
    for key in ("train_images", "test_images"):
        data.check_size(images[section[key]], f"config.probe.{key}", section.size)
    backbone = artifacts.plain(config.pretext.backbone)
    backbones.check_layers(
        "config.probe.teacher_layers", section.teacher_layers, backbone, section.size
    )
    scratch = 2 * len(seen) * len(CONVOLUTIONS) * section.max_dims * 2
    return [
        f"student, random, pixels and teacher on {len(seen)} + {len(held_out)} images, "
        f"{section.epochs} epochs, seeds {list(section.seeds)}",
        f"scratch files up to {scratch / 1e9:,.1f} GB",
    ]
