"""Formats for labels of images, for other programs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from kt_jax import data
from kt_jax.data.sources import make_source
from kt_jax.runs import files
from kt_jax.stages.clusters import MAJORITY

# Type checkers do not see the functions of this module, which are made at run time.
pc: Any = pyarrow.compute

Writer = Callable[[Path, Path, dict[str, Any]], None]
"""A function of the directory of the labels, the directory of the clusters, and the source of the
images."""


def find_writer(out: Path, form: str) -> Writer:
    """The function that writes `out`, chosen by the suffix of a file or the form of a directory.

    Raises:
      ValueError: an unknown form or suffix, or a form for a file.
    """
    if out.suffix in _FILES:
        if form:
            raise ValueError(f"--form={form} is for directories, but --out={out} is a file")
        return lambda labels, clusters, source: _FILES[out.suffix](
            out, add_classes(_read(labels), clusters)
        )
    if out.suffix and not form:
        raise ValueError(
            f"--out={out}: give a file that ends in {' or '.join(_FILES)}, or a directory"
        )
    form = form or "artifact"
    if form not in FORMS:
        raise ValueError(f"--form={form}: choose from {', '.join(FORMS)}")
    return lambda labels, clusters, source: FORMS[form](out, labels, clusters, source)


def add_classes(labels: pa.Table, clusters: Path) -> pa.Table:
    """Adds the columns class and share (see `opened.Clusters.assign`), if they are known."""
    path = clusters / MAJORITY
    if not path.exists():
        return labels
    known = pyarrow.parquet.read_table(path, columns=["cluster", "class", "share"])
    rows = pc.index_in(labels["cluster"], value_set=known["cluster"])
    for name in ("class", "share"):
        labels = labels.append_column(name, known[name].take(rows))
    return labels


def _read(labels: Path) -> pa.Table:
    return pyarrow.parquet.read_table(labels / "labels.parquet").drop_columns("index")


def _write_parquet(out: Path, table: pa.Table) -> None:
    files.write_file(out, lambda partial: pyarrow.parquet.write_table(table, partial))


def _write_csv(out: Path, table: pa.Table) -> None:
    files.write_file(out, lambda partial: pyarrow.csv.write_csv(table, partial))


def _take(out: Path, labels: Path, clusters: Path, source: dict[str, Any]) -> None:
    """Moves the artifact itself."""
    del clusters, source
    os.replace(labels, out)


def _link(out: Path, labels: Path, clusters: Path, source: dict[str, Any]) -> None:
    """Writes a folder of links to the images for each cluster."""
    del clusters
    table = _read(labels)
    made = _begin(labels, "links")
    width = len(str(pc.max(table["cluster"]).as_py()))
    clusters_of = table["cluster"].to_pylist()
    for name, path, cluster in zip(*_name_files(source, table, labels), clusters_of, strict=True):
        _make_link(made / f"cluster-{cluster:0{width}d}" / name, path)
    os.replace(made, out)


def _write_huggingface(out: Path, labels: Path, clusters: Path, source: dict[str, Any]) -> None:
    """Writes a folder for Hugging Face's `imagefolder`: links to the images, and metadata.csv."""
    table = add_classes(_read(labels), clusters)
    made = _begin(labels, "huggingface")
    names, paths = _name_files(source, table, labels)
    for name, path in zip(names, paths, strict=True):
        _make_link(made / name, path)
    table = table.add_column(0, "file_name", pa.array(names)).drop_columns("key")
    _write_csv(made / "metadata.csv", table)
    os.replace(made, out)


def _write_fiftyone(out: Path, labels: Path, clusters: Path, source: dict[str, Any]) -> None:
    """Writes a FiftyOneImageClassificationDataset: data.json (paths of images) and labels.json."""
    del clusters
    table = _read(labels)
    made = _begin(labels, "fiftyone")
    names = [f"{row:09d}" for row in range(len(table))]
    numbers = table["cluster"].to_pylist()
    classes = [f"cluster {number}" for number in range(max(numbers) + 1)]
    _, paths = _name_files(source, table, labels)
    files.write_json(made / "data.json", dict(zip(names, paths, strict=True)))
    targets = dict(zip(names, numbers, strict=True))
    files.write_json(made / "labels.json", {"classes": classes, "labels": targets})
    os.replace(made, out)


FORMS: dict[str, Callable[[Path, Path, Path, dict[str, Any]], None]] = {
    "artifact": _take,
    "links": _link,
    "huggingface": _write_huggingface,
    "fiftyone": _write_fiftyone,
}
"""Functions of `out`, the directory of the labels, that of the clusters, and the source of the
images, by the name of the form."""

_FILES: dict[str, Callable[[Path, pa.Table], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}


OF_FILES = ("links", "huggingface", "fiftyone")
"""The forms that need a file for each image."""

_NO_FILES = (
    "the images of {} are not single files, so there is nothing to link to: give --out a file "
    f"({' or '.join(_FILES)}), or unpack them"
)


def check_files(source: dict[str, Any]) -> None:
    """Checks that each image is a file, before the images are labelled. Only lists them.

    Raises:
      ValueError: the images are in an archive or a similar container.
    """
    options = {x: y for x, y in source.items() if x not in ("source", "subset", "holdout")}
    listed = make_source(source["source"], **options)
    if getattr(listed, "root", None) is None:
        raise ValueError(_NO_FILES.format(listed.name))


def _begin(labels: Path, form: str) -> Path:
    """Makes an empty directory for the output, and deletes the rest of a killed call."""
    made = labels.with_name(form)
    files.delete(made)
    made.mkdir()
    return made


def _name_files(
    source: dict[str, Any], table: pa.Table, labels: Path
) -> tuple[list[str], list[str]]:
    """A unique file name for each image, and the path of its file.

    Raises:
      ValueError: the images are not single files, as in an archive.
    """
    # Reuses the scan that labelling made.
    images = data.open_images(**source, cache_dir=labels.parent / "images")
    if images.root is None:
        raise ValueError(_NO_FILES.format(images.origin))
    names: dict[str, str] = {}
    for key in table["key"].to_pylist():
        name = key.strip("/").replace("/", "__")
        while name in names:  # such as a/b and a__b
            name = f"_{name}"
        names[name] = data.find_file(images.root, key)
    return list(names), list(names.values())


def _make_link(link: Path, path: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)
