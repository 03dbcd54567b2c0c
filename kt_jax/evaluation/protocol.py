"""What the evaluations of frozen networks share: options, checks, rows."""

import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from kt_jax import data
from kt_jax.evaluation import backbones, leakage, scores, subjects
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

_log = logging.getLogger(__name__)
_HELD_OUT = 0.1

# (stage, subject, seed) -> rows: layer, metric, value, n, interval, predictions, details and
# selection.
Measure = Callable[[Stage, subjects.Subject, int], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Options of evaluations of frozen networks. They also evaluate pixels and HOG with colours."""

    backbones: tuple[str, ...] = options.reads(artifacts.Backbone)
    """The networks to evaluate. `random:NAME` is the network NAME with random weights."""
    train_images: str = options.images("train")
    test_images: str = options.images("test")
    train_features: tuple[str, ...] = options.reads(artifacts.Features, default=())
    """Given features of the training images, to be evaluated too."""
    test_features: tuple[str, ...] = options.reads(artifacts.Features, default=())
    """Given features of the test images, one for each of `train_features`. The subject has the name
    of the training features."""
    size: int
    """The side of the central view, in pixels."""
    batch_size: int = options.incidental(256)
    """The number of images in a batch, over all devices."""
    max_dims: int = 9600
    """The largest number of dimensions to which layers are pooled (Zhang et al. 2016). A layer with
    more channels is pooled to one number per channel."""
    seeds: tuple[int, ...] = (0,)
    """The evaluation is repeated with each seed: other weights of `random:NAME`, other held-out
    images."""

    def __post_init__(self) -> None:
        """Refuses counts and lengths below 1."""
        for name in ("size", "max_dims"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 or more")

    def why_skipped(self, labels: Int[np.ndarray, " n"]) -> str:
        """Why nothing can be measured with training images of these labels; "" if it can."""
        del labels
        return ""


def evaluate(
    stage: Stage, name: str, *, version: int, measure: Measure
) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Measures every subject of a stage with each seed, and writes the scores (`scores.write`).

    The rows of a finished subject are kept, so a resumed stage does not repeat them. If images do
    not have one label each, there are no rows, and `skipped` says why.

    Args:
      stage: a stage whose options are a `Protocol`.
      name: the name of the protocol in the rows.
      version: the version of the protocol. Another version gives other values for the same network.
      measure: gives the rows of one subject.
    """
    inputs = stage.inputs
    seen, tested = (inputs.images[option] for option in ("train_images", "test_images"))
    found, unknown = find_leakage(stage)
    about = _describe(inputs, _why_skipped(stage.options, seen, tested))
    common = describe_rows(stage, name, version)
    rows: list[dict[str, Any]] = []
    for seed in () if about.skipped else stage.options.seeds:
        for subject, role in subjects.names(inputs).items():
            shown = {**common, "subject": subject, "role": role, "seed": seed}
            rows += [shown | row for row in _measure_once(stage, subject, seed, measure)]
    others = {"leakage": found, "unknown": unknown, "skipped": about.skipped}
    scores.write(stage.directory, rows, tested.single_labels, **others)
    if about.skipped:
        return about, {"skipped": about.skipped}
    return about, {"rows": len(seen), "test_rows": len(tested)}


def _measure_once(stage: Stage, name: str, seed: int, measure: Measure) -> list[dict[str, Any]]:
    done = stage.directory / "cache" / f"{urllib.parse.quote(f'{name}-{seed}', safe='')}.json"
    if not partition.decided_by_first(done.exists):
        subject = subjects.make_subject(stage, name, seed=stage.seed + seed)
        rows = measure(stage, subject, stage.seed + seed)
        lists = [{**row, "predictions": [x.tolist() for x in row["predictions"]]} for row in rows]
        files.write_json(done, lists)
        partition.wait_for_all(f"the scores of {name}")
    kept: list[dict[str, Any]] = files.read_json(done)
    return kept


def describe_rows(stage: Stage, name: str, version: int) -> dict[str, Any]:
    """What all rows of a protocol have: its name and version, and the images."""
    seen, tested = (stage.inputs.images[option] for option in ("train_images", "test_images"))
    return {
        "protocol": name,
        "version": version,
        "split": f"train: {seen.origin} ({len(seen)} images); "
        f"test: {tested.origin} ({len(tested)} images)",
    }


def find_leakage(stage: Stage) -> tuple[list[dict[str, Any]], list[str]]:
    """The test images that networks learned from, and networks with unknown training images."""
    inputs = stage.inputs
    given = [each for each in inputs.artifacts["backbones"] if not each.is_random]
    learned = {x.name: x / backbones.IMAGES for x in given if (x / backbones.IMAGES).exists()}
    unknown = [each.name for each in given if each.name not in learned]
    unknown += [f"the network of {pair[0].name}" for pair in subjects.pairs(inputs)]
    for name in unknown:
        _log.warning(
            "%s: it is not known which images %s learned from: test images may be among them",
            *(stage.name, name),
        )
    images = inputs.images["train_images"], inputs.images["test_images"]
    return leakage.find_leakage(learned, *images), unknown


def labels_of(images: data.Images) -> np.ndarray:
    """The label of each image.

    Raises:
      ValueError: the images do not have one label each.
    """
    labels = images.single_labels
    if labels is None:
        raise ValueError(f"{images.origin} has not one label for every image: nothing to evaluate")
    return labels


def hold_out(labels: np.ndarray, seed: int) -> tuple[list[int], list[int]]:
    """Splits training images class by class: nine tenths to fit, one tenth to choose by.

    Every class with two or more images has at least one held-out image.

    >>> fit, held_out = hold_out(np.repeat([0, 1], [20, 3]), seed=0)
    >>> np.bincount(np.repeat([0, 1], [20, 3])[held_out]).tolist()
    [2, 1]

    Returns:
      The rows of the two parts, ascending.
    """
    generator = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(_HELD_OUT * len(members))) if len(members) > 1 else 0
        held_out.append(members[:count])
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(held_out)] = True
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()


