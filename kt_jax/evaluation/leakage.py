"""Whether a probe's test images are among the images that the run learned from.

A stage that learns writes down from what; the probe reads it and compares.
"""

import logging
from collections.abc import Collection
from typing import Any

from kt_jax import data
from kt_jax.runs import artifacts

IMAGES = "images.parquet"
EXAMPLES = 20

_log = logging.getLogger(__name__)


def write_images(stage: artifacts.Stage, images: data.Images) -> None:
    """Writes images.parquet: key, sha256 and phash of every image that a stage learned from."""
    hashes = data.hash_images(images)
    columns = {"key": images.keys, "sha256": hashes.content, "phash": hashes.perceptual}
    artifacts.write_table(stage.directory / IMAGES, columns)


def find_leakage(
    stage: artifacts.Stage,
    learners: Collection[str],
    train_images: data.Images,
    test_images: data.Images,
) -> list[dict[str, Any]]:
    """Counts the probe's test images that were learned from, and logs it.

    Args:
      stage: the probe.
      learners: the stages that wrote images.parquet; those that are not finished are left out.
      train_images: which the probe learns from itself.
      test_images: which it tests on.

    Returns:
      A dict for each training set: training, evaluation (the two sets), images (how many are
      tested on), exact and near (how many of them are there, see `data.find_leaks`),
      max_distance (of near, in bits), examples (at most 20 pairs of keys, test and training, the
      exact ones first).

    Raises:
      FileNotFoundError: a finished stage has not written down what it learned from.
    """
    learned = {}
    for name in learners:
        if (stage.workdir / name / artifacts.MANIFEST).exists():
            learned[name] = _read_images(stage, name)
    learned["probe train_images"] = train_images.keys, data.hash_images(train_images)
    tested = data.hash_images(test_images)
    found = []
    for name, (keys, hashes) in learned.items():
        leaks = data.find_leaks(tested, hashes)
        pairs = (leaks.exact + leaks.near)[:EXAMPLES]
        examples = [[test_images.keys[row], keys[other]] for row, other in pairs]
        found.append(
            {
                "training": name,
                "evaluation": "probe test_images",
                "images": len(test_images),
                "exact": len(leaks.exact),
                "near": len(leaks.near),
                "max_distance": data.NEAR,
                "examples": examples,
            }
        )
        _log.log(
            logging.WARNING if leaks.exact else logging.INFO,
            "%d of %d test images of the probe are images of %s too, %d more nearly%s",
            *(len(leaks.exact), len(test_images), name, len(leaks.near)),
            f"; the first: {examples[0][0]} is {examples[0][1]}" if leaks.exact else "",
        )
    return found


def _read_images(stage: artifacts.Stage, name: str) -> tuple[Any, data.Hashes]:
    path = stage.open(name) / IMAGES
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: stage {name!r} was done before stages wrote down which images "
            f"they learn from. Do it again with --redo={name}."
        )
    columns = artifacts.read_table(path)
    return columns["key"], data.Hashes(tuple(columns["sha256"]), columns["phash"])
