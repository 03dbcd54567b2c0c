"""Finds the columns of images and labels in a Hugging Face data set."""

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from kt_jax.data.sources.names import find_heading, fold_heading
from kt_jax.data.sources.source import to_give

_log = logging.getLogger(__name__)

# The usual reason for an unreadable file.
COPY = "was the data set copied to its end?"
# `Dataset.save_to_disk` writes it next to the data; it describes the columns.
INFO = "dataset_info.json"

_Schemas = Mapping[pathlib.Path, pa.Schema]
_IMAGE, _LABEL = "image", "label"
# Other names of these columns; the first that exists is used.
_OTHER_IMAGE = "img"
_OTHER_LABELS = ("labels", "fine_label", "coarse_label")


def choose_image_column(schemas: _Schemas, asked: str) -> str:
    """Returns the column of the images.

    It is the column `asked`, compared without case and outer spaces. If this is "image" and does
    not exist, it is "img", or the only image column.

    Raises:
      ValueError: a file does not have it, or it has audio or no images. The message lists the
        columns of the file.
    """
    asked = _as_written(schemas, asked)
    _refuse_sound(schemas, asked)
    if asked == _IMAGE and not any(asked in schema.names for schema in schemas.values()):
        held = [
            {f.name for f in schema if is_image_type(f.type) and not _is_sound(schema, f.name)}
            for schema in schemas.values()
        ]
        found = set.intersection(*held) if held else set()
        if _OTHER_IMAGE in found or len(found) == 1:
            asked = _OTHER_IMAGE if _OTHER_IMAGE in found else found.pop()
            _log.info("the images are those of the column %r", asked)
    for file, schema in schemas.items():
        _check_image_column(file, schema, asked)
    return asked


def choose_label_column(schemas: _Schemas, asked: str, path: pathlib.Path) -> str:
    """Returns the column of the labels.

    It is the column `asked`, compared without case and outer spaces. If this is "label" and does
    not exist, it is the first of "labels", "fine_label" and "coarse_label", or the only ClassLabel.
    A warning is logged if several columns are possible.

    Raises:
      ValueError: the column in `asked` does not have classes, integers, strings or truth values.
    """
    is_default, asked = asked == _LABEL, _as_written(schemas, asked)
    labelled = [
        (name, bool(class_names(schema, file, name)))
        for file, schema in schemas.items()
        for name in schema.names
        if is_labelled(schema, name)
    ]
    fit = [name for name, _ in labelled]
    if asked in fit:
        return asked
    if not is_default:
        held = "; ".join(sorted(set(map(_describe, schemas.values()))))
        raise ValueError(
            f"{path} has no column {asked!r} of classes, integers, strings or truth values, only "
            f"{held}"
            f"{_name_another('labels', 'label_column', fit)}"
        )
    named = [name for name in (_as_written(schemas, each) for each in _OTHER_LABELS) if name in fit]
    found = list(dict.fromkeys([*named, *(name for name, is_class in labelled if is_class)]))
    unread = {str(s.field(asked).type) for s in schemas.values() if asked in s.names}
    if unread:
        _log.warning(
            "%s: the column %r (%s) has no classes, integers, strings or truth values, and is not "
            "read: write whole numbers or names into it, or name a column that has them with %s",
            *(path.name, asked, ", ".join(sorted(unread)), to_give("label_column", "NAME")),
        )
    if not found or unread:
        return asked
    if len(found) == 1:
        _log.info("%s: the labels are those of the column %r", path.name, found[0])
        return found[0]
    taken = f"those of {found[0]!r}" if named else "none"
    _log.warning(
        "%s: the labels may be in the columns %s: %s are taken. Name another with %s",
        *(path.name, ", ".join(map(repr, found)), taken, to_give("label_column", found[1])),
    )
    return found[0] if named else asked


def class_names(schema: pa.Schema, file: pathlib.Path, column: str) -> tuple[str, ...]:
    """Returns the class names of a ClassLabel column in a data file; () for other columns."""
    features = _features_in(schema)
    if features is None and (file.parent / INFO).is_file():
        features = read_json(file.parent / INFO, "features")
    feature = (features or {}).get(column)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return ()
    return tuple(feature["names"])


def is_labelled(schema: pa.Schema, column: str) -> bool:
    """Whether a column of this name exists, with integers, strings or truth values."""
    if column not in schema.names:
        return False
    type = schema.field(column).type
    return any(
        fits(type)
        for fits in (
            pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean,
        )
    )  # fmt: skip


def is_image_type(type: pa.DataType) -> bool:
    """Whether a column of this type has images."""
    if not pa.types.is_struct(type) or type.get_field_index("bytes") < 0:
        return False
    data = type.field("bytes").type
    return pa.types.is_binary(data) or pa.types.is_large_binary(data)


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def read_json(path: pathlib.Path, key: str) -> Any:
    """Returns a value of a JSON file of `datasets`. ValueError if the file is not valid."""
    try:
        return json.loads(path.read_text("utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not as `datasets` writes it ({type(error).__name__}: {error}): {COPY}"
        ) from error


def _features_in(schema: pa.Schema) -> dict[str, Any] | None:
    """Returns the description of the columns that `datasets` wrote into a data file."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    return json.loads(written).get("info", {}).get("features")


def _refuse_sound(schemas: _Schemas, image_column: str) -> None:
    """Raises ValueError if the only column of files, or the column asked for, has audio."""
    for file, schema in schemas.items():
        files = [field.name for field in schema if pa.types.is_struct(field.type)]
        sounds = [name for name in files if _is_sound(schema, name)]
        if image_column in sounds or (sounds and sounds == files):
            raise ValueError(
                f"{file} holds sound (column {sounds[0]!r}): only images are read; other columns "
                f"are {', '.join(name for name in schema.names if name not in sounds) or 'none'}"
            )


def _is_sound(schema: pa.Schema, column: str) -> bool:
    """Whether a column has audio, by the description of `datasets` or else by its heading."""
    feature = (_features_in(schema) or {}).get(column)
    if isinstance(feature, dict) and "_type" in feature:
        return feature["_type"] == "Audio"
    return fold_heading(column) == "audio"


def _check_image_column(file: pathlib.Path, schema: pa.Schema, column: str) -> None:
    """Raises ValueError for a data file without images in this column."""
    fit = [field.name for field in schema if is_image_type(field.type)]
    remedy = _name_another("images", "image_column", fit)
    if column not in schema.names:
        raise ValueError(f"{file} has no column {column!r}, only {_describe(schema)}{remedy}")
    if column not in fit:
        raise ValueError(
            f"column {column!r} of {file} holds {schema.field(column).type}, but must hold "
            f"struct<bytes: binary, path: string>{remedy}; or cast it (cast_column(..., "
            "datasets.Image())) and save the data set again"
        )


def _as_written(schemas: _Schemas, wanted: str) -> str:
    """Returns a heading as the files write it, or `wanted` if no file has it."""
    headings = [name for schema in schemas.values() for name in schema.names]
    return wanted if wanted in headings else find_heading(headings, wanted) or wanted


def _name_another(what: str, option: str, fit: list[str]) -> str:
    """Returns the end of a message: how to name one of the columns that fit; else ""."""
    return f": name the column of the {what} with {to_give(option, fit[0])}" if fit else ""
