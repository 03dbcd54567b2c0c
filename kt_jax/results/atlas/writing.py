"""Makes an atlas from finished artifacts."""

import dataclasses
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans import metrics
from kt_jax.results.atlas import gathering, page, places, sheets, summary, table
from kt_jax.results.atlas import members as groups
from kt_jax.results.atlas.gathering import Gathered
from kt_jax.results.atlas.pictures import Given
from kt_jax.runs import files, marks, progress
from kt_jax.runs.artifacts import Artifact

_log = logging.getLogger(__name__)

PAGE = "atlas.html"
MAPS = {"pca": 2, "umap": 50}  # kinds of maps, and the number of principal components they need
_SPARE = 120_000  # bytes for styles, scripts and the tags around the sheets


@dataclass(frozen=True)
class Written:
    """A finished atlas."""

    page: Path
    table: Path
    images: int
    clusters: int
    thumbnails: int
    side: int
    """The side of the thumbnails in px."""
    megabytes: float
    """The size of the page in 10^6 bytes."""
    seconds: float
    """How long it took."""


def write_atlas(
    clusters: str | Path,
    out: str | Path,
    *,
    images: Given | None = None,
    compare: str | Path | None = None,
    map: str = "pca",
    max_megabytes: float = 100.0,
) -> Written:
    """Writes one HTML page with all clusters, and a table of all images in the same directory.

    Args:
      clusters: the directory of Clusters or Labels.
      out: a directory for atlas.html and atlas.parquet; or the page itself, NAME.html, next to
        which NAME.parquet is written. An earlier atlas there is replaced.
      images: the place of the images, the name of a set in the run's config, or the source and
        options of `data.open_images`. Clusters then label all of these images again; Labels find
        their images there by name. None: the images that were clustered or labelled, from where
        the run's config says.
      compare: Clusters or Labels of the same images, to compare with.
      map: "pca" (the first two principal components of the centroids) or "umap" (UMAP of the first
        50 components; it needs the extra [umap]).
      max_megabytes: the largest size of the page in 10^6 bytes. It limits the size of thumbnails,
        and their number in large clusters.

    Raises:
      FileNotFoundError: an artifact is not finished, or files or images are missing.
      ValueError: an artifact of another type, images that are not those that were clustered, no
        images in common to compare, `out` in a run or an artifact, a file there that is not an
        atlas, a map that is unknown or cannot be made, or `max_megabytes` too small for one
        thumbnail per cluster.
    """
    begun = time.monotonic()
    artifact = groups.open_clustering(Path(clusters))
    place = _find_out(Path(out), artifact)
    _check_replaced(out, place)
    if not max_megabytes > 0:
        raise ValueError(f"--max_megabytes={max_megabytes:g}: give more than 0")
    if map not in MAPS:
        raise ValueError(f"--map={map}: choose one of {', '.join(MAPS)}")
    if map == "umap":
        places.check_umap()
    other = None if compare is None else groups.open_clustering(Path(compare))
    if other is not None:
        _find_out(Path(out), other)
    found = gathering.gather(artifact, images, count=MAPS[map])
    _log.info(
        "atlas: %s images in %s clusters; distances from %s",
        f"{len(found.members.keys):,}",
        f"{found.k:,}",
        found.members.origin,
    )
    if map == "umap":
        found = _embed(found)
    comparison = None if other is None else gathering.compare(other, found, _name(other))
    written = _write(place, _name(artifact), found, comparison, max_megabytes)
    written = dataclasses.replace(written, seconds=time.monotonic() - begun)
    _log.info(
        "atlas: %s: %s clusters, %s images, %s thumbnails of %d px, %.1f MB, in %s",
        written.page,
        f"{written.clusters:,}",
        f"{written.images:,}",
        f"{written.thumbnails:,}",
        written.side,
        written.megabytes,
        progress.format_seconds(written.seconds),
    )
    return written


def _embed(found: Gathered) -> Gathered:
    if found.places is None:
        raise ValueError("--map=umap: Labels without their Clusters have no map")
    _log.info("atlas: UMAP of %s images; numba compiles first", f"{len(found.places):,}")
    spots = places.embed(found.places)
    centres = places.find_middles(spots, found.members.cluster, found.k)
    return dataclasses.replace(found, axes=None, places=spots, centres=centres)


