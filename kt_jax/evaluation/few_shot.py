"""Accuracy with few labels: ridge regression on frozen features of some labelled images."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from kt_jax.evaluation import linear, protocol, ridge, scores, subjects
from kt_jax.evaluation.subjects import Subject
from kt_jax.machine import blas
from kt_jax.models import views
from kt_jax.runs.stage import Stage

_log = logging.getLogger(__name__)
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options(protocol.Protocol):
    """Options of ridge regression with few labels."""

    per_class: tuple[int, ...] = (10, 50, 100)
    """Numbers of labelled images per class. A class with fewer images has all of them labelled."""
    shares: tuple[float, ...] = (0.01, 0.1)
    """Shares of each class that are labelled, with at least one image."""
    draws: int = 5
    """The number of random draws of labelled images. All subjects get the same draws."""
    most_rows: int = 5_000
    """Amounts of more labelled images in all are skipped: use the kind `linear` for them."""

    def __post_init__(self) -> None:
        """Refuses counts below 1, and shares that are out of range."""
        super().__post_init__()
        for name, values in (
            ("per_class", self.per_class),
            ("draws", (self.draws,)),
            ("most_rows", (self.most_rows,)),
        ):
            if any(value < 1 for value in values):
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares = {self.shares}: give shares above 0, up to 1")
        if not self.per_class and not self.shares:
            raise ValueError("per_class and shares are empty: give an amount of labels")

    def why_skipped(self, labels: Int[np.ndarray, " n"]) -> str:
        """Why no amount of labels can be measured; "" if one can."""
        kept, skipped = _count(self, labels)
        return "" if kept else "; ".join(skipped)


def measure(stage: Stage, subject: Subject, seed: int) -> list[dict[str, Any]]:
    """A row for each amount of labels, at the layer that the labelled images choose."""
    chosen: Options = stage.options
    train = stage.inputs.images["train_images"]
    labels, classes = protocol.labels_of(train), len(train.class_names)
    tested = protocol.labels_of(stage.inputs.images["test_images"])
    # Every subject gets the same images, so that subjects can be compared.
    drawn = dict(_draw(chosen, labels, seed))
    used = np.unique(np.concatenate([rows for some in drawn.values() for rows in some]))
    whole = views.fixed_views(1)
    with stage.count(len(used) + len(tested), "images seen", name=subject.name) as count:
        seen = subjects.collect(subject, "train", used.tolist(), whole)
        count.add(len(used))
        layers, best = {}, {}
        for amount, some in drawn.items():
            places = [np.searchsorted(used, rows) for rows in some]
            fitted = {
                layer: [
                    fit(x[place].astype(np.float64), labels[used[place]], classes, channels)
                    for place in places
                ]
                for (layer, channels), x in zip(
                    subject.channels.items(), seen.values(), strict=True
                )
            }
            means = {
                layer: float(np.mean([right for _, right in each]))
                for layer, each in fitted.items()
            }
            layers[amount] = protocol.choose_layer(means)
            best[amount] = means[layers[amount]], fitted[layers[amount]]
        wanted: dict[str, dict[int, ridge.Classifier]] = {}
        places = {}
        for amount, layer in layers.items():
            for number, (classifier, _) in enumerate(best[amount][1]):
                places[amount, number] = len(wanted.setdefault(layer, {}))
                wanted[layer][places[amount, number]] = classifier
        answers = linear.predict(
            subject, "test", range(len(tested)), whole, wanted, on_batch=count.add
        )
    rows, view = [], subject.describe_views("training and testing on the centre view")
    for amount, layer in layers.items():
        guesses = [answers[layer][places[amount, n]] for n in range(chosen.draws)]
        each = [float((guess == tested).mean()) for guess in guesses]
        rows.append(
            {
                "layer": layer,
                "metric": "accuracy",
                **scores.accuracy(guesses, tested),
                "predictions": guesses,
                "labels": amount,
                "labelled": len(drawn[amount][0]),
                "draws": each,
                "spread": float(np.std(each, ddof=1)) if len(each) > 1 else 0.0,
                "held_out": best[amount][0],
                "chosen": True,
                "details": f"ridge regression on the frozen features of {len(drawn[amount][0])} "
                f"labelled images ({amount}); the mean of {chosen.draws} random draws of them; "
                f"{view}",
                "selection": "leave-one-out on the labelled images chose the penalty and the "
                "layer; no test image was used to choose",
            }
        )
    return rows


def _draw(
    chosen: Options, labels: Int[np.ndarray, " n"], seed: int
) -> Iterator[tuple[str, list[Int[np.ndarray, " m"]]]]:
    """The labelled images of every draw, by amount in words.

    Larger amounts include the images of smaller ones.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shuffled = [
        [np.random.default_rng((seed, draw, n)).permutation(x) for n, x in enumerate(members)]
        for draw in range(chosen.draws)
    ]
    amounts, skipped = _count(chosen, labels)
    for line in skipped:
        _log.info("few labels: skipping %s", line)
    for amount, counts in amounts.items():
        some = [
            np.concatenate([x[:n] for x, n in zip(each, counts, strict=True)]) for each in shuffled
        ]
        yield amount, some


