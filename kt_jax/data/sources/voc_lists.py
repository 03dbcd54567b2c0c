"""The lists of a VOC devkit: which images it has, and which are for training and for tests."""

import functools
import os
import pathlib
import re
from collections.abc import Callable

from kt_jax.data.sources.names import EXTENSIONS, is_safe, normalise, tidy
from kt_jax.data.splits import choose_splits, divide, read_name

_IMAGES = "JPEGImages"
_FOLDERS = ("ImageSets/Main", "ImageSets")
# A row of the list of a class: an image, and whether it shows the class.
_OF_CLASS = re.compile(r"(.*\S)\s+(-1|0|1)")


def read_lists(root: pathlib.Path) -> dict[str, list[str]]:
    """Returns the keys of the images that each list names, by the list's name.

    Lists are the files in ImageSets/Main, or if there are none in ImageSets, with the name of a
    split, such as "trainval", "Test" or "val2012". Those of a class ("cat_train") are none. Rows
    are names or paths of images in JPEGImages, with or without an extension; a row may be that of
    a list of a class ("000001 -1").

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
    """Says which list has the name of a split but divides no images, and what to do; else ""."""
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
    """Returns which subset the lists put a key in; None where they do not divide these keys.

    An image that a list for tests names is never for training.
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
    """The lists in a folder that have the name of a split, and not of a class too."""
    found = ((path, read_name(path.stem)) for path in _texts_in(folder, "*"))
    return [path for path, said in found if said and not said.rest]


def _texts_in(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return [path for path in sorted(folder.glob(pattern)) if path.suffix.lower() == ".txt"]


def _is_of_class(name: str, rows: list[str]) -> bool:
    """Whether a list is that of the class "train", such as "train_val"."""
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
    """The key of the image that a row of a list names, whether it is there or not."""
    match = _OF_CLASS.fullmatch(row)
    # A name may end in a number too.
    names = [_below_images(name) for name in ((row, match[1]) if match else (row,))]
    for name in filter(is_safe, names):
        folder, slash, base = name.rpartition("/")
        files = files_in(folder)
        for extension in ("", *EXTENSIONS):
            if file := files.get(base + extension):
                return f"{_IMAGES}/{folder}{slash}{file}"
    return f"{_IMAGES}/{names[-1]}" + ("" if names[-1].lower().endswith(EXTENSIONS) else ".jpg")


def _below_images(path: str) -> str:
    """A path of the machine that a list was written on, as one below JPEGImages."""
    path = tidy(path.replace("\\", "/"))
    return path if ".." in path.split("/") else path.rpartition(f"{_IMAGES}/")[2]


def _files_in(folder: str) -> dict[str, str]:
    """The names of the files in a folder, by themselves and with the extension in lower case."""
    try:
        names = sorted(map(normalise, os.listdir(folder)))
    except OSError:
        return {}
    lower = {}
    for name in names:
        stem, extension = os.path.splitext(name)
        lower[stem + extension.lower()] = name
    return lower | {name: name for name in names}
