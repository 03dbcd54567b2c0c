"""Writes atlas.parquet: one row per image, for programs such as Apple's Embedding Atlas."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kt_jax.results.atlas.members import Members
from kt_jax.runs import files

_MARK = {b"kt_jax": b"atlas"}  # metadata of the schema: only tables with it are replaced


def write(
    path: Path,
    *,
    members: Members,
    labels: np.ndarray | None,
    class_names: tuple[str, ...],
    places: np.ndarray | None,
    other: np.ndarray | None,
    pictures: Mapping[int, bytes],
) -> None:
    """Writes the columns key, cluster, distance, margin, second_cluster, and image.

    If known, it also writes class, x and y (the place on the map), and other (the cluster in the
    other clustering). image has the format of Hugging Face and Embedding Atlas: the bytes of a JPEG
    (the thumbnail) and its path; null for images without a thumbnail.
    """
    columns: dict[str, object] = {
        "key": list(members.keys),
        "cluster": members.cluster,
        "distance": members.distance,
        "margin": members.margin,
        "second_cluster": members.second_cluster,
    }
    if labels is not None:
        columns["class"] = [class_names[x] if x >= 0 else None for x in labels.tolist()]
    if places is not None:
        columns |= {"x": places[:, 0], "y": places[:, 1]}
    if other is not None:
        columns["other"] = pa.array(other, mask=other < 0)
    columns["image"] = pa.array(
        [
            {"bytes": pictures[index], "path": f"{key}.jpg"} if index in pictures else None
            for index, key in enumerate(members.keys)
        ],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    made = pa.table(columns).replace_schema_metadata(_MARK)
    files.write_file(path, lambda partial: pq.write_table(made, partial))


def is_ours(path: Path) -> bool:
    """Whether `write` wrote this file."""
    try:
        return (pq.read_schema(path).metadata or {}).items() >= _MARK.items()
    except (OSError, pa.ArrowException):
        return False