def choose_layer(held_out: Mapping[str, float]) -> str:
    """The layer with the best held-out accuracy. If several are equal, the last of them.

    >>> choose_layer({"conv1": 0.9, "conv2": 1.0, "conv3": 1.0, "conv4": 0.8})
    'conv3'
    """
    best = max(held_out.values())
    return [layer for layer, value in held_out.items() if value == best][-1]


def plan(chosen: Protocol, inputs: Inputs, *, how: str) -> Plan:
    """Checks the options of an evaluation, and describes it; `how` is a part of its line.

    Raises:
      ValueError: images are too small, the test set has other classes, or features are of other
        images.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    if not chosen.seeds:
        raise ValueError(f"{inputs.origin}.seeds is empty: give one or more")
    seen, tested = (inputs.images[option] for option in ("train_images", "test_images"))
    _check_features(inputs)
    about = _describe(inputs, _why_skipped(chosen, seen, tested))
    if about.skipped:
        return Plan(about, (f"skipped: {about.skipped}",))
    if seen.class_names != tested.class_names:
        raise ValueError(
            f"{inputs.origin}.train_images ({seen.origin}) has the classes "
            f"{seen.class_names[:5]}..., test_images ({tested.origin}) has "
            f"{tested.class_names[:5]}...: they must agree."
        )
    for option, images in inputs.images.items():
        data.check_size(images, f"{inputs.origin}.{option}", chosen.size)
    if np.bincount(labels_of(seen)).max() < 2:
        raise ValueError(
            f"{inputs.origin}.train_images ({seen.origin}) has one image a class: give two or "
            "more, one to learn from and one to choose by"
        )
    warnings = []
    for each in inputs.artifacts["backbones"]:
        shapes = backbones.layer_shapes(each.about, chosen.size)
        widest = max(shapes[layer][-1] for layer in each.about.probe_layers)
        if widest > chosen.max_dims:
            warnings.append(
                f"{inputs.origin}.max_dims = {chosen.max_dims}, but a layer of {each.name!r} has "
                f"{widest} channels: it is pooled to one number a channel"
            )
    line = (
        f"{', '.join(about.subjects)} on {len(seen)} training and {len(tested)} test images, "
        f"{how}, seeds {list(chosen.seeds)}"
    )
    columns = len(about.subjects) * 5 * len(chosen.seeds)
    return Plan(about, (line,), warnings=tuple(warnings), disk=lambda: 8 * len(tested) * columns)


def _describe(inputs: Inputs, skipped: str) -> artifacts.Scores:
    return artifacts.Scores(
        subjects=() if skipped else tuple(subjects.names(inputs)), skipped=skipped
    )


def _check_features(inputs: Inputs) -> None:
    """Refuses features of other images than those that are evaluated.

    Raises:
      ValueError: it names the features and the images.
    """
    counts = {}
    for option, images in (("train_features", "train_images"), ("test_features", "test_images")):
        found = inputs.artifacts.get(option, ())
        counts[option] = len(found)
        for each in found:
            if each.about.keys != data.hash_keys(inputs.images[images]):
                raise ValueError(
                    f"{inputs.origin}.{option}: {each.name!r} are not given features of "
                    f"{images}, {inputs.images[images].origin}: name a stage of the kind "
                    "given_features with that set"
                )
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"{inputs.origin}: {counts['train_features']} train_features and "
            f"{counts['test_features']} test_features: give one for each other"
        )


def _why_skipped(chosen: Protocol, seen: data.Images, tested: data.Images) -> str:
    several = "is multi-label: several classes an image are not measured here"
    for images in (seen, tested):
        if images.single_labels is None:
            none = images.labels is None
            return f"{images.origin} {'has no labels' if none else several}"
        if len(images.class_names) < 2:
            return f"{images.origin} has only one class: there is nothing to classify"
    return chosen.why_skipped(labels_of(seen))
