"""Leakage: test images that are among the training images of a run.

A stage that learns writes its images; an evaluation reads and compares them.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kt_jax import data
from kt_jax.evaluation.backbones import IMAGES
from kt_jax.runs import files

EXAMPLES = 20

_log = logging.getLogger(__name__)


def write_images(
    directory: Path, images: data.Images, *, and_those_in: Collection[Path] = ()
) -> None:
    """Writes images.parquet: key, sha256 and phash of every image that a network learned from.

    `and_those_in` are files of the same form, such as its teacher's, whose images are added.
    """
    hashes = data.hash_images(images)
    columns = {"key": images.keys, "sha256": hashes.content, "phash": hashes.perceptual}
    tables = [pa.table(dict(columns)), *(pq.read_table(path) for path in and_those_in)]
    each_once = pa.concat_tables(tables).group_by(list(columns), use_threads=False).aggregate([])
    files.write_table(directory / IMAGES, {name: each_once[name] for name in columns})


def find_leakage(
    learners: Mapping[str, Path], train_images: data.Images, test_images: data.Images
) -> list[dict[str, Any]]:
    """Counts and logs the test images that networks learned from.

    Args:
      learners: the images.parquet of each network, by its name.
      train_images: the training images of the evaluation itself.
      test_images: the test images of the evaluation.

    Returns:
      A dict for each training set: training, evaluation (the two sets), images (the number of test
        images), exact and near (how many of them are in the training set, see `data.find_leaks`),
        max_distance (of near, in bits), examples (at most 20 pairs of keys, test and training, the
        exact ones first).
    """
    learned = {name: _read_images(path) for name, path in learners.items()}
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
            "%d of %d test images are also training images of %s, %d more are nearly the same%s",
            *(len(leaks.exact), len(test_images), name, len(leaks.near)),
            f"; the first: {examples[0][0]} is {examples[0][1]}" if leaks.exact else "",
        )
    return found


def _read_images(path: Path) -> tuple[Any, data.Hashes]:
    columns = files.read_table(path)
    return columns["key"], data.Hashes(tuple(columns["sha256"]), columns["phash"])
