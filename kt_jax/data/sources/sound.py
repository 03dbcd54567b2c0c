"""Tables of Hugging Face that hold sound, whose columns look as those of images do."""

import json
import pathlib
from collections.abc import Mapping

import pyarrow as pa

from kt_jax.data.sources.names import fold_heading


def refuse_sound(schemas: Mapping[pathlib.Path, pa.Schema], image_column: str) -> None:
    """Refuses tables whose only column of files, or the one that is asked for, is one of sounds.

    Raises:
      ValueError: naming the column.
    """
    for file, schema in schemas.items():
        files = [field.name for field in schema if pa.types.is_struct(field.type)]
        sounds = [name for name in files if is_sound(schema, name)]
        if image_column in sounds or (sounds and sounds == files):
            raise ValueError(
                f"{file} holds sound (column {sounds[0]!r}): only images are read; other columns "
                f"are {', '.join(name for name in schema.names if name not in sounds) or 'none'}"
            )


def is_sound(schema: pa.Schema, column: str) -> bool:
    """Whether `datasets` says that a column is one of sounds, or else its heading does."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = (written.get("info", {}).get("features") or {}).get(column)
    if isinstance(feature, dict) and "_type" in feature:
        return feature["_type"] == "Audio"
    return fold_heading(column) == "audio"
