"""Reads splits and classes from the keys of a set: its folders and names."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kt_jax.data.folders import read_folders
from kt_jax.data.splits import KNOWN, divide, read_name

_log = logging.getLogger(__name__)

SUBSETS = ("all", "train", "test")


@dataclass(frozen=True)
class Layout:
    """Splits and classes by the folders of a set.

    Attributes:
      subsets: `[n]` "train", "test", or None (neither) for every image; None if the folders are
        not splits.
      classes: `[n]` the class of every image, or None; None if the folders are not classes.
      flat: keys of the images without a class, if other images have one.
      doubt: which folder may be a split or a class, and what to do; "" if there is none.
      masks: which folders hold images and masks instead of classes, and what to do; or "".
    """

    subsets: list[str | None] | None
    classes: list[str | None] | None
    flat: list[str]
    doubt: str
    masks: str


def in_subset(
    keys: list[str], subsets: list[str | None] | None, subset: str, holdout: float
) -> np.ndarray:
    """Returns which images belong to the subset, bool `[n]`.

    Without `subsets` from the source or its folders, a hash of each key decides, so that adding
    files does not move other files between the subsets.

    Raises:
      ValueError: the subset is unknown, or holdout is outside [0, 1).
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r} but must be one of {', '.join(SUBSETS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout} but must be a fraction in [0, 1)")
    if subset == "all":
        return np.ones(len(keys), bool)
    if subsets is None:
        subsets = [_draw(key, holdout) for key in keys]
    unused = [key for key, place in zip(keys, subsets, strict=True) if place not in SUBSETS]
    if unused and subset == "train":
        _log.info(
            "%d of %d images are for neither training nor tests, such as %s",
            *(len(unused), len(keys), unused[0]),
        )
    return np.array([place == subset for place in subsets], bool)


def classes_of(keys: list[str]) -> list[str | None] | None:
    """Returns the class of every image, or None if the folders are not classes.

    The class is the first folder of the key, below train/, test/ and other splits if there are any.
    An image next to these folders has no class. The set has no classes if an image for training or
    testing is in no class folder, or if all images are in the same one.
    """
    layout = read_layout(keys)
    if layout.flat:
        _log.warning(
            "%d of %d images lie in no class folder, such as %s: the set has no labels",
            *(len(layout.flat), len(keys), layout.flat[0]),
        )
    return layout.classes


def read_layout(keys: list[str]) -> Layout:
    """Reads the folders of the keys."""
    parents = [key.rpartition("/")[0] for key in keys]
    folders = {parent: tuple(parent.split("/")) if parent else () for parent in set(parents)}
    found, doubt, masks = read_folders(folders.values())
    places = [found[folders[parent]] for parent in parents]
    classes = [place.name for place in places]
    names = {name for name in classes if name is not None}
    due = [key for key, place in zip(keys, places, strict=True) if place.due and not place.name]
    return Layout(
        subsets=[place.subset for place in places] if divide(p.subset for p in places) else None,
        classes=None if due or len(names) < 2 else classes,
        flat=due if names else [],
        doubt=doubt,
        masks=masks,
    )


def why_unsplit(keys: list[str], name: str, *, doubt: str = "", lists: Sequence[str] = ()) -> str:
    """Returns a message if splits are named somewhere but do not divide the set; else "".

    It says where, and what to do.

    Args:
      keys: the keys of the set.
      name: the name of the set.
      doubt: the doubt of `read_layout`, which has priority.
      lists: ignored files that may list the splits, which come last.
    """
    return doubt or _why_unsplit_by_names(keys, name) or _why_unsplit_by_lists(lists)


def _why_unsplit_by_names(keys: list[str], name: str) -> str:
    parts = {name.partition(".")[0]: name}
    parts |= {part: key for key in reversed(keys) for part in key.split("/")[:-1]}
    said = _examples({p: k for p, k in parts.items() if (s := read_name(p)) and not s.rest})
    if not said:
        # A name with other words may be a class, such as "bullet_train". Two are no accident.
        files = {key.rpartition("/")[2].partition(".")[0]: key for key in reversed(keys)}
        said = next((both for both in map(_examples, (parts, files)) if len(both) == 2), {})
    if not said:
        return ""
    names = " and ".join(f"{name!r} in {key}" for _, (name, key) in sorted(said.items())[::-1])
    missing = "tests" if "train" in said else "training"
    if len(said) == 2:
        what = f"{names} are names of splits, but do not divide the set"
    else:
        what = f"{names} is the name of a split, but none is for {missing}"
    return (
        f"{what}: a hash of each name chooses the images for tests. Use the names 'train' "
        "and 'test' (of top folders or shards, or in the column 'split' of a table) and open both "
        "together, or use subset='all'"
    )


def why_unknown(subsets: Sequence[str | None]) -> str:
    """Returns a message if the source gives splits that are not known; else ""."""
    unknown = Counter(place for place in subsets if place and place not in SUBSETS)
    if not unknown:
        return ""
    names = ", ".join(f"{name!r}: {count:,}" for name, count in unknown.most_common(5))
    return (
        f"{unknown.total():,} of {len(subsets):,} images are of splits that are not known "
        f"({names}{', ...' * (len(unknown) > 5)}), and are for neither training nor tests: name "
        f"each split as one of {KNOWN}"
    )


def _why_unsplit_by_lists(lists: Sequence[str]) -> str:
    if not lists:
        return ""
    shown = " and ".join(sorted(lists)[:2]) + " ..." * (len(lists) > 2)
    return (
        f"{shown} may list the images for training and for tests, but lists beside images are not "
        "read: a hash of each name chooses the images for tests. Name a table with the columns "
        "'path', 'label' and 'split' as PATH"
    )


def sorted_names(classes: list[str | None]) -> tuple[str, ...]:
    """Returns the class names, sorted: as numbers if all are numbers."""
    names = {name for name in classes if name is not None}
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def find_alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Returns two class names that differ only in case, outer spaces or leading zeros, or None.

    >>> find_alike(("cat", "001", "Cat", "1"))
    ('cat', 'Cat')
    """
    known: dict[str, str] = {}
    for name in names:
        plain = name.strip().casefold()
        plain = plain.lstrip("0") if plain.isdecimal() else plain
        if plain in known:
            return known[plain], name
        known[plain] = name
    return None


def _examples(names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Finds a name for "train" and one for "test"; returns each with its key."""
    said: dict[str, tuple[str, str]] = {}
    for name, key in names.items():
        if found := read_name(name):
            said["train" if found.split == "train" else "test"] = name, key
    return said


def _draw(key: str, holdout: float) -> str:
    # 52 bits of the digest, as a fraction.
    draw = (int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]) >> 4) / 2**52
    return "test" if draw < holdout else "train"
