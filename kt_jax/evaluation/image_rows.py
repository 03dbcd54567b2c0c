"""From images to rows of Features: views, layers, pooling and scales.

The stage that writes Features and everything that makes rows of other images (labels, atlases,
embeddings) use these functions, so that rows agree to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float16, Int

from kt_jax import data
from kt_jax.evaluation import backbones, extraction
from kt_jax.models import views
from kt_jax.runs import artifacts
from kt_jax.runs.stage import Notice

_ROWS = 8_192  # rows of a shard at a time


def split_layers(layer: str) -> tuple[str, ...]:
    """The activations that are joined in a row, in their order.

    >>> split_layers("conv2_2+conv3_2")
    ('conv2_2', 'conv3_2')
    """
    return tuple(layer.split("+"))


def extract(
    backbone: backbones.FrozenBackbone,
    images: data.Images,
    about: artifacts.Features,
    *,
    batch_size: int,
    mesh: Mesh,
    reading: data.Reading,
    notice: Notice,
) -> Iterator[tuple[Int[np.ndarray, " rows"], Float16[np.ndarray, "rows d"]]]:
    """Yields (indices, rows) batch by batch, in the order of the images.

    `about` describes the rows: for each layer the pooled mean over the views. Layers are
    concatenated, and divided by `about.scales` if there are any.

    Raises:
      ValueError: a value exceeds the range of float16.
      SystemExit: `notice`, asked before every batch, says to stop.
    """
    layers = split_layers(about.layer)
    for index, parts in extraction.extract(
        backbone,
        images,
        dict.fromkeys(layers, about.grid),
        size=about.size,
        batch_size=batch_size,
        mesh=mesh,
        reading=reading,
        notice=notice,
        shown=views.fixed_views(about.views),
    ):
        rows = [parts[layer] for layer in layers]
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
        yield index, divide(joined, [part.shape[1] for part in rows], about.scales)


def divide(
    rows: Float16[np.ndarray, "n d"], widths: Sequence[int], scales: Sequence[float]
) -> Float16[np.ndarray, "n d"]:
    """The rows, with each part of these widths divided by its scale; unchanged without scales.

    Raises:
      ValueError: a value exceeds the range of float16.
    """
    if not scales:
        return rows
    divisor = np.repeat(np.array(scales, np.float32), widths)
    with np.errstate(over="ignore"):  # refused below
        divided = (rows.astype(np.float32) / divisor[None]).astype(np.float16)
    if not np.isfinite(divided).all():
        raise ValueError(
            "a feature divided by the scale of its layer exceeds the range of float16 (65504): "
            "join other layers"
        )
    return divided


def find_scales(
    shards: Iterable[Path], layers: Sequence[str], widths: Sequence[int]
) -> tuple[float, ...]:
    """The scales of the parts of joined rows, which give all layers the same weight.

    A scale is the root mean square of the part's length over all rows, divided by the square root
    of d / p (p parts, d numbers in all). After division every part has a mean squared length of d /
    p.

    Args:
      shards: .npy files of the rows [n, d], before division.
      layers: the names of the parts.
      widths: the number of dimensions of each part.

    Raises:
      ValueError: a layer is 0 on all images.
    """
    total, count = np.zeros(len(widths)), 0
    starts = np.cumsum([0, *widths[:-1]])
    for path in shards:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        for begin in range(0, len(rows), _ROWS):
            squares = np.square(rows[begin : begin + _ROWS], dtype=np.float64).sum(0)
            total += np.add.reduceat(squares, starts)
        count += len(rows)
    for layer, square in zip(layers, total, strict=True):
        if square == 0:
            raise ValueError(f"layer {layer!r} is 0 on all images: join other layers")
    return tuple(np.sqrt(total / count / (sum(widths) / len(widths))).tolist())
