"""The sets of images of a config, and how they have changed."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.machine import partition, processes
from kt_jax.runs import files

_log = logging.getLogger(__name__)
_NAMED = 10  # at most this many images are named for each kind of change


class Sources(Mapping[str, data.Images]):
    """The sets of images of a config by name. A set is opened on first use."""

    def __init__(self, config: Mapping[str, Any], cache_dir: Path | None) -> None:
        self._config, self._cache_dir = config, cache_dir
        self._opened: dict[str, data.Images] = {}

    def __getitem__(self, name: str) -> data.Images:
        if name not in self._opened:
            options = dict(self._config["images"][name])
            source, loader = options.pop("source"), self._config["loader"]
            if not processes.writes():
                # Process 0 scans the images; this process waits, and reads the scan.
                partition.wait_for_all(f"images.{name}")
            # A dry run has no directory for a cache.
            kept = loader["cache"] if self._cache_dir is not None else "auto"
            self._opened[name] = data.open_images(
                source,
                cache_dir=self._cache_dir,
                cache=kept,
                workers=loader["workers"],
                **options,
            )
            if processes.writes():
                partition.wait_for_all(f"images.{name}")
        return self._opened[name]

    def __iter__(self) -> Any:
        return iter(self._config["images"])

    def __len__(self) -> int:
        return len(self._config["images"])


def remember(workdir: Path, images: data.Images) -> None:
    """Records the images that a stage reads in WORKDIR/images, so that changes can be explained."""
    path = _remembered(workdir, images.fingerprint)
    if path.exists():
        return
    columns: dict[str, Any] = {"key": list(images.keys)}
    if images.hashes is not None:
        columns["sha256"] = list(images.hashes.content)
    files.write_table(path, columns)


def explain_change(workdir: Path, before: str, images: data.Images) -> str:
    """Describes in a few words how a set of images differs from that of fingerprint `before`."""
    then = recall(workdir, before)
    if not then:
        return f"other images ({before[:12]} -> {images.fingerprint[:12]})"
    keys = list(then)
    hashes = () if images.hashes is None or None in then.values() else images.hashes.content
    now = dict(itertools.zip_longest(images.keys, hashes))
    then = then if hashes else dict.fromkeys(keys)
    changes = {
        "added": [key for key in now if key not in then],
        "gone": [key for key in then if key not in now],
        "changed": [key for key in now if key in then and now[key] != then[key]],
    }
    parts = [
        f"{len(names):,} {what}: {', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)}"
        for what, names in changes.items()
        if names
    ]
    same = "the same files, but other labels, another size, order or way of decoding"
    return f"{len(keys):,} -> {len(images):,} images; {'; '.join(parts) or same}"


def recall(workdir: Path, fingerprint: str) -> dict[str, str | None]:
    """The images that `remember` recorded: the SHA-256 of each by key, None for images without one.

    Empty if the fingerprint is not known.
    """
    path = _remembered(workdir, fingerprint)
    table = files.read_table(path) if path.exists() else {"key": np.array([])}
    keys = table["key"].tolist()
    return dict(itertools.zip_longest(keys, table["sha256"].tolist() if "sha256" in table else ()))


def _remembered(workdir: Path, fingerprint: str) -> Path:
    return workdir / "images" / f"{fingerprint[:32]}.parquet"


def report_exclusions(workdir: Path, name: str, images: data.Images) -> None:
    """Writes the excluded files, with reasons, to WORKDIR/images/NAME.excluded.json."""
    _log.info("images.%s: %s, %d images", name, images.origin, len(images))
    if not images.excluded:
        return
    path = workdir / "images" / f"{name}.excluded.json"
    files.write_json(path, [[excluded.key, excluded.reason] for excluded in images.excluded])
    _log.warning("images.%s: %d files excluded, listed in %s", name, len(images.excluded), path)
