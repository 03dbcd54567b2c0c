"""Whether a probe's test images are among the images that the run learned from.

A stage that learns writes down from what; the probe reads it and compares.
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

    And of the images that others wrote down, such as its teacher's.
    """
    hashes = data.hash_images(images)
    columns = {"key": images.keys, "sha256": hashes.content, "phash": hashes.perceptual}
    tables = [pa.table(dict(columns)), *(pq.read_table(path) for path in and_those_in)]
    each_once = pa.concat_tables(tables).group_by(list(columns), use_threads=False).aggregate([])
    files.write_table(directory / IMAGES, {name: each_once[name] for name in columns})


def find_leakage(
    learners: Mapping[str, Path], train_images: data.Images, test_images: data.Images
) -> list[dict[str, Any]]:
    """Counts the test images that were learned from, and logs it.

    Args:
      learners: the images.parquet of each network, by its name.
      train_images: which the evaluation learns from itself.
      test_images: which it tests on.

    Returns:
      A dict for each training set: training, evaluation (the two sets), images (how many are
      tested on), exact and near (how many of them are there, see `data.find_leaks`),
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
            "%d of %d test images are among the images of %s, %d nearly the same%s",
            *(len(leaks.exact), len(test_images), name, len(leaks.near)),
            f"; the first: {examples[0][0]} is {examples[0][1]}" if leaks.exact else "",
        )
    return found


def _read_images(path: Path) -> tuple[Any, data.Hashes]:
    columns = files.read_table(path)
    return columns["key"], data.Hashes(tuple(columns["sha256"]), columns["phash"])
