"""Linear probes say how good the features of networks are, compared with the pixels themselves."""

import logging
from dataclasses import dataclass
from typing import Any

from kt_jax import data
from kt_jax.evaluation import backbones, leakage, linear
from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Scores
SCORES = "scores.json"
_log = logging.getLogger(__name__)
_SELECTION = "last step; no test image was used to choose anything"


@dataclass(frozen=True, kw_only=True)
class Options(linear.Protocol):
    """Probes of several networks, layer by layer."""

    backbones: tuple[str, ...] = options.reads(artifacts.Backbone)
    """The networks; `random:NAME` is NAME with new weights. The pixels are probed too."""
    train_images: str = options.images("train")
    test_images: str = options.images("test")
    train_features: tuple[str, ...] = options.reads(artifacts.Features, default=())
    """Given features of the training images, which are probed too."""
    test_features: tuple[str, ...] = options.reads(artifacts.Features, default=())
    """Those of the test images: one for each of `train_features`, by whose name it is called."""
    seeds: tuple[int, ...] = (0,)
    """Everything is done once with each."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json: rows, leakage, and `unknown`: whose training images are not known.

    A row says subject, layer, protocol, metric, value (a share from 0 to 1), n (test images), seed,
    split and selection. Without a label for every image there is nothing to probe: there are no
    rows, and `skipped` says why.
    """
    chosen, given = stage.options, stage.inputs.artifacts["backbones"]
    train_images, test_images = (
        stage.inputs.images[option] for option in ("train_images", "test_images")
    )
    learned = {
        each.name: each / backbones.IMAGES
        for each in given
        if not each.is_random and (each / backbones.IMAGES).exists()
    }
    unknown = [each.name for each in given if not each.is_random and each.name not in learned]
    unknown += [f"the network of {pair[0].name}" for pair in _pairs(stage.inputs)]
    for name in unknown:
        _log.warning("%s: it is not known which images %s learned from", stage.name, name)
    found = leakage.find_leakage(learned, train_images, test_images)
    about = _describe(stage.inputs, _why_skipped(train_images, test_images))
    rows: list[dict[str, Any]] = []
    common = {
        "protocol": str(chosen),
        "metric": "accuracy",
        "n": len(test_images),
        "split": f"train: {train_images.origin} ({len(train_images)} images); "
        f"test: {test_images.origin} ({len(test_images)} images)",
        "selection": _SELECTION,
    }
    for seed in () if about.skipped else chosen.seeds:
        for subject in _make_subjects(stage.inputs, stage.seed, seed):
            for layer, value in linear.probe(stage, subject, train_images, test_images).items():
                row = {"subject": subject.name, "layer": layer, "value": value, "seed": seed}
                if subject.given is not None:
                    row["protocol"] = linear.GIVEN.format(chosen.epochs)
                rows.append(common | row)
    scores = {"rows": rows, "leakage": found, "unknown": unknown, "skipped": about.skipped}
    files.write_json(stage.directory / SCORES, scores)
    if about.skipped:
        return about, {"skipped": about.skipped}
    return about, {"rows": len(train_images), "test_rows": len(test_images)}


def _make_subjects(inputs: Inputs, stage_seed: int, seed: int) -> list[linear.Subject]:
    subjects = [linear.Subject("pixels", None, ("pixels",), seed)]
    for pair in _pairs(inputs):
        layers = (pair[0].about.layer,)
        subjects.append(linear.Subject(pair[0].name, None, layers, seed, given=pair))
    for each in inputs.artifacts["backbones"]:
        backbone = backbones.open_backbone(each, seed=stage_seed + seed)
        subjects.append(linear.Subject(each.name, backbone, backbone.about.probe_layers, seed))
    return subjects


def _pairs(inputs: Inputs) -> list[tuple[linear.Features, linear.Features]]:
    """Given features of the training and of the test images."""
    both = (inputs.artifacts.get(option, ()) for option in ("train_features", "test_features"))
    return list(zip(*both, strict=True))


def _check_features(inputs: Inputs) -> None:
    """Refuses features of other images than those that are probed.

    Raises:
      ValueError: saying which.
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


def _describe(inputs: Inputs, skipped: str) -> artifacts.Scores:
    features = (pair[0].name for pair in _pairs(inputs))
    names = ("pixels", *features, *(each.name for each in inputs.artifacts["backbones"]))
    return artifacts.Scores(subjects=() if skipped else names, skipped=skipped)


def _why_skipped(*sets: data.Images) -> str:
    several = "is multi-label: probes of several classes an image are not measured here"
    for images in sets:
        if images.single_labels is None:
            none = images.labels is None
            return f"{images.origin} {'has no labels' if none else several}"
        if len(images.class_names) < 2:
            return f"{images.origin} has one class alone: there is nothing to tell apart"
    return ""


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for images that are too small, a test set of other classes, or features of other
        images.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    if not chosen.seeds:
        raise ValueError(f"{inputs.origin}.seeds is empty: give one or more")
    given = inputs.artifacts["backbones"]
    seen, held_out = (inputs.images[option] for option in ("train_images", "test_images"))
    _check_features(inputs)
    about = _describe(inputs, _why_skipped(seen, held_out))
    if about.skipped:
        return Plan(about, (f"skipped: {about.skipped}",))
    if seen.class_names != held_out.class_names:
        raise ValueError(
            f"{inputs.origin}.train_images ({seen.origin}) has the classes "
            f"{seen.class_names[:5]}..., test_images ({held_out.origin}) has "
            f"{held_out.class_names[:5]}...: they must agree."
        )
    for option, images in inputs.images.items():
        data.check_size(images, f"{inputs.origin}.{option}", chosen.size)
    warnings = []
    for each in given:
        shapes = backbones.layer_shapes(each.about, chosen.size)
        widest = max(shapes[layer][-1] for layer in each.about.probe_layers)
        if widest > chosen.max_dims:
            warnings.append(
                f"{inputs.origin}.max_dims = {chosen.max_dims}, but a layer of {each.name!r} has "
                f"{widest} channels: it is pooled to one number a channel"
            )
    layers = max((len(each.about.probe_layers) for each in given), default=1)
    scratch = 2 * len(seen) * layers * chosen.max_dims * 2
    tested = len(held_out) * layers * chosen.max_dims * 2
    lines = (
        f"{', '.join(about.subjects)} on {len(seen)} + {len(held_out)} images, {chosen.epochs} "
        f"epochs, seeds {list(chosen.seeds)}",
        f"scratch files up to {scratch / 1e9:,.1f} GB",
    )
    return Plan(about, lines, warnings=tuple(warnings), disk=lambda: scratch + tested)
