"""What the folders of the keys say: which images are for training, and the classes."""

import hashlib
import logging

import numpy as np

_log = logging.getLogger(__name__)

SUBSETS = ("all", "train", "test")
TEST_FOLDERS = ("test", "val", "valid", "validation")


def in_subset(
    keys: list[str], given: list[str | None] | None, subset: str, holdout: float
) -> np.ndarray:
    """Which images belong to the subset, bool `[n]`.

    A source that says so itself (`given`) decides; else top folders train and test (or val) where
    both exist; else a hash of each key, so that adding files moves no other between the subsets.

    Raises:
      ValueError: for an unknown subset, or a holdout outside [0, 1).
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r} but must be one of {', '.join(SUBSETS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout} but must be a fraction in [0, 1)")
    if subset == "all":
        return np.ones(len(keys), bool)
    test_root = _test_root(keys)
    if given is not None:
        where = given
    elif test_root:
        roots = {"train": "train", test_root: "test"}
        where = [roots.get(key.split("/", 1)[0]) for key in keys]
    else:
        where = [_draw(key, holdout) for key in keys]
    return np.array([place == subset for place in where], bool)


def classes_of(keys: list[str]) -> list[str | None] | None:
    """The class of every image, or None where the folders are no classes.

    It is the first folder of the key, below train/ and test/ where these exist; an image beside
    these has none. There are no classes at all if an image of theirs lies in no folder, or if all
    lie in the same.
    """
    test_root = _test_root(keys)
    classes: list[str | None] = []
    flat = []
    for key in keys:
        folders = key.split("/")[:-1]
        beside = test_root is not None and folders[:1] not in (["train"], [test_root])
        if test_root is not None:
            folders = folders[1:]
        classes.append(None if beside or not folders else folders[0])
        if not beside and not folders:
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


def _test_root(keys: list[str]) -> str | None:
    roots = {key.split("/", 1)[0] for key in keys if "/" in key}
    if "train" not in roots:
        return None
    return next((root for root in TEST_FOLDERS if root in roots), None)


def _draw(key: str, holdout: float) -> str:
    # 52 bits of the digest, as a fraction.
    draw = (int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]) >> 4) / 2**52
    return "test" if draw < holdout else "train"
