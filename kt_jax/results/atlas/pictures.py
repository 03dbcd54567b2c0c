"""Opens the images of a run or of another place, without writing into the run."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kt_jax import data
from kt_jax.results.atlas.members import Members, Run, find_run
from kt_jax.runs import images as sets
from kt_jax.runs.artifacts import Artifact

Given = str | Mapping[str, Any]
"""A path, the name of a set in a run's config, or options of `data.open_images` without a size."""


def open_set(run: Run, name: str) -> data.Images:
    """Opens the set of images `name` of a run's config.

    Raises:
      FileNotFoundError, ValueError: the images are missing, or none can be read.
    """
    options = dict(run.config["images"][name])
    try:
        return _open(run, options.pop("source"), options)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"the images {name!r} of {run.directory} cannot be opened: {error}. If they lie "
            "elsewhere now, give that place as PATH after the clusters"
        ) from None


def open_given(run: Run | None, images: Given, *, size: int) -> data.Images:
    """Opens a set of the run's config, or the images of another place, decoded to `size` px.

    Raises:
      FileNotFoundError, ValueError: as `data.open_images`.
    """
    if isinstance(images, Mapping):
        options = dict(images)
        return _open(run, options.pop("source"), {**options, "size": size})
    if run is not None and images in run.config.get("images", {}):
        return open_set(run, images)
    return _open(run, "auto", {"path": images, "size": size})


def _open(run: Run | None, source: str, options: dict[str, Any]) -> data.Images:
    with _known_scans(run) as scratch:
        # Every image is decoded only once: no cache.
        return data.open_images(source, cache_dir=scratch, cache="none", **options)


@contextlib.contextmanager
def _known_scans(run: Run | None) -> Iterator[Path]:
    """A temporary directory with links to the run's scans, so that images are not scanned again.

    A new scan replaces a link, never the file of the run.
    """
    with tempfile.TemporaryDirectory(prefix="kt_jax-atlas-") as scratch:
        for path in sorted((run.directory / "images").glob("*.parquet")) if run else ():
            (Path(scratch) / path.name).symlink_to(path)
        yield Path(scratch)


def check_same(run: Run, name: str, images: data.Images, owner: Artifact[Any], option: str) -> None:
    """Checks that images are the ones that an artifact was made from.

    Raises:
      ValueError: they are not. The message says what was added, changed or removed.
    """
    before = owner.manifest["fingerprint"]["images"][option]
    if before != images.fingerprint:
        how = sets.explain_change(run.directory, before, images)
        raise ValueError(
            f"the images {name!r} of {run.directory} are not those that {owner.name} was made "
            f"from: {how}. Bring them back, or give a place that has them as PATH after the "
            "clusters"
        )


def find_rows(members: Members, images: data.Images, origin: str) -> Int[np.ndarray, " n"]:
    """Finds the index of each member among the images.

    Raises:
      ValueError: some members are missing.
    """
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in members.keys if key not in place]
    if lacking:
        raise ValueError(
            f"{images.origin} lacks {len(lacking):,} of the {len(members.keys):,} images of "
            f"{origin}, such as {lacking[0]}: give the same folder, in its new place, as PATH"
        )
    return np.array([place[key] for key in members.keys])


def check_contents(owner: Artifact[Any], images: data.Images, rows: Int[np.ndarray, " n"]) -> None:
    """Checks that images with the names of an artifact's images also have the same content.

    Nothing is checked if hashes are not known: the artifact lies in no run, or its images are not
    files.

    Raises:
      ValueError: an image differs. The message names the first.
    """
    run = find_run(owner)
    fingerprint = owner.manifest["fingerprint"].get("images", {}).get("images")
    if run is None or fingerprint is None or images.hashes is None:
        return
    known = sets.recall(run.directory, fingerprint)
    for row in rows.tolist():
        key, content = images.keys[row], images.hashes.content[row]
        if known.get(key) not in (None, content):
            raise ValueError(
                f"{key} of {images.origin} has another content than the image of that name that "
                f"{owner.name} in {run.directory} was made from: both must be of the same images"
            )
