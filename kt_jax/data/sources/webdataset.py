"""WebDataset: tars in which files with the classes are next to the images."""

import contextlib
import glob
import itertools
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from kt_jax.data.layout import classes_of, read_layout
from kt_jax.data.sources.archives import why_refused
from kt_jax.data.sources.names import is_image, tidy_packed
from kt_jax.data.sources.source import (
    Paths,
    Source,
    existing,
    given_paths,
    is_glob,
    make_entries,
)
from kt_jax.data.sources.tars import list_members, make_stamps, read_at, why_unreadable

_SUFFIX = ".tar"
# Files with the class of a sample, the first one has priority; and the keys of a .json.
_CLASS_EXTENSIONS = (".cls", ".json")
_CLASS_KEYS = ("label", "cls", "class")
# Annotations may be long, but no class is.
_MAX_CLASS_BYTES = 10_000_000
_MAX_CLASS_LENGTH = 1_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# Number of first entries that show whether a tar is a shard.
_PEEKED = 64


class WebDataset(Source):
    """The images of shards: a tar, the tars below a folder, or those of a glob or of braces.

    A sample is a group of files in the same folder of a shard, with the same name up to the first
    dot. Its class is the text of its .cls, or the value of "label", "cls" or "class" in its .json:
    a text or a whole number, used as the class name as written. If files of one sample give several
    classes, each is that of the image with the same name up to the last dot. If no sample has a
    class, the folders in the shards give the classes, as in a tar.

    Keys are the names in the tar. With several shards, the name of the shard comes first (its path
    below the common folder, without .tar), so that keys are unique. The names of shards give the
    subsets, as those of folders do ("train-000000.tar", "val/000000.tar"), else the folders in the
    shards. A shard is open only during a read, so any number of shards can be read.
    """

    def __init__(self, path: Paths) -> None:
        super().__init__()
        given = given_paths(path, "the tars, or the folder that holds them")
        root, self._shards, prefixes = _find_shards(given)
        self.identity = "webdataset:" + ":".join(map(str, self._shards))
        one = len(self._shards) == 1
        self.name = self._shards[0].name if one else f"{len(self._shards)} shards in {root.name}"
        for place in filter(os.path.isdir, given):
            self.account_for_others(pathlib.Path(place).absolute(), set(self._shards))
        rows = []
        for number, (shard, prefix) in enumerate(zip(self._shards, prefixes, strict=True)):
            images, labels = self._list(shard, prefix)
            stamps = make_stamps(shard, images.values())
            for (name, member), stamp in zip(images.items(), stamps, strict=True):
                label = _find_class(name, labels)
                offset = member.offset_data
                rows.append((prefix + name, member.size, stamp, label, name, number, offset))
        rows.sort()
        columns = list(map(list, zip(*rows, strict=True))) or [[]] * 7
        keys, sizes, stamps, labels, names, numbers, offsets = columns
        self._numbers, self._offsets = np.array(numbers, np.int32), np.array(offsets, np.int64)
        if not any(labels):
            labels = classes_of(names) or labels
        subsets = None if read_layout(keys).subsets else read_layout(names).subsets
        self.entries = make_entries(keys, sizes, stamps, label=labels, subset=subsets)

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file. ValueError with the reason if it is unreadable."""
        shard = self._shards[self._numbers[row]]
        return read_at(shard, int(self._offsets[row]), self.entries["bytes"][row].as_py())

    def _list(
        self, shard: pathlib.Path, prefix: str
    ) -> tuple[dict[str, tarfile.TarInfo], dict[str, str]]:
        """Returns the images of a shard by name, and the classes of its samples."""
        images: dict[str, tarfile.TarInfo] = {}
        others: dict[str, tarfile.TarInfo] = {}
        for member in list_members(shard):
            name = tidy_packed(member.name)
            if not self.admits(name, prefix + name):
                others[name] = member
            elif reason := (
                why_refused(member.name, name in images, member.size) or why_unreadable(member)
            ):
                self.refuse(prefix + name, reason)
            else:
                images[name] = member
        return images, _read_classes(shard, others)


def is_shard(path: pathlib.Path) -> bool:
    """Whether a tar has samples with classes, by its first entries."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = itertools.islice(archive, _PEEKED)
            members = {tidy_packed(member.name): member for member in first}
        labels = _read_classes(path, members)
    except (tarfile.TarError, OSError, ValueError):
        return False
    return any(is_image(name) and _find_class(name, labels) for name in members)


def names_shards(path: object) -> bool:
    """Whether a glob, a path with braces or a list names tars. False for a single tar."""
    if isinstance(path, str | os.PathLike):
        text = os.path.expanduser(os.fspath(path))
        braces = len(expand_braces(text)) > 1 and not os.path.exists(text)
        return _is_tar(text) and (is_glob(text) or braces)
    return isinstance(path, Sequence) and bool(path) and all(map(_is_tar, map(os.fspath, path)))


