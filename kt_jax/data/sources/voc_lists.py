"""Reads the lists of images for training and tests of a VOC devkit."""

import functools
import os
import pathlib
import re
from collections.abc import Callable

from kt_jax.data.sources.names import EXTENSIONS, is_safe, normalise, tidy
from kt_jax.data.splits import choose_splits, divide, read_name

_IMAGES = "JPEGImages"
_FOLDERS = ("ImageSets/Main", "ImageSets")
# A row in the list of a class: an image, and whether it shows the class.
_OF_CLASS = re.compile(r"(.*\S)\s+(-1|0|1)")


def read_lists(root: pathlib.Path) -> dict[str, list[str]]:
    """Maps the name of each list to the keys of its images.

    Lists are files with the name of a split, such as "trainval", "Test" or "val2012", in
    ImageSets/Main, or if it has none, in ImageSets. Lists of a class ("cat_train") are not used.
    Rows are names or paths of images in JPEGImages, with or without an extension. A row may have
    the form of a list of a class ("000001 -1").

    Raises:
      ValueError: a list cannot be read.
    """
    files_in = functools.cache(lambda folder: _files_in(f"{root}/{_IMAGES}/{folder}"))
    for folder in _FOLDERS:
        rows = {path.stem: _read_rows(path) for path in _lists_in(root / folder)}
        lists = {name: those for name, those in rows.items() if not _is_of_class(name, those)}
        if lists:
            return {name: [_find(row, files_in) for row in those] for name, those in lists.items()}
    return {}


def why_unused(root: pathlib.Path) -> str:
    """Returns a message if a list has the name of a split but divides no images; else ""."""
    main = root / _FOLDERS[0]
    found = [path for folder in (*_FOLDERS, ".") for path in _lists_in(root / folder)]
    found += [path for path in _texts_in(root / "ImageSets", "*/*") if read_name(path.stem)]
    if not found:
        return ""
    example = found[0].relative_to(root)
    return (
        f"{example} has the name of a split, but {main.relative_to(root)} does not hold a list for "
        "training and one for tests: a hash of each name holds images out for tests. Write both "
        "there, as train.txt and test.txt, or use subset='all'"
    )


def subsets_of(lists: dict[str, list[str]], keys: set[str]) -> dict[str, str] | None:
    """Maps keys to subsets by the lists; None if the lists do not divide these keys.

    An image in a list for tests is never for training.
    """
    splits = choose_splits(name for name, named in lists.items() if not keys.isdisjoint(named))
    if not divide(splits.values()):
        return None
    named = {
        subset: {key for name in splits if splits[name] == subset for key in lists[name]}
        for subset in ("train", "test")
    }
    return dict.fromkeys(named["train"], "train") | dict.fromkeys(named["test"], "test")


def _lists_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the lists in a folder with the name of a split, without those of a class."""
    found = ((path, read_name(path.stem)) for path in _texts_in(folder, "*"))
    return [path for path, said in found if said and not said.rest]


def _texts_in(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return [path for path in sorted(folder.glob(pattern)) if path.suffix.lower() == ".txt"]


def _is_of_class(name: str, rows: list[str]) -> bool:
    """Whether a list is one of the class "train", such as "train_val"."""
    return "_" in name and bool(rows) and all(map(_OF_CLASS.fullmatch, rows))


def _read_rows(path: pathlib.Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as a list of images: {error}. Save it as text in UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _find(row: str, files_in: Callable[[str], dict[str, str]]) -> str:
    """Returns the key of the image in a row of a list, whether the file exists or not."""
    match = _OF_CLASS.fullmatch(row)
    # A name may also end in a number.
    names = [_below_images(name) for name in ((row, match[1]) if match else (row,))]
    for name in filter(is_safe, names):
        folder, slash, base = name.rpartition("/")
        files = files_in(folder)
        for extension in ("", *EXTENSIONS):
            if file := files.get(base + extension):
                return f"{_IMAGES}/{folder}{slash}{file}"
    return f"{_IMAGES}/{names[-1]}" + ("" if names[-1].lower().endswith(EXTENSIONS) else ".jpg")


def _below_images(path: str) -> str:
    """Converts a path from the machine that wrote the list to one below JPEGImages."""
    path = tidy(path.replace("\\", "/"))
    return path if ".." in path.split("/") else path.rpartition(f"{_IMAGES}/")[2]


def _files_in(folder: str) -> dict[str, str]:
    """Maps names, also with the extension in lower case, to the names of files in a folder."""
    try:
        names = sorted(map(normalise, os.listdir(folder)))
    except OSError:
        return {}
    lower = {}
    for name in names:
        stem, extension = os.path.splitext(name)
        lower[stem + extension.lower()] = name
    return lower | {name: name for name in names}
