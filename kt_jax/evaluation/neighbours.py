"""Nearest neighbours among frozen features: classes by vote, and retrieved pictures."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from kt_jax.evaluation import linear, protocol, ridge, scores
from kt_jax.evaluation.subjects import Subject
from kt_jax.machine import blas, partition
from kt_jax.models import views
from kt_jax.runs import files
from kt_jax.runs.stage import Stage

VERSION = 1
TEMPERATURE = 0.07  # DINO, eval_knn.py
RETRIEVED = "retrieved.json"
_PICTURES = 8  # test images whose neighbours are written
_BLOCK = 8_192  # training rows that are compared at a time


@dataclass(frozen=True, kw_only=True)
class Options(protocol.Protocol):
    """Options of nearest neighbours by the cosine of features."""

    k: int = 20
    """The number of neighbours."""
    whiten: int = 256
    """The largest number of principal components of the rows that are compared, each scaled to
    variance 1 (Caron et al. 2018, section 3). It changed a teacher's vote from 49 to 54 % at 48 px.
    0: rows are not whitened; they must fit in memory."""

    def __post_init__(self) -> None:
        """Refuses counts that are out of range."""
        super().__post_init__()
        for name, least in (("k", 1), ("whiten", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: give {least} or more")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of length 1 by layer, of the training images and of the test images."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def vote(stage: Stage, subject: Subject, seed: int) -> list[dict[str, Any]]:
    """The class that the k nearest training images vote for, with weights exp(cosine / 0.07)."""
    chosen: Options = stage.options
    train = stage.inputs.images["train_images"]
    labels, classes = protocol.labels_of(train), len(train.class_names)
    tested = protocol.labels_of(stage.inputs.images["test_images"])
    kept, held_out = protocol.hold_out(labels, seed)
    rows = _see(stage, subject)
    values, answers = {}, {}
    for layer, x in rows.train.items():
        near = find_neighbours(x[held_out], x[kept], chosen.k)
        guess = weigh(near[0], labels[kept][near[1]], classes)
        values[layer] = float((guess == labels[held_out]).mean())
        cosines, index = find_neighbours(rows.test[layer], x, chosen.k)
        answers[layer] = weigh(cosines, labels[index], classes)
    return _tabulate(
        {layer: [answer] for layer, answer in answers.items()},
        values,
        tested,
        metric="accuracy",
        details=f"a vote of the {chosen.k} nearest training images by cosine, weighted by "
        f"exp(cosine / {TEMPERATURE}), {_describe(chosen, subject)}",
    )


def retrieve(stage: Stage, subject: Subject, seed: int) -> list[dict[str, Any]]:
    """The share of the k nearest training images that have the class of a test image."""
    chosen: Options = stage.options
    train, test = (stage.inputs.images[f"{split}_images"] for split in ("train", "test"))
    labels, tested = protocol.labels_of(train), protocol.labels_of(test)
    kept, held_out = protocol.hold_out(labels, seed)
    rows = _see(stage, subject)
    values, answers, found = {}, {}, {}
    for layer, x in rows.train.items():
        _, index = find_neighbours(x[held_out], x[kept], chosen.k)
        values[layer] = float((labels[kept][index] == labels[held_out][:, None]).mean())
        _, found[layer] = find_neighbours(rows.test[layer], x, chosen.k)
        answers[layer] = list(labels[found[layer]].T)
    best = protocol.choose_layer(values)
    shown = np.random.default_rng(stage.seed).permutation(len(tested))[:_PICTURES]
    path = stage.directory / RETRIEVED
    kept_before = files.read_json(path) if path.exists() else {}
    queries = [
        {"test": test.keys[row], "train": [train.keys[near] for near in found[best][row]]}
        for row in shown.tolist()
    ]
    files.write_json(path, {**kept_before, subject.name: {"layer": best, "queries": queries}})
    return _tabulate(
        answers,
        values,
        tested,
        metric=f"precision@{chosen.k}",
        details=f"the share of the {chosen.k} nearest training images by cosine that have the "
        f"class of the test image, {_describe(chosen, subject)}",
    )


def find_neighbours(
    queries: Float[np.ndarray, "m d"], rows: Float[np.ndarray, "n d"], k: int
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """The k largest products of each query with rows, and the numbers of these rows, nearest first.

    If products are equal, the earlier row comes first. If there are fewer than k rows, all are
    returned.
    """
    k = min(k, len(rows))
    # In blocks, too: the products of all queries with a block of rows would be gigabytes.
    parts = [jnp.asarray(queries[at : at + _BLOCK]) for at in range(0, len(queries), _BLOCK)]
    best = [
        (jnp.full((len(part), k), -jnp.inf), jnp.zeros((len(part), k), jnp.int32)) for part in parts
    ]
    for begin in range(0, len(rows), _BLOCK):
        block = jnp.asarray(rows[begin : begin + _BLOCK])
        best = [
            _merge(each, part, block, jnp.int32(begin))
            for each, part in zip(best, parts, strict=True)
        ]
    cosines, index = (np.concatenate(x) for x in zip(*jax.device_get(best), strict=True))
    return cosines, index


@jax.jit
def _merge(
    best: tuple[Array, Array], queries: Array, block: Array, begin: Array
) -> tuple[Array, Array]:
    products = jnp.matmul(queries, block.T, precision=jax.lax.Precision.HIGHEST)
    k = best[0].shape[1]
    near, where = jax.lax.top_k(products, min(k, block.shape[0]))
    values = jnp.concatenate([best[0], near], axis=1)
    index = jnp.concatenate([best[1], begin + where.astype(jnp.int32)], axis=1)
    values, order = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(index, order, axis=1)


def weigh(
    cosines: Float[np.ndarray, "m k"], labels: Int[np.ndarray, "m k"], classes: int
) -> Int[np.ndarray, " m"]:
    """The class with the largest sum of exp(cosine / 0.07) over its neighbours.

    >>> weigh(np.array([[0.9, 0.8, 0.8]]), np.array([[2, 1, 1]]), 3).tolist()
    [2]
    """
    weights = np.exp((cosines - cosines.max(1, keepdims=True)) / TEMPERATURE)
    votes = np.zeros((len(labels), classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return votes.argmax(1).astype(np.int32)


def _see(stage: Stage, subject: Subject) -> _Rows:
    """Rows of the central views, whitened if the options say so, and scaled to length 1."""
    chosen: Options = stage.options
    train, test = (stage.inputs.images[f"{split}_images"] for split in ("train", "test"))
    every = range(len(train))
    # (mean, components) by layer
    maps: dict[str, Any] = dict.fromkeys(subject.layers)
    passes = 2 if chosen.whiten else 1
    total = passes * len(train) + len(test)
    with stage.count(total, "images seen", name=subject.name) as count:
        if chosen.whiten:
            one_class = np.zeros(len(train), np.int32)
            sums = linear.sum_up(
                subject, every, one_class, 1, shown=views.fixed_views(1), on_batch=count.add
            )
            maps = {layer: _whitening(each, chosen.whiten) for layer, each in sums.items()}
        maps = jax.device_put(maps)
        found = {}
        for split, rows in (("train", every), ("test", range(len(test)))):
            parts: dict[str, list[np.ndarray]] = {layer: [] for layer in subject.layers}
            for batch, seen in subject.see(split, rows, views.fixed_views(1)):
                made, mask = partition.fetch((_project(maps, seen[0]), batch["mask"]))
                for layer, x in made.items():
                    parts[layer].append(x[mask])
                count.add(int(mask.sum()))
            found[split] = {layer: np.concatenate(some) for layer, some in parts.items()}
    return _Rows(**found)


def _whitening(moments: ridge.Moments, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d], and the principal components [d, dims] divided by their standard deviations."""
    rows = moments.counts.sum()
    mean = moments.by_class.sum(1) / rows
    covariance = moments.products / rows - np.outer(mean, mean)
    width = len(mean)
    largest = [max(0, width - dims), width - 1]
    with blas.decomposing(width):
        found = scipy.linalg.eigh(covariance, subset_by_index=largest)
    variances, directions = (np.asarray(each) for each in found)
    # Directions in which rows hardly differ would only be noise.
    kept = np.flatnonzero(variances > 1e-6 * variances[-1])[::-1]
    components = directions[:, kept] / np.sqrt(variances[kept])
    return mean.astype(np.float32), components.astype(np.float32)


@jax.jit
def _project(maps: Any, seen: Any) -> dict[str, jax.Array]:
    found = {}
    for layer, x in seen.items():
        if maps[layer] is not None:
            mean, components = maps[layer]
            x = jnp.matmul(x - mean[None], components, precision=jax.lax.Precision.HIGHEST)
        found[layer] = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return found


def _describe(chosen: Options, subject: Subject) -> str:
    whole = "in frozen features that are not whitened"
    if chosen.whiten:
        whole = f"in up to {chosen.whiten} whitened principal components of frozen features"
    return f"{whole}; {subject.describe_views('the centre view of each image')}"


def _tabulate(
    answers: dict[str, list[np.ndarray]],
    values: dict[str, float],
    tested: np.ndarray,
    *,
    metric: str,
    details: str,
) -> list[dict[str, Any]]:
    best = protocol.choose_layer(values)
    return [
        {
            "layer": layer,
            "metric": metric,
            **scores.accuracy(answer, tested),
            "predictions": answer,
            "held_out": values[layer],
            "chosen": layer == best,
            "details": details,
            "selection": "a tenth of the training images, held out class by class, chose the "
            "layer; no test image was used to choose",
        }
        for layer, answer in answers.items()
    ]