def holds_shards(folder: pathlib.Path) -> bool:
    """Whether a folder has tars below it, and no images."""
    found = False
    for name in _walk(folder):
        if is_image(name):
            return False
        found = found or _is_tar(name)
    return found


def expand_braces(text: str) -> list[str]:
    """Expands braces, as a shell does.

    >>> expand_braces("{train,val}-{08..10}.tar")[2:4]
    ['train-10.tar', 'val-08.tar']
    """
    for match in _BRACES.finditer(text):
        choices = match[1].split(",")
        if numbers := _RANGE.fullmatch(match[1]):
            first, last = map(int, numbers.groups())
            choices = [f"{n:0{len(numbers[1])}d}" for n in range(first, last + 1)]
        if len(choices) > 1 or numbers:
            ends = text[: match.start()], text[match.end() :]
            return [name for choice in choices for name in expand_braces(choice.join(ends))]
    return [text]


def _find_shards(given: list[str]) -> tuple[pathlib.Path, list[pathlib.Path], list[str]]:
    """Returns the common folder, the shards, and the prefix of the keys of each shard."""
    found, roots = [], []
    for text in map(os.path.abspath, given):
        shards = _shards_of(text)
        if len(given) == 1 and shards == [text]:
            return pathlib.Path(text).parent, [pathlib.Path(text)], [""]
        literal = text if os.path.exists(text) else re.split(r"[*?\[{]", text, maxsplit=1)[0]
        roots.append(literal if os.path.isdir(text) else os.path.dirname(literal))
        found += shards
    root = os.path.commonpath(roots)
    found = sorted(set(found))
    below = (os.path.relpath(shard, root) for shard in found)
    below = (name[: -len(_SUFFIX)] if _is_tar(name) else name for name in below)
    return pathlib.Path(root), list(map(pathlib.Path, found)), [f"{name}/" for name in below]


def _shards_of(text: str) -> list[str]:
    if os.path.isdir(text):
        shards = [os.path.join(text, name) for name in _walk(pathlib.Path(text))]
        shards = list(filter(_is_tar, shards))
        if not shards:
            raise ValueError(f"{text} holds no .tar: for a folder of images use source='folder'")
        return shards
    if os.path.exists(text):
        return [text]
    names = expand_braces(text)
    found = [shard for name in names for shard in (glob.glob(name, recursive=True) or [name])]
    missing = [shard for shard in found if not os.path.exists(shard)]
    if missing and len(names) > 1:
        raise FileNotFoundError(
            f"{missing[0]} does not exist, nor do {len(missing) - 1} more of the {len(found)} "
            f"shards that {text} names: copy them there, or name those that there are"
        )
    existing(found[0])
    return found


def _is_tar(name: str) -> bool:
    return name.lower().endswith(_SUFFIX)


def _walk(folder: pathlib.Path) -> Iterator[str]:
    """Yields the relative paths of the files below a folder that are not hidden."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _sample_of(name: str) -> str:
    """Returns the name of an entry's sample."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _find_class(image: str, classes: dict[str, str]) -> str | None:
    """Returns the class of an image, or None."""
    return classes.get(image.rpartition(".")[0]) or classes.get(_sample_of(image))


def _read_classes(shard: pathlib.Path, members: dict[str, tarfile.TarInfo]) -> dict[str, str]:
    """Maps names without the extension to the class in that file, and samples to their only one."""
    labels: dict[str, str] = {}
    of_samples: dict[str, str] = {}
    for extension in reversed(_CLASS_EXTENSIONS):
        found: dict[str, str] = {}
        for name, member in members.items():
            is_class = member.isreg() and name.lower().endswith(extension)
            if is_class and member.size <= _MAX_CLASS_BYTES:
                with contextlib.suppress(ValueError):
                    data = read_at(shard, member.offset_data, member.size).decode("utf-8-sig")
                    label = _class_in(json.loads(data)) if extension == ".json" else data.strip()
                    if label and len(label) <= _MAX_CLASS_LENGTH:
                        found[name[: -len(extension)]] = label
        labels |= found
        of_samples |= _find_only(found)
    return of_samples | labels


def _find_only(classes: dict[str, str]) -> dict[str, str]:
    """Maps samples whose files agree to their class."""
    found: dict[str, set[str]] = {}
    for name, label in classes.items():
        found.setdefault(_sample_of(name), set()).add(label)
    return {sample: min(labels) for sample, labels in found.items() if len(labels) == 1}


def _class_in(found: object) -> str | None:
    """Returns the class in the contents of a .json, or None."""
    values = [found.get(key) for key in _CLASS_KEYS] if isinstance(found, dict) else []
    known = [v for v in values if isinstance(v, int | str) and not isinstance(v, bool)]
    return str(known[0]).strip() if known else None
