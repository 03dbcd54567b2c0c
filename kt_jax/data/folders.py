"""Finds the split and the class of images by the names of their folders."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kt_jax.data.splits import choose_splits, divide, is_annotation, is_extra, is_filler, read_name

# The path of a folder as names, the outermost first; () is the root.
Folder = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """The split and class of the images in a folder.

    Attributes:
      subset: "train", "test", or None.
      name: name of the class, or None.
      due: whether these images need a class: without it, the whole set has no classes.
    """

    subset: str | None = None
    name: str | None = None
    due: bool = False


def read_folders(folders: Iterable[Folder]) -> tuple[dict[Folder, Place], str, str]:
    """Returns the place of each folder, and two messages.

    The first is about a folder that may be a split or a class. The second is about classes that
    would all be folders of images and of masks: then there are none. "" if there are no such
    folders.
    """
    places, doubt = _read_folders(folders)
    classes = {place.name for place in places.values() if place.name}
    masks = sorted(filter(is_annotation, classes))
    fillers = sorted(filter(is_filler, classes)) if masks else []
    if not fillers or len(masks) + len(fillers) < len(classes):
        return places, doubt, ""
    said = (
        f"the folders {fillers[0]!r} and {masks[0]!r} look like images and what belongs to them: "
        "the set has no labels, and all are read as images. Name only folders of images as PATH "
        "(a list or a glob names several)"
    )
    return {folder: Place(place.subset) for folder, place in places.items()}, doubt, said


def _read_folders(folders: Iterable[Folder]) -> tuple[dict[Folder, Place], str]:
    """Returns the places, with any names of classes, and the first message.

    Outer folders that contain all images are skipped. Below them, the first layout that fits is
    used:

    - splits for training and for tests, and classes in each;
    - classes, and in each the same splits for training and for tests;
    - splits of one kind only (perhaps with others like "unlabeled"), and classes in each. The
      subsets are then unknown;
    - classes. One may have the name of a split, like the class "train".
    """
    folders = sorted(folders)
    # Sorted: names that the first and the last share are shared by all.
    ends = zip(folders[0], folders[-1], strict=False) if folders else ()
    depth = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    tops = _group(folders, depth)
    names = [name for name in tops if name]
    splits = choose_splits(names)
    places = dict.fromkeys(folders, Place())
    if divide(splits.values()):
        return places | _splits_first(tops, splits, depth + 1), ""
    if "" not in tops and (found := _classes_first(tops, depth + 1)):
        return found
    if said := _one_sided(names):
        for name in said:
            for folder, label in _classes_below(tops[name], depth + 1, name).items():
                places[folder] = Place(None, label, True)
        return places, ""
    if splits and _may_be_splits(tops, splits, depth + 1):
        return places, _doubt(splits, names, "may be a split or a class: the set has no labels")
    for name, group in tops.items():
        places |= dict.fromkeys(group, Place(None, name or None, True))
    odd = list(splits) or [name for name in names if is_extra(name)]
    return places, _doubt(odd, names, "is read as a class") if odd else ""


def _group(folders: Iterable[Folder], depth: int) -> dict[str, list[Folder]]:
    """Groups folders by their name at this depth, or "" if they are not so deep."""
    groups = defaultdict(list)
    for folder in folders:
        groups[folder[depth] if len(folder) > depth else ""].append(folder)
    return dict(groups)


def _splits_first(
    tops: Mapping[str, list[Folder]], splits: dict[str, str | None], depth: int
) -> dict[Folder, Place]:
    classes = {name: _classes_below(tops[name], depth, name) for name in splits}
    # A flat test/ next to train/ and val/ with classes, as in ImageNet, has no labels for tests.
    labelled = choose_splits(name for name in splits if any(classes[name].values()))
    if divide(labelled.values()):
        splits = dict.fromkeys(splits) | labelled
    return {
        folder: Place(subset, label, subset is not None)
        for name, subset in splits.items()
        for folder, label in classes[name].items()
    }


def _classes_first(
    tops: Mapping[str, list[Folder]], depth: int
) -> tuple[dict[Folder, Place], str] | None:
    """Returns classes with splits below each; None if a class lacks them."""
    groups = {top: _group(folders, depth) for top, folders in tops.items()}
    splits = choose_splits(name for group in groups.values() for name in group if name)
    if not all(divide(map(splits.get, group)) and "" not in group for group in groups.values()):
        return None
    places: dict[Folder, Place] = {}
    deeper = []
    for top, group in groups.items():
        for name, folders in group.items():
            subset = splits.get(name)
            places |= dict.fromkeys(folders, Place(subset, top, subset is not None))
            below = filter(None, _classes_below(folders, depth + 1, name).values())
            deeper += [f"{top}/{name}/{each}" for each in below if subset]
    if not deeper:
        return places, ""
    doubt = (
        f"the class of images in {min(deeper)} may be the first folder or the last: the set has "
        "no labels. Put the splits at the top (train/CLASS/..., test/CLASS/...)"
    )
    return {folder: Place(place.subset) for folder, place in places.items()}, doubt


def _one_sided(names: list[str]) -> list[str]:
    """Returns the names that are splits if the others are extra; [] if some are classes."""
    said = {name: found for name in names if (found := read_name(name))}
    extra = [name for name in names if name not in said and is_extra(name)]
    if len(said) + len(extra) < len(names):
        return []
    rests = {found.rest for found in said.values()}
    # "bullet_train" and "steam_train" are classes; "seg_train" and "seg_pred" are not.
    one = len(rests) == 1 and (extra or rests == {""})
    both = {"train"} < {found.split for found in said.values()}
    return list(said) if one or both else []


def _classes_below(folders: list[Folder], depth: int, split: str) -> dict[Folder, str | None]:
    """Returns the class of each folder of a split: its name at this depth.

    A folder that contains all others is skipped if its name repeats the split or is a filler.
    """
    names = set(_group(folders, depth))
    while len(names) == 1 and _repeats(min(names), split):
        depth += 1
        names = set(_group(folders, depth))
    return {folder: folder[depth] if len(folder) > depth else None for folder in folders}


def _repeats(name: str, split: str) -> bool:
    said, above = read_name(name), read_name(split)
    same = said is not None and above is not None and said.split == above.split
    return same or is_filler(name)


def _may_be_splits(tops: Mapping[str, list[Folder]], splits: Iterable[str], depth: int) -> bool:
    """Whether only the top folders with names of splits contain classes."""
    below = {name: set(_group(folders, depth)) for name, folders in tops.items()}
    classes = set().union(*(below[name] for name in splits))
    return all(len(below[name]) > 1 and "" not in below[name] for name in splits) and all(
        below[name] == {""} or len(below[name] & classes) > 1 or is_extra(name)
        for name in tops
        if name not in splits
    )


def _doubt(splits: Iterable[str], names: Iterable[str], what: str) -> str:
    split, others = min(splits), sorted(set(names).difference(splits))
    next_to = f", next to {others[0]!r}," if others else ""
    return (
        f"the folder {split!r}{next_to} {what}, and a hash of each name chooses the images "
        "for tests. If it is a split, put the other images below top folders of splits too "
        "('train', 'test', 'unlabeled'); if it is a class, rename it, or list the images in a "
        "table with a column 'label'"
    )
