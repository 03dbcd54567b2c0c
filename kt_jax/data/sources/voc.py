"""PASCAL VOC devkits: images that show objects of several classes, with boxes."""

import math
import os
import pathlib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kt_jax.data.sources import voc_lists
from kt_jax.data.sources.names import NOT_UTF8, find_file, is_safe, is_utf8, normalise, tidy
from kt_jax.data.sources.source import (
    PathLike,
    Source,
    existing,
    make_entries,
    read_file,
    stat_file,
    stat_image,
    to_choose,
)

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Annotations of VOC have a few thousand bytes.
_MAX_ANNOTATION_BYTES = 10_000_000

_BOXES = pa.schema(
    [
        ("row", pa.int64()),
        ("class", pa.int32()),
        *((corner, pa.float64()) for corner in _CORNERS),
        ("difficult", pa.bool_()),
        ("truncated", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class _Object:
    """One object of an annotation. The box is (xmin, ymin, xmax, ymax), as in the file."""

    name: str
    box: tuple[float, ...] | None
    difficult: bool
    truncated: bool


class Voc(Source):
    """One year of a devkit: the folders JPEGImages, Annotations and ImageSets/Main.

    The entries are the images in the lists of splits in ImageSets/Main, such as trainval.txt and
    test.txt, or without such lists, all files of JPEGImages. As with folders, the names of lists
    give the subsets (test, or else val). An image in a list for tests is never for training. Lists
    without remaining images are not used. Images in no list and files of other folders are ignored,
    and counted.

    `presence` is that of VOC's lists of a class: 1, 0 (only objects marked as difficult), -1. In
    `boxes`, `class` is an index into `class_names`: VOC's 20, then others, sorted. A set without
    annotations has no labels. If it has some, images without an annotation are refused.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__()
        self.root = _the_year(existing(path).absolute())
        self.identity, self.name = f"voc:{self.root}", self.root.name
        lists = voc_lists.read_lists(self.root)
        sizes: dict[str, tuple[int, int]] = {}
        for key in self._keys(lists):
            try:
                if not is_safe(key):
                    raise ValueError("an unsafe name: with '..' in it")
                sizes[key] = stat_image(find_file(self.root, key))
            except ValueError as error:
                self.refuse(key, str(error))
        objects = self._read_annotations(list(sizes))
        keys = list(sizes if objects is None else objects)
        subsets = voc_lists.subsets_of(lists, set(keys))
        if subsets is None:
            self.unsplit = voc_lists.why_unused(self.root)
        self.entries = make_entries(
            keys,
            [sizes[key][0] for key in keys],
            [sizes[key][1] for key in keys],
            subset=None if subsets is None else [subsets.get(key) for key in keys],
        )
        if objects is not None:
            self.class_names, self.presence, self.boxes = _tabulate(list(objects.values()))
        self.refused.sort(key=lambda excluded: excluded.key)

    def _keys(self, lists: dict[str, list[str]]) -> list[str]:
        there = self._list_images()
        self._count_others()
        if not lists:
            return sorted(there)
        listed = {key for keys in lists.values() for key in keys}
        self.ignored["in no list of ImageSets/Main"] += len(there.difference(listed))
        return sorted(listed)

    def _list_images(self) -> set[str]:
        """Returns the keys of the images below JPEGImages; counts or refuses other files."""
        keys = set()
        for folder, _, names in os.walk(self.root / "JPEGImages"):
            for name in names:
                key = tidy(os.path.relpath(os.path.join(folder, name), self.root))
                if not self.admits(key, key):
                    continue
                if key in keys:
                    self.refuse(key, "a second file of the same name")
                elif not is_utf8(key):
                    self.refuse(key, NOT_UTF8)
                else:
                    keys.add(key)
        return keys

    def _count_others(self) -> None:
        """Counts the files of annotations by folder, and refuses images in these folders."""
        for entry in os.scandir(self.root):
            if not entry.is_dir():
                if self.admits(entry.name, entry.name):
                    self.refuse(entry.name, "not in JPEGImages")
            elif entry.name != "JPEGImages":
                self.ignored[entry.name] += sum(len(names) for *_, names in os.walk(entry.path))

    def _read_annotations(self, keys: list[str]) -> dict[str, list[_Object]] | None:
        """Returns the objects of every image with a valid annotation; None without annotations."""
        names = {key: os.path.splitext(key.removeprefix("JPEGImages/"))[0] + ".xml" for key in keys}
        folder = self.root / "Annotations"
        present = set(map(normalise, os.listdir(folder))) if folder.is_dir() else set()
        if present.isdisjoint(names.values()):
            return None
        objects = {}
        for key, name in names.items():
            try:
                objects[key] = _read_annotation(find_file(folder, name))
            except ValueError as error:
                self.refuse(key, f"Annotations/{name}: {error}")
        return objects


def find_years(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder itself if it is one year of a devkit, else the years inside it."""
    if _is_year(path):
        return [path]
    return sorted(each.parent for each in path.glob("*/JPEGImages") if _is_year(each.parent))


def _is_year(path: pathlib.Path) -> bool:
    says = (path / "Annotations").is_dir() or (path / "ImageSets").is_dir()
    return says and (path / "JPEGImages").is_dir()


def _the_year(path: pathlib.Path) -> pathlib.Path:
    years = find_years(path)
    if len(years) > 1:
        raise ValueError(
            f"{path} holds {', '.join(year.name for year in years)}: give the path of one of them"
        )
    if not years:
        raise ValueError(
            f"{path} is no VOC devkit: neither it nor a folder in it holds JPEGImages next to "
            f"Annotations or ImageSets; plain folders of images are opened by {to_choose('folder')}"
        )
    return years[0]


def _read_annotation(path: str) -> list[_Object]:
    """Returns the objects of an annotation (XML). ValueError with the reason if not valid."""
    size, _ = stat_file(path)
    if size > _MAX_ANNOTATION_BYTES:
        raise ValueError(f"{size:,} bytes are more than {_MAX_ANNOTATION_BYTES:,}")
    data = read_file(path)
    # A document type may declare entities that expand to any size. UTF-16 has zero bytes.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise ValueError("it declares a document type (<!DOCTYPE>), which is not read: delete that")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"broken XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"no annotation: its root is <{root.tag}>")
    # Only children of the root: a <part> inside an object is not an object.
    return [_parse_object(element) for element in root.findall("object")]


def _parse_object(element: ElementTree.Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no <name>")
    box = element.find("bndbox")
    return _Object(
        name,
        None if box is None else tuple(_number(box, corner) for corner in _CORNERS),
        _number(element, "difficult", missing="0") != 0,
        _number(element, "truncated", missing="0") != 0,
    )


def _number(parent: ElementTree.Element, tag: str, missing: str = "") -> float:
    text = (parent.findtext(tag) or "").strip() or missing
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{tag}> of an object is {text!r}, but must be a number")
    return value


def _tabulate(objects: list[list[_Object]]) -> tuple[tuple[str, ...], np.ndarray, pa.Table]:
    """Returns the class names, presence and boxes for the objects of every row."""
    named = {each.name for found in objects for each in found}
    class_names = (*CLASSES, *sorted(named.difference(CLASSES)))
    ids = {name: number for number, name in enumerate(class_names)}
    presence = np.full((len(objects), len(class_names)), -1, np.int8)
    boxes = []
    for row, found in enumerate(objects):
        for each in found:
            number = ids[each.name]
            presence[row, number] = max(presence[row, number], 0 if each.difficult else 1)
            if each.box is not None:
                boxes.append((row, number, *each.box, each.difficult, each.truncated))
    columns = zip(*boxes, strict=True) if boxes else [()] * len(_BOXES)
    return class_names, presence, pa.table([list(column) for column in columns], schema=_BOXES)
