"""Stage 2: the teacher's features of whole images, [n, d] float16 in shards."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.runs import artifacts

READS = ("pretext",)


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes features-IIIII-of-NNNNN.npy, rows in the order of the images, and index.parquet.

    Shards that an interrupted run finished are kept.
    """
    section = stage.section
    backbone = backbones.load_backbone(stage.open("pretext"))
    images = stage.images[section.images]
    starts = range(0, len(images), section.rows_per_shard)
    for number, begin in enumerate(starts):
        path = stage.directory / f"features-{number:05d}-of-{len(starts):05d}.npy"
        if path.exists():
            continue
        shard = range(begin, min(begin + section.rows_per_shard, len(images)))
        parts = [
            rows[section.layer]
            for _, rows in backbones.extract(
                backbone,
                _Rows(images, shard),
                {section.layer: section.grid},
                size=section.size,
                batch_size=section.batch_size,
                mesh=stage.mesh,
                reading=stage.reading,
                notice=stage.notice,
            )
        ]
        artifacts.write_array(path, np.concatenate(parts))
    artifacts.write_table(stage.directory / "index.parquet", index_columns(images))
    return {
        "rows": len(images),
        "dims": feature_dims(section, backbone.options),
        "layer": section.layer,
        "grid": section.grid,
        "size": section.size,
    }


def index_columns(images: Any) -> dict[str, Any]:
    """index, key and label (-1 where there is none, or there may be several) of every image."""
    labels = images.single_labels
    if labels is None:
        labels = np.full(len(images), -1, np.int32)
    return {
        "index": np.arange(len(images), dtype=np.int64),
        "key": list(images.keys),
        "label": labels,
    }


def feature_dims(section: Any, backbone_options: Any) -> int:
    """d: channels times the pooled positions."""
    height, width, channels = backbones.layer_shapes(backbone_options, section.size)[section.layer]
    return min(height, section.grid) * min(width, section.grid) * channels


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for a layer that the teacher has not, or images that are too small.
    """
    section = config.features
    partition.check_batch_size("config.features.batch_size", section.batch_size)
    data.check_size(images[section.images], "config.features.images", section.size)
    backbone = artifacts.plain(config.pretext.backbone)
    backbones.check_layers("config.features.layer", [section.layer], backbone, section.size)
    rows, dims = len(images[section.images]), feature_dims(section, backbone)
    return [
        f"layer {section.layer} pooled to {section.grid} x {section.grid}: "
        f"{rows} x {dims} float16 = {rows * dims * 2 / 1e6:,.1f} MB on disk",
    ]


class _Rows:
    """Consecutive images, as images."""

    def __init__(self, images: Any, rows: range) -> None:
        self._images, self._rows = images, rows
        self.size = images.size
        self.labels = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[self._rows[index]]
