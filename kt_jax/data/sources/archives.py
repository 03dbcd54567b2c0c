"""Rules that zips and tars share: which entries are refused, and what keys are below."""

import os
import pathlib

from kt_jax.data.decode import why_too_large
from kt_jax.data.sources.names import NOT_UTF8, is_safe, is_utf8, readable, tidy_packed
from kt_jax.data.sources.source import Excluded, existing, to_choose


def find_archive(path: str | os.PathLike, kind: str) -> pathlib.Path:
    """Returns the absolute path of an archive.

    Raises:
      FileNotFoundError: it does not exist.
      ValueError: it is a folder.
    """
    path = existing(path).absolute()
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a {kind}: {to_choose('folder')}")
    return path


def exclude(name: str, reason: str) -> Excluded:
    """Returns an entry of this name as excluded."""
    # A name that is unsafe is shown as it is written.
    return Excluded(readable(tidy_packed(name) if is_safe(name) else name), reason)


def why_name_refused(name: str, known: bool, size: int) -> str | None:
    """Returns why an entry is refused, None if it is not; `known` is its name already."""
    if not is_safe(name):
        return "an unsafe name: absolute, or with '..' in it"
    if not is_utf8(name):
        return NOT_UTF8
    return "a second entry of the same name" if known else why_too_large(size)


def common_folder(names: list[str]) -> str:
    """Returns the top-level folder that all names lie in, with a slash; "" if there is none."""
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def keys_below(prefix: str, refused: list[Excluded]) -> list[Excluded]:
    """Returns what was refused, its keys below the folder `prefix`, sorted by them."""
    found = [
        Excluded(each.key.removeprefix(prefix) if is_safe(each.key) else each.key, each.reason)
        for each in refused
    ]
    return sorted(found, key=lambda each: each.key)
