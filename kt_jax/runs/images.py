"""The image sources that a config names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kt_jax import data
from kt_jax.machine import partition
from kt_jax.runs import artifacts

_log = logging.getLogger(__name__)


class Sources(Mapping[str, data.Images]):
    """The config's image sources, opened when first asked for."""

    def __init__(self, config: Any, cache_dir: Path | None) -> None:
        self._config, self._cache_dir = config, cache_dir
        self._opened: dict[str, data.Images] = {}

    def __getitem__(self, name: str) -> data.Images:
        if name not in self._opened:
            options = artifacts.plain(self._config.images[name])
            source = options.pop("source")
            if not artifacts.writes():
                # The first process scans; this one finds what that has written.
                partition.wait_for_all(f"images.{name}")
            self._opened[name] = data.open_images(
                source,
                cache_dir=self._cache_dir,
                cache=self._config.loader.cache,
                workers=self._config.loader.workers,
                **options,
            )
            if artifacts.writes():
                partition.wait_for_all(f"images.{name}")
        return self._opened[name]

    def __iter__(self) -> Any:
        return iter(self._config.images)

    def __len__(self) -> int:
        return len(self._config.images)


def report_exclusions(workdir: Path, name: str, images: data.Images) -> None:
    """Lists all excluded files in a file; opening the images has said for which reasons."""
    _log.info("images.%s: %s, %d images", name, images.origin, len(images))
    if not images.excluded:
        return
    path = workdir / "images" / f"{name}.excluded.json"
    artifacts.write_json(path, [[excluded.key, excluded.reason] for excluded in images.excluded])
    _log.warning("images.%s: %d files excluded, listed in %s", name, len(images.excluded), path)
