"""Recognises splits by the names of folders, lists, shards, table values and data set splits."""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

# Words for splits, in lower case, and the split of each. If there are several words for tests, the
# first one here is used for tests, and the words of another split are used for neither.
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("test", "testing", "tests", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "test"),
}
_TRAIN_WORDS = tuple(word for word, split in _SPLITS.items() if split == "train")
_TEST_WORDS = tuple(word for word, split in _SPLITS.items() if split != "train")
# For messages: the known words.
KNOWN = ", ".join(_SPLITS)
# Words for images that are in no split.
_EXTRA = frozenset(
    "unlabeled unlabelled unannotated unsupervised unsup extra extras pred predict prediction "
    "predictions".split()
)
# Words without a meaning that may stand next to a word for a split.
_FILLERS = (
    "set sets image images img imgs picture pictures photo photos data dataset datasets split "
    "splits subset folder files jpg jpeg png part parts shard shards"
).split()
# Names of folders that hold what belongs to images: masks and other labels of their pixels.
_ANNOTATIONS = frozenset(
    "mask masks annotation annotations label labels segmentation segmentations gt groundtruth "
    "trimap trimaps".split()
)
_SHORT_FILLERS = frozenset(("of", "v", "x"))
# Up to three words in one, such as "trainset".
_JOINED = re.compile("({0})({0})?({0})?".format("|".join((*_SPLITS, *_EXTRA, *_FILLERS))))
# Every word for a split matches this.
_MAY_SAY = re.compile("train|trn|test|tst|val|dev|h[eo]ldout", re.IGNORECASE)
_CAPITAL = re.compile("(?<=[a-z0-9])(?=[A-Z])")
_LETTERS = re.compile(r"[^\W\d_]+")


class Said(NamedTuple):
    """The split in a name.

    Attributes:
      word: the word for a split in the name, in lower case: "train", "val", ...
      split: the meaning of this word: "train", "test" or "validation".
      rest: the other words, without numbers and fillers such as "set" and "images"; empty if there
        are none.
    """

    word: str
    split: str
    rest: str


def read_name(name: str) -> Said | None:
    """Finds the split in a name; None if it has none, or two.

    >>> read_name("train2017")
    Said(word='train', split='train', rest='')
    >>> read_name("seg_TestSet")
    Said(word='test', split='test', rest='seg')
    >>> read_name("rain"), read_name("train_or_test")
    (None, None)
    """
    return _read_name(name) if _MAY_SAY.search(name) else None


# Few names match the search, but these come often.
@functools.lru_cache(maxsize=10_000)
def _read_name(name: str) -> Said | None:
    words, rest = _words_of(name)
    splits = [word for word in words if word in _SPLITS]
    if [_SPLITS[word] for word in splits] == ["train", "validation"]:
        splits = ["trainval"]
    if len(set(splits)) != 1:
        return None
    return Said(splits[0], _SPLITS[splits[0]], rest)


def is_extra(name: str) -> bool:
    """Whether a name stands for images in no split, such as "unlabeled"."""
    words, _ = _words_of(name)
    return not _EXTRA.isdisjoint(words) and not any(word in _SPLITS for word in words)


def is_filler(name: str) -> bool:
    """Whether a name has only fillers, such as "images"."""
    words, rest = _words_of(name)
    return bool(words) and not rest and set(words) <= set(_FILLERS)


def is_annotation(name: str) -> bool:
    """Whether a name says that a folder holds masks or the like, such as "annotations"."""
    return name.lower() in _ANNOTATIONS


def divide(subsets: Iterable[str | None]) -> bool:
    """Whether these subsets have both "train" and "test"."""
    return {"train", "test"} <= set(subsets)


def choose_splits(names: Iterable[str]) -> dict[str, str | None]:
    """Maps names of splits to their subset: "train", "test", or None for neither.

    A name is known if it has only a word for a split and fillers ("Train", "val2012", "test_set").
    If these names do not have both training and tests, names with other words are known too, in two
    cases: all are names of splits, and those for training have no other words ("train",
    "test_stage1", "test_stage2"); or names for training and for tests have the same other words,
    and no others have ("seg_train" and "seg_test", perhaps beside "samples").
    """
    names = list(names)
    said = {name: found for name in names if (found := read_name(name))}
    chosen = _choose({name: found for name, found in said.items() if not found.rest})
    if divide(chosen.values()):
        return chosen
    every = _choose(said)
    plain = all(found.rest == "" for found in said.values() if found.split == "train")
    known = all(name in said or is_extra(name) for name in names)
    if plain and known and divide(every.values()):
        return every
    by_rest: dict[str, dict[str, Said]] = {}
    for name, found in said.items():
        by_rest.setdefault(found.rest, {})[name] = found
    pairs = [each for each in map(_choose, by_rest.values()) if divide(each.values())]
    return pairs[0] if len(pairs) == 1 else chosen


def _choose(said: dict[str, Said]) -> dict[str, str | None]:
    words = {found.word for found in said.values()}
    test = next((word for word in _TEST_WORDS if word in words), None)
    subsets = {test: "test"} | dict.fromkeys(_TRAIN_WORDS, "train")
    return {name: subsets.get(found.word) for name, found in said.items()}


def _words_of(name: str) -> tuple[list[str], str]:
    """Returns the known words of a name, and the others as one text."""
    known, rest = [], []
    for letters in _LETTERS.findall(_CAPITAL.sub(" ", name)):
        run = letters.lower()
        if match := _JOINED.fullmatch(run):
            known += filter(None, match.groups())
        elif run not in _SHORT_FILLERS:
            rest.append(run)
    return known, " ".join(rest)