def _count(
    chosen: Options, labels: Int[np.ndarray, " n"]
) -> tuple[dict[str, list[int]], list[str]]:
    """The numbers of labelled images of each class, by amount in words; and what is skipped."""
    sizes = np.unique(labels, return_counts=True)[1].tolist()
    amounts = {f"{count} a class": [count] * len(sizes) for count in chosen.per_class}
    amounts |= {
        f"{100 * share:g} % of each class": [max(1, round(share * size)) for size in sizes]
        for share in chosen.shares
    }
    kept, skipped = {}, []
    for amount, counts in amounts.items():
        asked = sum(map(min, counts, sizes))
        if asked == len(labels):
            skipped.append(f"{amount}: these are all training images: see the kind linear")
        elif asked > chosen.most_rows:
            skipped.append(f"{amount}: {asked} images are more than most_rows = {chosen.most_rows}")
        else:
            kept[amount] = counts
    return kept, skipped


def fit(
    rows: Float64[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int, channels: int
) -> tuple[ridge.Classifier, float]:
    """As `ridge.fit`, with the penalty of the best leave-one-out accuracy.

    It uses the dual: with K = X X^T of centred rows and D = p (K + p I)^-1 for a penalty p, the
    residual of row i is (D Y)_i. If row i is held out and the intercept fitted again, it is (D Y)_i
    / (D_ii - 1/n) (Rifkin & Lippert 2007, with the intercept's share 1/n of the leverage).

    Returns:
      The classifier, and its leave-one-out accuracy: a share of the rows.
    """
    mean = rows.mean(0)
    by_channel = mean.reshape(-1, channels).mean(0)
    variance = np.square(rows).mean(0).reshape(-1, channels).mean(0) - by_channel**2
    deviation = np.sqrt(np.maximum(variance, 1e-10 * (1 + by_channel**2)))
    scale = 1 / np.tile(deviation, rows.shape[1] // channels)
    x = (rows - mean) * scale
    shares = np.bincount(labels, minlength=classes) / len(labels)
    target: Float[np.ndarray, "n classes"] = np.eye(classes)[labels] - shares
    products = x @ x.T
    with blas.decomposing(len(rows)):
        values, vectors = np.linalg.eigh(products)
    values = np.maximum(values, 0)
    projected = vectors.T @ target
    unit = values.sum() / rows.shape[1]
    found = []
    for penalty in ridge.PENALTIES:
        absolute = max(penalty * unit, 1e-12)
        inverse = 1 / (values + absolute)
        dual = vectors @ (inverse[:, None] * projected)
        free = absolute * np.square(vectors) @ inverse - 1 / len(rows)
        left_out = target - absolute * dual / np.maximum(free, 1e-9)[:, None] + shares
        found.append((float((left_out.argmax(1) == labels).mean()), dual))
    number = max(range(len(found)), key=lambda n: (found[n][0], n))
    right, dual = found[number]
    weights = scale[:, None] * (x.T @ dual)
    return ridge.Classifier(weights, shares - mean @ weights), right
