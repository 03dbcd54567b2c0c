"""Loads a config file in a notebook or for the command line."""

import difflib
import functools
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def load_config(path: str, **overrides: Any) -> ConfigDict:
    """The config of "FILE.py" or "FILE.py:ARG", with overrides, locked.

    Overrides are nested: load_config("configs/quickstart.py", clusters={"k": 8}).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a key that the config has not, naming the nearest one.
      TypeError: for a value of another type than the config's.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no config file {file!r}: see configs/ for those that ship.")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(
            f"config file {file!r} is not a Python file (FILE.py or FILE.py:ARG)."
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg) if arg else module.get_config()
    config.lock()
    _override(config, overrides, "")
    return config


def check_key(config: ConfigDict, dotted: str, options: Collection[str] = ()) -> bool:
    """Makes sure that the config has, or may get, the key "section.key"; returns whether it has it.

    Args:
      config: a config.
      dotted: the key.
      options: what a set of images may have besides, as config.images.SET.OPTION.

    Raises:
      ValueError: naming the nearest keys that it has.
    """
    node: Any = config
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        keys = list(node) if isinstance(node, ConfigDict) else []
        if part not in keys:
            if _is_of_images(parts, depth):
                if part in options:
                    return False
                keys += sorted(options)
            known = [".".join([*parts[:depth], key]) for key in keys]
            near = difflib.get_close_matches(".".join(parts[: depth + 1]), known, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(known)}."
            raise ValueError(f"the config has no key {dotted!r}. {hint}")
        node = node[part]
    return True


def add_option(config: ConfigDict, dotted: str, value: str) -> None:
    """Adds "images.SET.OPTION", an option of a source that the config does not have."""
    section, name, option = dotted.split(".")
    with config.unlocked():
        config[section][name][option] = value


def _is_of_images(parts: list[str], depth: int) -> bool:
    """Whether the part at this depth is an option of a set of images."""
    return parts[0] == "images" and depth == 2 and len(parts) == 3


def _override(config: ConfigDict, overrides: Mapping[str, Any], name: str) -> None:
    for key, value in overrides.items():
        dotted = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            _override(config, value, dotted)
        else:
            check_key(config, dotted)
            _set(config, dotted, value)


def _set(config: ConfigDict, dotted: str, value: Any) -> None:
    try:
        config.update_from_flattened_dict({dotted: value})
    except TypeError as error:
        now = functools.reduce(lambda node, part: node[part], dotted.split("."), config)
        what = "its keys" if isinstance(now, ConfigDict) else f"a value like {now!r}"
        raise TypeError(f"config.{dotted} = {value!r}: give {what}") from error
