"""Options of a stage: a frozen dataclass with types and defaults, made from a section of a config.

Each field is an option. `reads`, `images`, `file` and `incidental` make fields with a special role.
"""

import dataclasses
import difflib
import functools
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from kt_jax.runs import files
from kt_jax.runs.artifacts import Description

T = TypeVar("T")
_MISSING: Any = dataclasses.MISSING


def reads(*wanted: type[Description], default: Any = _MISSING, needs_all: bool = True) -> Any:
    """A field that names an input (a finished artifact), or a tuple of inputs.

    Args:
      wanted: the types of artifacts that are allowed; none given: all types.
      default: "" makes the input optional.
      needs_all: if False, the stage uses only the inputs that are finished when it begins.
    """
    metadata = {"reads": wanted, "needs_all": needs_all}
    return dataclasses.field(default=default, metadata=metadata)


def images(default: Any = _MISSING) -> Any:
    """A field that names a set of images of `config.images`; "" means none."""
    return dataclasses.field(default=default, metadata={"images": True})


def file(default: str = "") -> Any:
    """A field that names a file. Its content determines results, not its path. "" means no file."""
    return dataclasses.field(default=default, metadata={"file": True})


def incidental(default: Any) -> Any:
    """A field that changes no result: a run may resume with another value."""
    return dataclasses.field(default=default, metadata={"incidental": True})


def make(cls: type[T], section: Mapping[str, Any], origin: str) -> T:
    """Makes a dataclass of options from a section of a config.

    Args:
      cls: the dataclass.
      section: plain values by name, from a config or JSON.
      origin: the place of the section for error messages, such as "config.clusters".

    Raises:
      ValueError: an unknown option (the message suggests the nearest ones), a missing option, a
        value of the wrong type, or a value that the dataclass refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for name in section:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(fields)}."
            raise ValueError(f"{origin} has no option {name!r}. {hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if section.get(name) is not None:
            value = section[name]
            if dataclasses.is_dataclass(field.default) and isinstance(value, Mapping):
                value = {**to_section(field.default), **value}  # this field's own defaults
            values[name] = convert(hints[name], value, f"{origin}.{name}")
        elif field.default is _MISSING and field.default_factory is _MISSING:
            raise ValueError(f"{origin}.{name} is missing: {describe_type(hints[name])} is needed")
    try:
        return cls(**values)
    except ValueError as error:
        named = str(error).split(" ")[0] in fields
        raise ValueError(f"{origin}{'.' if named else ': '}{error}") from None


def convert(wanted: Any, value: Any, origin: str) -> Any:
    """Converts a value to a type: lists to tuples, ints to floats, sections to dataclasses.

    Args:
      wanted: the type.
      value: the value, as it is in a config.
      origin: the place of the value for error messages.

    Raises:
      ValueError: the value has another type.
    """
    if dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        return make(typing.cast(Any, wanted), value, origin)
    outer, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if outer in (types.UnionType, typing.Union):
        kinds = [each for each in inner if each is not types.NoneType]
        if len(kinds) == 1:
            return None if value is None else convert(kinds[0], value, origin)
        for each in kinds:
            try:
                return convert(each, value, origin)
            except ValueError:
                continue
    elif outer is tuple and isinstance(value, list | tuple):
        each = [inner[0]] * len(value) if inner[-1] is ... else inner
        if len(each) == len(value):
            return tuple(convert(*pair, origin) for pair in zip(each, value, strict=True))
    elif outer is dict and isinstance(value, Mapping):
        return {name: _tupled(x) for name, x in value.items()}
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(wanted, type) and type(value) is wanted:
        return value
    raise ValueError(f"{origin} = {value!r}: give {describe_type(wanted)}")


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def describe_type(wanted: Any) -> str:
    """Describes a type in words.

    >>> describe_type(tuple[int, ...])
    'several of a whole number'
    """
    outer, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if outer in (types.UnionType, typing.Union):
        return " or ".join(map(describe_type, inner))
    if outer is tuple:
        return f"several of {describe_type(inner[0])}"
    if outer is dict or dataclasses.is_dataclass(wanted):
        return "options by name"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    return {**words, types.NoneType: "nothing"}[wanted]


def fill(cls: Any, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with every default filled in; None for a required option that is missing."""
    filled = dict(section)
    for field in dataclasses.fields(cls):
        value, default = section.get(field.name), field.default
        if dataclasses.is_dataclass(default):
            nested = to_section(default)
            if value is None or isinstance(value, Mapping):
                filled[field.name] = {**nested, **(value or {})}
        elif value is None:
            filled[field.name] = None if default is _MISSING else default
    return filled


def to_section(options: Any) -> dict[str, Any]:
    """All options as nested dicts, as in a config without defaults."""
    return {
        field.name: to_section(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(options)
        for value in [getattr(options, field.name)]
    }


def deciding(options: Any, default: Any = None) -> dict[str, Any]:
    """The options that change results and differ from their defaults, as nested dicts.

    Defaults are left out, so that adding an option later (with a default) does not invalidate
    finished stages. Inputs and images are left out: their content counts, not their names.
    `default` is an instance that has the defaults, if they are not those of the fields.
    """
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        usual = field.default if default is None else getattr(default, field.name)
        if value == usual or field.metadata.keys() - {"file"}:
            continue
        if "file" in field.metadata:
            path = pathlib.Path(value)
            value = {"sha256": _hash(path)} if path.is_file() else {"file": value}
        found[field.name] = deciding(value, usual) if dataclasses.is_dataclass(value) else value
    return found


def _hash(path: pathlib.Path) -> str:
    stat = path.stat()
    return _hash_once(path.resolve(), stat.st_size, stat.st_mtime_ns)


# A run asks for the same file at every check; it may have gigabytes.
@functools.lru_cache
def _hash_once(path: pathlib.Path, size: int, modified: int) -> str:
    del size, modified
    return files.hash_file(path)


def defaults(cls: Any) -> dict[str, Any]:
    """The defaults of the options that change results, as nested dicts."""
    found = {}
    for field in dataclasses.fields(cls):
        if not field.metadata and field.default is not _MISSING:
            nested = dataclasses.is_dataclass(field.default)
            found[field.name] = to_section(field.default) if nested else field.default
    return found


def needs_all(cls: Any, option: str) -> bool:
    """Whether all inputs that an option names must be finished before the stage begins."""
    return {field.name: field for field in dataclasses.fields(cls)}[option].metadata["needs_all"]


def is_optional(cls: Any, option: str) -> bool:
    """Whether an input may be left out: its default is ""."""
    return {field.name: field for field in dataclasses.fields(cls)}[option].default == ""


def fields_of(cls: Any, what: str) -> dict[str, Any]:
    """The fields with a role, "reads" (inputs) or "images", by name, with the role's value."""
    return {
        field.name: field.metadata[what]
        for field in dataclasses.fields(cls)
        if what in field.metadata
    }
