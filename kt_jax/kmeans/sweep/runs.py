"""Finds how the run of some features clusters them, and their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kt_jax.kmeans import command
from kt_jax.runs import files


def find_scaling(directories: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Returns how the runs of these features centre, reduce and scale them; empty without a run.

    `names` are the names of options in `command.SCALING` to find.

    Raises:
      ValueError: the runs' clusters use different values.
    """
    found: dict[str, dict[str, Any]] = {}
    for directory in directories:
        path = directory.absolute().parent / "config.json"
        config = files.read_json(path) if path.exists() else {}
        for name, section in config.items() if isinstance(config, dict) else ():
            if _reads(section, directory):
                values = {each: section.get(each) for each in names}
                found[f"{path}: {name}"] = {
                    each: type(command.SCALING[each])(value)
                    for each, value in values.items()
                    if value is not None
                }
    ways = list(found.values())
    if any(way != ways[0] for way in ways):
        said = "; ".join(f"{name} has {way}" for name, way in found.items())
        options = ", ".join(
            f"--{each} or --no-{each}" if command.SCALING[each] is False else f"--{each}"
            for each in names
        )
        raise ValueError(f"--features are clustered in several ways ({said}): give {options}")
    return ways[0] if ways else {}


def _reads(section: Any, directory: Path) -> bool:
    return (
        isinstance(section, dict)
        and section.get("kind") == "clusters"
        and section.get("features") == directory.absolute().name
    )


def find_classes(directories: Sequence[Path]) -> list[Path]:
    """Returns the index.parquet with the classes of these rows, in a list; [] without one."""
    paths = [directory.absolute() / "index.parquet" for directory in directories]
    if not paths or not all(path.exists() for path in paths):
        return []
    tables = [files.read_table(path) for path in paths]
    if not all("key" in table and "label" in table for table in tables):
        return []
    first = tables[0]
    same = all(
        len(table["key"]) == len(first["key"])
        and (table["key"] == first["key"]).all()
        and (table["label"] == first["label"]).all()
        for table in tables
    )
    return paths[:1] if same and (first["label"] >= 0).any() else []
