"""Reads the cluster of every image, for all clusterings of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kt_jax.runs import files


@dataclass(frozen=True)
class Grouping:
    """The clusters of some images."""

    images: str
    """An identifier of the set of images."""
    keys: np.ndarray
    """The key of every image, str objects [n]."""
    clusters: Int[np.ndarray, " n"]
    classes: Mapping[str, Int[np.ndarray, " n"]]
    """The classes of the images, -1 if unknown, by the name of their source."""


def read_all(
    directory: Path, config: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Grouping]:
    """Reads the clusterings of a run by name: its Labels, and its Clusters without Labels.

    Args:
      directory: the workdir of the run.
      config: its config, with the inputs of each stage.
      manifests: the manifests of its finished stages, by name.
    """
    classes = _read_classes(directory, manifests)
    found, labelled = {}, set()
    for name, manifest in manifests.items():
        if manifest["type"] == "Labels":
            table = files.read_table(directory / name / "labels.parquet")
            images = manifest["about"]["images"]
            found[name] = _make(images, table["key"], table["cluster"], classes)
            labelled.add(config[name].get("clusters"))
    for name, manifest in manifests.items():
        features = config[name].get("features")
        if manifest["type"] != "Clusters" or name in labelled or features not in manifests:
            continue
        keys = files.read_table(directory / features / "index.parquet")["key"]
        images = str(manifests[features]["fingerprint"]["images"])
        assignment = np.load(directory / name / "assignment.npy", allow_pickle=False)
        found[name] = _make(images, keys, assignment, classes)
    return found


def _read_classes(
    directory: Path, manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
    """The class of each image by its key, for each Features artifact that has classes."""
    found = {}
    for name, manifest in manifests.items():
        path = directory / name / "index.parquet"
        if manifest["type"] == "Features" and path.exists():
            table = files.read_table(path)
            if (table["label"] >= 0).any():
                found[f"classes ({name})"] = dict(
                    zip(table["key"].tolist(), table["label"].tolist(), strict=True)
                )
    return found


def _make(
    images: str, keys: np.ndarray, clusters: np.ndarray, classes: Mapping[str, Mapping[str, int]]
) -> Grouping:
    labels = {
        name: np.array([by_key.get(key, -1) for key in keys.tolist()], np.int64)
        for name, by_key in classes.items()
    }
    return Grouping(images, keys, clusters, labels)


def match(a: Grouping, b: Grouping) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The rows in `a` and in `b` of the images that both have, in the order of `a`."""
    place = {key: row for row, key in enumerate(b.keys.tolist())}
    pairs = [(row, place[key]) for row, key in enumerate(a.keys.tolist()) if key in place]
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
