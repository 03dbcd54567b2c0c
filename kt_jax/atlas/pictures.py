"""Opens the images of a run, or of another place, without a trace in the run."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kt_jax import data
from kt_jax.atlas.members import Members, Run, find_run
from kt_jax.runs import images as sets
from kt_jax.runs.artifacts import Artifact

Given = str | Mapping[str, Any]
"""A place, the name of a set of a run's config, or what `data.open_images` takes but for a size."""


def open_set(run: Run, name: str) -> data.Images:
    """The images that a run's config calls `name`.

    Raises:
      FileNotFoundError, ValueError: they have gone, or none can be read.
    """
    options = dict(run.config["images"][name])
    try:
        return _open(run, options.pop("source"), options)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"the images {name!r} of {run.directory} cannot be opened: {error}. If they lie "
            "elsewhere now, name the place behind the clusters"
        ) from None


def open_given(run: Run | None, images: Given, *, size: int) -> data.Images:
    """A set that the run's config names, or what is in another place, decoded to `size` px.

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
        # Every image is decoded once: none is kept.
        return data.open_images(source, cache_dir=scratch, cache="none", **options)


@contextlib.contextmanager
def _known_scans(run: Run | None) -> Iterator[Path]:
    """A scratch directory with what the run knows of its images, so that they are not read twice.

    A new scan replaces a link, never the file of the run.
    """
    with tempfile.TemporaryDirectory(prefix="kt_jax-atlas-") as scratch:
        for path in sorted((run.directory / "images").glob("*.parquet")) if run else ():
            (Path(scratch) / path.name).symlink_to(path)
        yield Path(scratch)


def check_same(run: Run, name: str, images: data.Images, owner: Artifact[Any], option: str) -> None:
    """Refuses images that are not those that an artifact was made from.

    Raises:
      ValueError: with what has been added, changed or has gone.
    """
    before = owner.manifest["fingerprint"]["images"][option]
    if before != images.fingerprint:
        how = sets.explain_change(run.directory, before, images)
        raise ValueError(
            f"the images {name!r} of {run.directory} are not those that {owner.name} was made "
            f"from: {how}. Bring them back, or name a place that has them behind the clusters"
        )


def find_rows(members: Members, images: data.Images, origin: str) -> Int[np.ndarray, " n"]:
    """Where each member is among the images.

    Raises:
      ValueError: some are not there.
    """
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in members.keys if key not in place]
    if lacking:
        raise ValueError(
            f"{images.origin} lacks {len(lacking):,} of the {len(members.keys):,} images of "
            f"{origin}, such as {lacking[0]}: name the place that has them, from the same folder on"
        )
    return np.array([place[key] for key in members.keys])


def check_contents(owner: Artifact[Any], images: data.Images, rows: Int[np.ndarray, " n"]) -> None:
    """Refuses images that have the names of those of an artifact and are others.

    Nothing is compared where their hashes are not known: the artifact lies in no run, or its images
    are no files.

    Raises:
      ValueError: naming the first.
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
                f"{key} of {images.origin} is another image than the one of that name that "
                f"{owner.name} in {run.directory} was made from: both must be of the same images"
            )
