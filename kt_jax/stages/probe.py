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
Given = tuple[artifacts.Artifact[artifacts.Backbone], ...]
_SELECTION = "last step; no test image was used to choose anything"


@dataclass(frozen=True, kw_only=True)
class Options(linear.Protocol):
    """Probes of several networks, layer by layer."""

    backbones: tuple[str, ...] = options.reads(artifacts.Backbone)
    """The networks; `random:NAME` is NAME with new weights. The pixels are probed too."""
    train_images: str = options.images("train")
    test_images: str = options.images("test")
    seeds: tuple[int, ...] = (0,)
    """Everything is done once with each."""


def run(stage: Stage) -> tuple[artifacts.Scores, dict[str, Any]]:
    """Writes scores.json: rows, and leakage.

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
    for each in given:
        if not each.is_random and each.name not in learned:
            _log.warning("%s: it is not known which images %s learned from", stage.name, each.name)
    found = leakage.find_leakage(learned, train_images, test_images)
    about = _describe(given, _why_skipped(train_images, test_images))
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
        for subject in _make_subjects(given, stage.seed, seed):
            for layer, value in linear.probe(stage, subject, train_images, test_images).items():
                row = {"subject": subject.name, "layer": layer, "value": value, "seed": seed}
                rows.append(row | common)
    scores = {"rows": rows, "leakage": found, "skipped": about.skipped}
    files.write_json(stage.directory / SCORES, scores)
    if about.skipped:
        return about, {"skipped": about.skipped}
    return about, {"rows": len(train_images), "test_rows": len(test_images)}


def _make_subjects(given: Given, stage_seed: int, seed: int) -> list[linear.Subject]:
    subjects = [linear.Subject("pixels", None, ("pixels",), seed)]
    for each in given:
        backbone = backbones.open_backbone(each, seed=stage_seed + seed)
        subjects.append(linear.Subject(each.name, backbone, backbone.about.probe_layers, seed))
    return subjects


def _describe(given: Given, skipped: str) -> artifacts.Scores:
    names = ("pixels", *(each.name for each in given))
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
      ValueError: for images that are too small, or a test set of other classes.
    """
    partition.check_batch_size(f"{inputs.origin}.batch_size", chosen.batch_size)
    if not chosen.seeds:
        raise ValueError(f"{inputs.origin}.seeds is empty: give one or more")
    given = inputs.artifacts["backbones"]
    seen, held_out = (inputs.images[option] for option in ("train_images", "test_images"))
    about = _describe(given, _why_skipped(seen, held_out))
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
    layers = max(len(each.about.probe_layers) for each in given) if given else 1
    scratch = 2 * len(seen) * layers * chosen.max_dims * 2
    tested = len(held_out) * layers * chosen.max_dims * 2
    lines = (
        f"{', '.join(about.subjects)} on {len(seen)} + {len(held_out)} images, {chosen.epochs} "
        f"epochs, seeds {list(chosen.seeds)}",
        f"scratch files up to {scratch / 1e9:,.1f} GB",
    )
    return Plan(about, lines, warnings=tuple(warnings), disk=lambda: scratch + tested)