def _name(artifact: Artifact[Any]) -> str:
    """The name on the page: the last two parts of the path (run and stage), not the whole path."""
    return "/".join(artifact.directory.parts[-2:])


def _find_out(out: Path, artifact: Artifact[Any]) -> Path:
    """The path of the page. Raises ValueError for a place in a run or an artifact."""
    absolute = Path(os.path.abspath(out.expanduser()))
    absolute = absolute if absolute.suffix == ".html" else absolute / PAGE
    run = groups.find_run(artifact)
    read = artifact.directory if run is None else run.directory
    if absolute.resolve().is_relative_to(read.resolve()):
        raise ValueError(f"--out={out} lies in {read}, which is only read: choose another place")
    marks.refuse_inside(absolute.resolve())
    return absolute


def _check_replaced(out: str | Path, place: Path) -> None:
    """Checks that only an earlier atlas is replaced."""
    table_place = place.with_suffix(".parquet")
    for path, is_ours in ((place, page.is_ours), (table_place, table.is_ours)):
        if path.exists() and not is_ours(path):
            raise ValueError(
                f"--out={out} would replace {path}, which is not an atlas: choose another place"
            )


def _write(
    place: Path,
    title: str,
    found: Gathered,
    comparison: summary.Comparison | None,
    max_megabytes: float,
) -> Written:
    members, images = found.members, found.images
    labels = None if images.single_labels is None else images.single_labels[found.rows]
    numbers = summary.summarise(members, found.k, labels)
    facts = _describe(found, numbers, labels)
    most = int(max_megabytes * 1e6) - _SPARE

    def make_text(budget: sheets.Budget) -> str:
        return page.make_data(
            title=title,
            facts=facts,
            members=members,
            numbers=numbers,
            labels=labels,
            class_names=images.class_names,
            budget=budget,
            places=found.places,
            centres=found.centres,
            comparison=comparison,
        )

    measures = members.distance, members.margin
    none = sheets.Budget(sheets.SIDES[-1], 0, (np.zeros(0, np.int64),) * found.k)
    left = most - len(make_text(none))
    budget = sheets.make_budget(images, found.rows, numbers, *measures, max_bytes=left)
    while True:
        made = list(sheets.make_clusters(images, found.rows, numbers, budget))
        size = sum(4 * -(-len(sheet) // 3) + 60 for each in made for sheet in each.sheets)
        if size <= left or budget.most <= 1:
            break
        # The estimate from the sample was too small: try again with fewer thumbnails.
        _log.info("atlas: thumbnails take %.1f MB, %.1f are allowed", size / 1e6, left / 1e6)
        budget = sheets.with_fewer(budget, numbers, *measures, 0.95 * left / size)
    text = make_text(budget)
    kept = (
        (index, picture)
        for start, chosen, each in zip(numbers.starts, budget.chosen, made, strict=False)
        for index, picture in zip(numbers.order[start + chosen], each.pictures, strict=True)
    )
    table_place = place.with_suffix(".parquet")
    table.write(
        table_place,
        members=members,
        labels=labels,
        class_names=images.class_names,
        places=found.places,
        other=None if comparison is None else comparison.cluster,
        pictures={int(index): picture for index, picture in kept},
    )
    files.write_file(
        place,
        lambda partial: page.write(
            partial, title=title, data=text, clusters=(each.sheets for each in made)
        ),
    )
    return Written(
        page=place,
        table=table_place,
        images=len(members.keys),
        clusters=found.k,
        thumbnails=budget.count,
        side=budget.side,
        megabytes=place.stat().st_size / 1e6,
        seconds=0.0,
    )


def _describe(
    found: Gathered, numbers: summary.Summary, labels: np.ndarray | None
) -> dict[str, Any]:
    """The facts about all clusters together that the page shows."""
    facts: dict[str, Any] = {
        "images": found.images.origin,
        "layer": found.layer,
        "distances": found.members.origin,
        "shares": list(found.axes.shares) if found.axes is not None else [],
    }
    known = np.zeros(0, bool) if labels is None else labels >= 0
    if labels is not None and known.any():
        sizes = numbers.sizes
        weights = np.where(numbers.majority >= 0, sizes, 0)
        facts["purity"] = float(np.nansum(numbers.purity * weights) / weights.sum())
        facts["commonest"] = float(np.bincount(labels[known]).max() / known.sum())
        facts["ami"] = metrics.adjusted_mutual_information(
            found.members.cluster[known], labels[known]
        )
    return facts
