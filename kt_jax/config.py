"""Loads a config file in a notebook or for the command line."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

_SHIPPED = Path(__file__).parent / "configs"


def load_config(path: str, **overrides: Any) -> ConfigDict:
    """Loads the config of "FILE.py" or "FILE.py:ARG", with overrides. Every default is filled in.

    The configs that ship with kt_jax are found by name: load_config("quickstart.py"). Overrides are
    nested dicts: load_config("configs/quickstart.py", clusters={"k": 8}). An override that names
    another backbone or pretext task drops the options of the old one. An override that names
    another source of images drops the options that the new source does not have.

    Returns:
      A locked ConfigDict: keys cannot be added.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the config has no such key (the message suggests the nearest one), a value has the
        wrong type, or the stages do not form a valid graph.
    """
    return _make_config(_read(path), overrides)


def load_with_flags(path: str, texts: Mapping[str, str]) -> ConfigDict:
    """Like `load_config`, with overrides from the command line: {"clusters.k": "8"}."""
    from kt_jax import data

    values = _read(path)
    overrides: dict[str, Any] = {}
    for dotted, text in texts.items():
        *sections, key = dotted.split(".")
        node: Any = _filled(values)
        for part in (*sections, key):
            node = node.get(part) if isinstance(node, Mapping) else None
        place = overrides
        for part in sections:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"--config.{dotted}: {part} is given a value, and options too")
        # These stay text: a column may be named "7".
        is_text = sections[:1] == ["images"] and key in data.option_names()
        place[key] = text if is_text else _parse(text, node)
    return _make_config(values, overrides)


def _read(path: str) -> dict[str, Any]:
    """Runs a config file and returns its config as plain dicts and lists."""
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        shipped = _SHIPPED / file
        if "/" in file or not shipped.is_file():
            names = ", ".join(sorted(each.name for each in _SHIPPED.glob("*.py")))
            raise FileNotFoundError(f"no config file {file!r}; those that ship: {names}")
        file = str(shipped)
    module = import_file(file)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config file {file!r} has no function get_config(arg), which makes one")
    config = module.get_config(arg) if arg else module.get_config()
    try:
        text = config.to_json() if isinstance(config, ConfigDict) else json.dumps(config)
        return json.loads(text)
    except TypeError as error:
        raise ValueError(
            f"config file {file!r}: a config may only contain numbers, texts, lists and dicts "
            f"({error})"
        ) from None


def import_file(path: str) -> ModuleType:
    """Imports a Python file by its path and returns the module.

    Raises:
      FileNotFoundError: the file does not exist, or is not a Python file.
    """
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise FileNotFoundError(f"{path!r} is not a Python file (FILE.py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    # Imported here because stages import JAX: a missing config file is reported without delay.
    from kt_jax.runs import graph

    return graph.fill(values)


def _make_config(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> ConfigDict:
    from kt_jax.runs import graph

    # Another kind has other options: pass on only those that the file sets, not the defaults.
    kinds = {
        name: {**values[name], "kind": section["kind"]}
        for name, section in overrides.items()
        if isinstance(section, Mapping)
        and "kind" in section
        and isinstance(values.get(name), Mapping)
        and "kind" in values[name]
    }
    filled = _filled({**values, **kinds})
    _override(filled, overrides, ())
    graph.make_graph(filled)
    config = ConfigDict(_filled(filled))
    config.lock()
    return config


def _override(values: dict[str, Any], overrides: Mapping[str, Any], path: tuple[str, ...]) -> None:
    from kt_jax.runs import graph, options

    is_free = graph.takes_any_option(path)
    if is_free and path[0] == "images":
        _forget_source(values, overrides)
    elif is_free and "name" in overrides and overrides["name"] != values.get("name"):
        values.clear()  # these options belong to the old architecture
    if len(path) == 1:
        values.update(graph.forget(values, overrides))
    for key, value in overrides.items():
        dotted = ".".join((*path, key))
        if key not in values and not is_free:
            known = [".".join((*path, each)) for each in values]
            near = difflib.get_close_matches(dotted, known, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(known)}."
            raise ValueError(f"the config has no key {dotted!r}. {hint}")
        if isinstance(values.get(key), Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"config.{dotted} = {value!r}: give its keys")
            values[key] = dict(values[key])
            _override(values[key], value, (*path, key))
        elif is_free and isinstance(values.get(key), bool | int | float | str):
            values[key] = options.convert(type(values[key]), value, f"config.{dotted}")
        elif is_free and isinstance(values.get(key), list) and not isinstance(value, list | tuple):
            raise ValueError(f"config.{dotted} = {value!r}: give several, as {values[key]} is")
        else:
            values[key] = value


def _forget_source(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Removes the options of a set of images that its new source does not have."""
    from kt_jax import data

    source = str(overrides.get("source", values["source"]))
    known = data.options_of(source)
    if source != values["source"] and known:  # opening an unknown source raises later
        for key in values.keys() - known - {"source", "size"}:
            del values[key]


def _parse(text: str, now: Any) -> Any:
    """Parses a value from the command line; `now` is the current value in the config."""
    if isinstance(now, str):
        return text
    if isinstance(now, bool) and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
