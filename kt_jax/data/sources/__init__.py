"""Sources of image files: one small class for each kind of place."""

import difflib
import inspect
import logging
import os
import pathlib
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kt_jax.data.sources.array_record import ArrayRecord, holds_records
from kt_jax.data.sources.folder import Folder
from kt_jax.data.sources.huggingface import HuggingFace
from kt_jax.data.sources.huggingface_files import is_huggingface
from kt_jax.data.sources.listing import Listing, read_note, read_scanned
from kt_jax.data.sources.names import EXTENSIONS, ignored_as, why_not
from kt_jax.data.sources.source import (
    ENTRIES,
    Excluded,
    Source,
    describe_excluded,
    describe_ignored,
    existing,
    is_glob,
)
from kt_jax.data.sources.tables import TEXTS
from kt_jax.data.sources.tars import Tar
from kt_jax.data.sources.tfds import Tfds
from kt_jax.data.sources.unread import explain, explain_split
from kt_jax.data.sources.voc import Voc, find_years
from kt_jax.data.sources.webdataset import WebDataset, holds_shards, is_shard, names_shards
from kt_jax.data.sources.zips import Zip

SOURCES: dict[str, type[Source]] = {
    "folder": Folder,
    "zip": Zip,
    "tar": Tar,
    "manifest": Listing,
    "tfds": Tfds,
    "array_record": ArrayRecord,
    "huggingface": HuggingFace,
    "voc": Voc,
    "webdataset": WebDataset,
}

__all__ = [
    "SOURCES",
    "Excluded",
    "Source",
    "check_options",
    "describe_excluded",
    "describe_ignored",
    "detect",
    "make_source",
    "option_names",
]

_log = logging.getLogger(__name__)

# Options of every source in `open_images`, but not in scan and prepare.
_SPLITTING = ("subset", "holdout")


def make_source(source: str, opening: bool = False, /, **options: Any) -> Source:
    """Opens the source of this name (or "auto") without reading its images.

    Args:
      source: its name.
      opening: whether `open_images` calls. Error messages then suggest also the names that only
        `open_images` takes.
      **options: options of the source.

    Raises:
      ValueError: the source or an option is unknown, or there is no image.
      FileNotFoundError: the path does not exist.
    """
    if source == "auto":
        if "path" not in options:
            raise ValueError("source 'auto' needs the option 'path', which was not given")
        source = detect(options["path"])
        _log.info("%s: opened as source=%r", options["path"], source)
    if source == "photographs":
        raise ValueError(
            "source 'photographs' needs neither scan nor prepare: name it where images are opened"
        )
    if source not in SOURCES:
        known = [*SOURCES, *(["photographs"] if opening else []), "auto"]
        raise ValueError(f"unknown source {source!r}{_nearest(source, known)}")
    for name in _SPLITTING:
        if name in options:
            raise ValueError(
                f"source {source!r}: {name!r} is chosen where images are opened, not where they "
                "are scanned or prepared: delete it"
            )
    check_options(source, SOURCES[source], options, also=_SPLITTING if opening else ())
    scanned = read_note(options["path"]) if source == "manifest" else None
    if scanned is None:
        opened = SOURCES[source](**options)
    else:
        table, refused = read_scanned(options["path"])
        source, options = scanned.source, scanned.options
        if source == "folder":
            # The manifest of a scan replaces a new listing.
            names = [name for name in (*ENTRIES.names, "subset") if name in table.column_names]
            opened = Folder(**options, entries=table.select(names))
            opened.refused, opened.ignored = refused, Counter(scanned.ignored)
        else:
            opened = SOURCES[source](**options)
        opened.manifest = table
    if not len(opened.entries):
        refused = "; ".join(describe_excluded(opened.refused)[:3])
        raise ValueError(
            f"no images in {opened.name}: looked for {' '.join(EXTENSIONS)}; "
            f"{len(opened.refused)} entries were refused{': ' + refused if refused else ''}; "
            f"ignored: {describe_ignored(opened.ignored)}"
        )
    if any(opened.ignored.values()):
        _log.info("%s: files ignored: %s", opened.name, describe_ignored(opened.ignored))
    return opened


def check_options(
    source: str, make: Callable, options: Mapping[str, Any], also: Collection[str] = ()
) -> None:
    """Checks the names of options.

    Raises:
      ValueError: an option is unknown (the message suggests the nearest name), or one is missing.
    """
    parameters = inspect.signature(make).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.name not in ("size", "entries")}
    for name in options:
        if name not in known:
            raise ValueError(
                f"source {source!r}: unknown option {name!r}{_nearest(name, [*known, *also])}"
            )
    for name, required in known.items():
        if required and name not in options:
            raise ValueError(f"source {source!r} needs the option {name!r}, which was not given")


def detect(path: str | os.PathLike | Collection[str | os.PathLike]) -> str:
    """Returns the name of the source that opens a path.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: the kind of the file is unknown.
    """
    if holds_records(path):
        return "array_record"
    if names_shards(path):
        return "webdataset"
    if not isinstance(path, str | os.PathLike):
        return "folder"
    if is_glob(os.path.expanduser(path)):
        return "folder"
    path = existing(path)
    if is_huggingface(path):
        return "huggingface"
    if path.is_dir():
        if find_years(path):
            return "voc"
        return "webdataset" if holds_shards(path) else "folder"
    if path.suffix.lower() in (*TEXTS, ".parquet"):
        return "manifest"
    if why := explain_split(path) or explain(path):
        raise ValueError(why)
    if path.suffix.lower() == ".tar" or tarfile.is_tarfile(path):
        return "webdataset" if is_shard(path) else "tar"
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return "zip"
    raise ValueError(
        f"{path} is no source of images that is known here{_what_else(path)}: give a folder (also "
        "of a VOC devkit's year or a Hugging Face data set), a .zip, a .tar, an .array_record, or "
        "a .csv, .tsv or .parquet that lists paths or holds images"
    )


def option_names() -> set[str]:
    """Returns the text options of all sources, except the path."""
    return {
        each.name
        for source in SOURCES.values()
        for each in inspect.signature(source).parameters.values()
        if each.annotation is str
    }


def _what_else(path: pathlib.Path) -> str:
    """Returns the kind of file by its name, in brackets; empty if unknown."""
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return " (JSON, which is not read: write the list as .csv)"
    if path.suffix.lower() in (".txt", ".lst", ".list"):
        return " (a list of paths is named .csv, and its first line is path)"
    if ignored_as(path.name):
        return ""
    return f" ({why_not(path.name) or 'one image: name the folder that it lies in'})"


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f": did you mean {near[0]!r}?" if near else ":") + f" Known: {', '.join(known)}"
