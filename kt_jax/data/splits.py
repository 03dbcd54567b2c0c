"""The names of splits: of folders, lists, shards, values of a table and splits of a data set."""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

# The words that say a split, in lower case, and the split that each says. Of the words for tests,
# the first that is there is for tests, and those of another split are then for neither.
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("test", "testing", "tests", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "test"),
}
_TRAIN_WORDS = tuple(word for word, split in _SPLITS.items() if split == "train")
_TEST_WORDS = tuple(word for word, split in _SPLITS.items() if split != "train")
# For people: what may stand in a name.
KNOWN = ", ".join(_SPLITS)
# Words of images that are in no split.
_EXTRA = frozenset(
    "unlabeled unlabelled unannotated unsupervised unsup extra extras pred predict prediction "
    "predictions".split()
)
# Words that may stand next to those of a split, and say nothing.
_FILLERS = (
    "set sets image images img imgs picture pictures photo photos data dataset datasets split "
    "splits subset folder files jpg jpeg png part parts shard shards"
).split()
_SHORT_FILLERS = frozenset(("of", "v", "x"))
# Two or three of them in one, such as "trainset".
_JOINED = re.compile("({0})({0})?({0})?".format("|".join((*_SPLITS, *_EXTRA, *_FILLERS))))
# A part of every word of a split.
_MAY_SAY = re.compile("train|trn|test|tst|val|dev|h[eo]ldout", re.IGNORECASE)
_CAPITAL = re.compile("(?<=[a-z0-9])(?=[A-Z])")
_LETTERS = re.compile(r"[^\W\d_]+")


class Said(NamedTuple):
    """What a name says.

    Attributes:
      word: the word of a split that is in it, in lower case: "train", "val", ...
      split: the split that this is a word for: "train", "test" or "validation".
      rest: its other words, without those that say nothing, such as "set" and "images", and
        without numbers; empty where the name says the split and no more.
    """

    word: str
    split: str
    rest: str


def read_name(name: str) -> Said | None:
    """Returns the split that a name says, None if it says none, or two.

    >>> read_name("train2017")
    Said(word='train', split='train', rest='')
    >>> read_name("seg_TestSet")
    Said(word='test', split='test', rest='seg')
    >>> read_name("rain"), read_name("train_or_test")
    (None, None)
    """
    return _read_name(name) if _MAY_SAY.search(name) else None


# Few names pass the search, and these again and again.
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
    """Whether a name is one of images that are in no split, such as "unlabeled"."""
    words, _ = _words_of(name)
    return not _EXTRA.isdisjoint(words) and not any(word in _SPLITS for word in words)


def is_filler(name: str) -> bool:
    """Whether a name says nothing, such as "images"."""
    words, rest = _words_of(name)
    return bool(words) and not rest and set(words) <= set(_FILLERS)


def divide(subsets: Iterable[str | None]) -> bool:
    """Whether these are for both training and tests."""
    return {"train", "test"} <= set(subsets)


def choose_splits(names: Iterable[str]) -> dict[str, str | None]:
    """Returns what the known splits of these names are for: "train", "test", or None: neither.

    Known is a name that says one split and no more ("Train", "val2012", "test_set"). If these are
    not for both training and tests, so are names that say one split each and share their other
    words, where all names do ("seg_train", "seg_test"), or where one for training says no more
    ("train", "test_stage1", "test_stage2").
    """
    names = list(names)
    said = {name: found for name in names if (found := read_name(name))}
    chosen = _choose({name: found for name, found in said.items() if not found.rest})
    if divide(chosen.values()) or not all(name in said or is_extra(name) for name in names):
        return chosen
    every = _choose(said)
    shared = len({found.rest for found in said.values()}) == 1
    plain = all(found.rest == "" for found in said.values() if found.split == "train")
    return every if divide(every.values()) and (shared or plain) else chosen


def _choose(said: dict[str, Said]) -> dict[str, str | None]:
    words = {found.word for found in said.values()}
    test = next((word for word in _TEST_WORDS if word in words), None)
    subsets = {test: "test"} | dict.fromkeys(_TRAIN_WORDS, "train")
    return {name: subsets.get(found.word) for name, found in said.items()}


def _words_of(name: str) -> tuple[list[str], str]:
    """The words that are known here, and the others as one text."""
    known, rest = [], []
    for letters in _LETTERS.findall(_CAPITAL.sub(" ", name)):
        run = letters.lower()
        if match := _JOINED.fullmatch(run):
            known += filter(None, match.groups())
        elif run not in _SHORT_FILLERS:
            rest.append(run)
    return known, " ".join(rest)
