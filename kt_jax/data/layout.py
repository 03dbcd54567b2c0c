"""What the folders of the keys say: which images are for training, and the classes."""

import hashlib
import logging
from collections.abc import Iterable

import numpy as np

_log = logging.getLogger(__name__)

SUBSETS = ("all", "train", "test")
# The names of splits, whatever their case; of those for testing, the first that is there is taken.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def choose_splits(names: Iterable[str]) -> dict[str, str | None]:
    """Returns what the known splits of these names are for: "train", "test", or None: neither."""
    splits = {name: name.strip().lower() for name in names}
    test = next((split for split in TEST_FOLDERS if split in splits.values()), None)
    subsets = {test: "test"} | dict.fromkeys(TRAIN_FOLDERS, "train")
    known = (*TRAIN_FOLDERS, *TEST_FOLDERS)
    return {name: subsets.get(split) for name, split in splits.items() if split in known}


def in_subset(
    keys: list[str], given: list[str | None] | None, subset: str, holdout: float
) -> np.ndarray:
    """Which images belong to the subset, bool `[n]`.

    A source that says so itself (`given`) decides; else top folders train and test (or val, ...)
    where both exist; else a hash of each key, so that adding files moves no other between the
    subsets.

    Raises:
      ValueError: for an unknown subset, or a holdout outside [0, 1).
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r} but must be one of {', '.join(SUBSETS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout} but must be a fraction in [0, 1)")
    if subset == "all":
        return np.ones(len(keys), bool)
    where = subsets_of(keys, given)
    if where is None:
        where = [_draw(key, holdout) for key in keys]
    unused = [key for key, place in zip(keys, where, strict=True) if place not in SUBSETS]
    if unused and subset == "train":
        _log.info(
            "%d of %d images are for neither training nor tests, such as %s",
            *(len(unused), len(keys), unused[0]),
        )
    return np.array([place == subset for place in where], bool)


def subsets_of(keys: list[str], given: list[str | None] | None) -> list[str | None] | None:
    """What every image is for: "train", "test", or neither; None where keys and source do not say.

    `given` is what the source says, if it does.
    """
    roots = _split_roots(keys)
    if given is not None or not roots:
        return given
    return [roots.get(key.split("/", 1)[0]) for key in keys]


def classes_of(keys: list[str]) -> list[str | None] | None:
    """The class of every image, or None where the folders are no classes.

    It is the first folder of the key, below train/, test/ and other splits where train/ and test/
    exist; an image beside these has none. There are no classes at all if an image for training or
    testing lies in no folder, or if all lie in the same.
    """
    roots = _split_roots(keys)
    classes: list[str | None] = []
    flat = []
    for key in keys:
        folders = key.split("/")[:-1]
        matters = True
        if roots:
            root, *folders = folders or [""]
            matters = roots.get(root) is not None
            folders = folders if root in roots else []
        classes.append(folders[0] if folders else None)
        if matters and not folders:
            flat.append(key)
    names = {name for name in classes if name is not None}
    if names and flat:
        _log.warning(
            "%d of %d images lie in no class folder, such as %s: the set has no labels",
            *(len(flat), len(keys), flat[0]),
        )
    return None if flat or len(names) < 2 else classes


def sorted_names(classes: list[str | None]) -> tuple[str, ...]:
    """The names of the classes, sorted: as numbers where all are numbers."""
    names = {name for name in classes if name is not None}
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _split_roots(keys: list[str]) -> dict[str, str | None]:
    """What the top folders that are splits are for; none where they do not divide the images."""
    tops = {tuple(key.split("/", 2)[:-1]) for key in keys}
    roots = choose_splits(top[0] for top in tops if top)
    # A flat test/ beside train/ and val/ with classes, as in ImageNet, has no labels to test with.
    labelled = choose_splits(top[0] for top in tops if len(top) == 2)
    if {"train", "test"} <= set(labelled.values()):
        return dict.fromkeys(roots) | labelled
    return roots if {"train", "test"} <= set(roots.values()) else {}


def _draw(key: str, holdout: float) -> str:
    # 52 bits of the digest, as a fraction.
    draw = (int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]) >> 4) / 2**52
    return "test" if draw < holdout else "train"
