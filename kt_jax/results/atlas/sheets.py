"""Thumbnails of all clusters within a budget of bytes, as one or more JPEG sheets per cluster."""

import concurrent.futures
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from kt_jax import data
from kt_jax.results.atlas.summary import Summary, choose
from kt_jax.runs import progress

# The sides of thumbnails in px, the best first. All are multiples of 16, the block size of a JPEG
# with halved colours, so that neighbours on a sheet do not affect each other.
SIDES = (96, 64, 48)
COLUMNS = 16  # thumbnails in a row of a sheet
PER_SHEET = COLUMNS * COLUMNS
_QUALITY = 80
_MEASURED = 200  # thumbnails from which the bytes of all are estimated
_BASE64 = 4 / 3


@dataclass(frozen=True, eq=False)
class Budget:
    """The size of thumbnails, and the members of each cluster that get one."""

    side: int  # px
    most: int  # at most this many per cluster
    chosen: tuple[Int64[np.ndarray, " _"], ...]
    """For each cluster, the members with a thumbnail, as offsets in its part of `Summary.order`."""

    @property
    def count(self) -> int:
        """The number of thumbnails."""
        return sum(map(len, self.chosen))


@dataclass(frozen=True, eq=False)
class Cluster:
    """The thumbnails of a cluster."""

    sheets: tuple[bytes, ...]
    """JPEGs of up to `PER_SHEET` thumbnails each, with `COLUMNS` in a row."""
    pictures: tuple[bytes, ...]
    """The same thumbnails as single JPEGs."""


def make_budget(
    images: data.Images,
    rows: Int64[np.ndarray, " n"],
    summary: Summary,
    distance: Float32[np.ndarray, " n"],
    margin: Float32[np.ndarray, " n"],
    *,
    max_bytes: int,
) -> Budget:
    """Chooses the largest size at which thumbnails of all members fit.

    If none fits, it chooses the smallest size, and as many members of large clusters as fit.

    Args:
      images: the images.
      rows: the index of each member among the images.
      summary: the clusters in numbers.
      distance: the distance of each member.
      margin: the margin of each member.
      max_bytes: the budget for all sheets, as base64.

    Raises:
      ValueError: not even one thumbnail per cluster fits.
    """
    sizes = summary.sizes
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MEASURED)).round().astype(int)]
    pixels = [images[int(row)] for row in sample]
    clusters = int((sizes > 0).sum())
    # Small sheets need more bytes per thumbnail: add 10 %, and 700 bytes per cluster.
    fixed = clusters * 700 * _BASE64

    def measure(side: int) -> float:
        return len(encode_sheet([shrink(x, side) for x in pixels])) / len(pixels) * _BASE64 * 1.1

    # Do not enlarge images. The smallest thumbnails are taken if no size shows all members.
    *larger, smallest = [side for side in SIDES if side < images.size + 16] or [SIDES[-1]]
    for side in larger:
        if _find_most(sizes, (max_bytes - fixed) / measure(side)) == sizes.max():
            return _choose(summary, distance, margin, side, int(sizes.max()))
    each = measure(smallest)
    most = _find_most(sizes, (max_bytes - fixed) / each)
    if most < 1:
        raise ValueError(
            f"--max_megabytes: {max_bytes / 1e6:.1f} MB are left for thumbnails, but one for each "
            f"of {clusters:,} clusters needs {(fixed + each * clusters) / 1e6:.1f} MB: allow more"
        )
    return _choose(summary, distance, margin, smallest, most)


def with_fewer(
    budget: Budget,
    summary: Summary,
    distance: Float32[np.ndarray, " n"],
    margin: Float32[np.ndarray, " n"],
    share: float,
) -> Budget:
    """Reduces a budget to this share of the thumbnails, but at least one per cluster."""
    most = max(1, _find_most(summary.sizes, budget.count * share))
    return _choose(summary, distance, margin, budget.side, most)


def _find_most(sizes: Int64[np.ndarray, " k"], count: float) -> int:
    """The largest m with at most `count` thumbnails in all, if each cluster gets at most m."""
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(sizes, middle).sum() <= count else (low, middle - 1)
        )
    return low


def _choose(
    summary: Summary,
    distance: Float32[np.ndarray, " n"],
    margin: Float32[np.ndarray, " n"],
    side: int,
    most: int,
) -> Budget:
    parts = np.split(summary.order, summary.starts[1:-1])
    return Budget(side, most, tuple(choose(distance[x], margin[x], most) for x in parts))


def make_clusters(
    images: data.Images, rows: Int64[np.ndarray, " n"], summary: Summary, budget: Budget
) -> Iterator[Cluster]:
    """Makes the thumbnails of each cluster, in order. Decodes each chosen image once, in threads.

    Raises:
      ValueError: an image cannot be read any more.
    """

    def picture(place: int) -> UInt8[np.ndarray, "s s 3"]:
        return shrink(images[int(rows[place])], budget.side)

    with (
        concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads,
        progress.Count("atlas", budget.count, "thumbnails made") as count,
    ):
        for number, chosen in enumerate(budget.chosen):
            members = summary.order[summary.starts[number] :][chosen]
            pixels = list(threads.map(picture, members.tolist()))
            groups = [pixels[at : at + PER_SHEET] for at in range(0, len(pixels), PER_SHEET)]
            yield Cluster(
                tuple(threads.map(encode_sheet, groups)), tuple(threads.map(encode, pixels))
            )
            count.add(len(pixels))


def shrink(pixels: UInt8[np.ndarray, "s s 3"], side: int) -> UInt8[np.ndarray, "t t 3"]:
    """Resizes a square picture."""
    how = cv2.INTER_AREA if side <= len(pixels) else cv2.INTER_CUBIC
    return cv2.resize(pixels, (side, side), interpolation=how)


def encode_sheet(pixels: list[UInt8[np.ndarray, "t t 3"]]) -> bytes:
    """Packs thumbnails into one JPEG, row by row. The rest of the last row is grey."""
    side = len(pixels[0])
    columns = min(len(pixels), COLUMNS)
    rows = -(-len(pixels) // columns)
    sheet = np.full((rows, columns, side, side, 3), 128, np.uint8)
    sheet.reshape(-1, side, side, 3)[: len(pixels)] = pixels
    return encode(sheet.swapaxes(1, 2).reshape(rows * side, columns * side, 3))


def encode(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encodes a picture as a JPEG with halved colours."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, "JPEG", quality=_QUALITY, subsampling="4:2:0", optimize=True
    )
    return buffer.getvalue()
