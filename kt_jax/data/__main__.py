"""Checks sets of images before training, and re-encodes them for faster reading.

    python -m kt_jax.data scan photos
    python -m kt_jax.data scan photos/train --against photos/test
    python -m kt_jax.data prepare photos --out=photos-256 --size=256 --quality=90

A PATH is a folder, a zip, a tar, a table of paths, one year of a VOC devkit, a Hugging Face data
set, ArrayRecord files, the shards of a WebDataset, or a glob. Several paths are one set: the root
is their common folder (for a glob, the folder before its first wildcard). For a TFDS data set, give
--source=tfds --option name=NAME --option split=train.
"""

import argparse
import glob
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kt_jax.data.arguments import add_images, read_options
from kt_jax.data.duplicates import find_duplicates, find_leaks
from kt_jax.data.image_set import Hashes
from kt_jax.data.layout import read_layout, why_unsplit
from kt_jax.data.opening import make_hashes
from kt_jax.data.prepare import prepare
from kt_jax.data.scan import MANIFEST, labels_of, scan, write_manifest
from kt_jax.data.sources import (
    Excluded,
    Source,
    describe_excluded,
    describe_ignored,
    detect,
    make_source,
)
from kt_jax.data.sources.folder import Folder
from kt_jax.data.sources.listing import Listing, Note, make_scanned, read_note, read_scanned
from kt_jax.runs import errors, progress

# pyarrow.compute makes its functions at run time, so type checkers do not see them.
pc: Any = pyarrow.compute

_SUFFIX = ".manifest.parquet"
_SHOWN = 10  # limit on files, classes and groups of duplicates
_SHOWN_OF_GROUP = 4
_SCAN = """Reads every image once, and writes a manifest: one row for each image, with its size,
mode, hashes and class, or the reason why it is excluded. The manifest opens the set without listing
or reading files. The same command again reads only files that are new or have changed. Prints a
summary of the set, and its duplicates. Every file is counted as readable, excluded (one line for
each reason) or ignored (a short list of non-images, see docs/your_images.md)."""
_PREPARE = """Writes every image in a smaller size into DIR, as JPEG or uncompressed. DIR opens with
the same keys, classes and subsets (source="array_record"). Unreadable images are skipped, and
listed in excluded.parquet. After a kill, the same command resumes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for a user's error, which is one message."""
    given = list(sys.argv[1:] if argv is None else argv)
    own, runner_options = given, []
    if "--" in given:
        own, runner_options = given[: given.index("--")], given[given.index("--") + 1 :]
    arguments = _make_parser().parse_args(own)
    run = _scan if arguments.command == "scan" else _prepare
    return errors.call("kt_jax.data", lambda: run(arguments, runner_options))


def _make_parser() -> argparse.ArgumentParser:
    shape: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(prog="python -m kt_jax.data", description=__doc__, **shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="scan | prepare")
    both = argparse.ArgumentParser(add_help=False)
    add_images(both)
    add = commands.add_parser("scan", parents=[both], description=_SCAN, **shape).add_argument
    add("--out", metavar="FILE.parquet", help="the manifest (./<name of PATH>.manifest.parquet)")
    add("--against", nargs="+", action="extend", default=[], metavar="PATH",
        help="other sets, or their manifests, to find images that are in both")  # fmt: skip
    preparing = commands.add_parser("prepare", parents=[both], description=_PREPARE, **shape)
    add = preparing.add_argument
    add("--out", required=True, metavar="DIR", help="directory for the files")
    add("--size", type=int, default=256, help="short side in pixels; images are not enlarged (256)")
    coding = preparing.add_mutually_exclusive_group()
    coding.add_argument("--quality", type=int, default=90, help="JPEG quality, 1 to 100 (90)")
    coding.add_argument(
        "--uncompressed",
        action="store_const",
        dest="quality",
        const=None,
        help="store pixels (PPM): 3 bytes each, no decoding; best at the --size that is used",
    )
    add("--shards", type=int, help="number of files (64, or fewer for few images)")
    add("--runner", help="Apache Beam runner; its workers need PATH and DIR; its options follow --")
    return parser


def _scan(arguments: argparse.Namespace, runner_options: Sequence[str]) -> None:
    if runner_options:
        raise ValueError(f"-- {' '.join(runner_options)}: a scan takes no such options")
    options = read_options(arguments)
    opened = make_source(arguments.source, **options)
    # Before the scan, which may take hours, so that a mistyped path fails at once.
    others = [
        make_source("auto", path=os.path.abspath(os.path.expanduser(path)))
        for path in arguments.against
    ]
    out = arguments.out or _default_out(options.get("path", []), opened)
    out = pathlib.Path(out).expanduser().absolute()
    note = _note(arguments.source, options, opened)
    if out.suffix != ".parquet":
        raise ValueError(f"--out={arguments.out}: the name of a manifest ends in .parquet")
    known = _read_known(out, note)
    if known is not None and type(opened).read_labelled is Source.read_labelled:
        # Classes do not come from reading the images: use the present ones.
        nulls = pa.nulls(len(known), pa.string())
        known = known.set_column(known.schema.get_field_index("label"), "label", nulls)
    # Next to the manifest, so that an interrupted scan resumes.
    partial = out.with_name(f".{out.name}.partial.parquet")
    table = scan(opened, partial, known)
    at = table.schema.get_field_index("label")
    table = table.set_column(at, MANIFEST.field("label"), labels_of(opened, table))
    write_manifest(make_scanned(table, opened, note.source, note.options, note.asked), out)
    partial.unlink(missing_ok=True)
    _describe(opened, table)
    print(f"manifest    {out}")
    keys, hashes = _readable(opened, table)
    found = find_duplicates(hashes)
    for kind, sign, groups in (("equal", "=", found.exact), ("near", "~", found.near)):
        print(f"{kind:12}{len(groups):,} groups of {kind} images")
        _show([f" {sign} ".join(_some([keys[row] for row in group])) for group in groups])
    for other in others:
        _compare(opened.name, keys, hashes, other)


def _prepare(arguments: argparse.Namespace, runner_options: Sequence[str]) -> None:
    if runner_options and arguments.runner is None:
        raise ValueError(f"-- {' '.join(runner_options)}: these are options of a --runner")
    prepare(
        arguments.source,
        arguments.out,
        size=arguments.size,
        quality=arguments.quality,
        shards=arguments.shards,
        runner=arguments.runner,
        runner_options=runner_options,
        **read_options(arguments),
    )


def _note(source: str, options: dict[str, Any], opened: Source) -> Note:
    """Returns the note for the manifest. A scan of a manifest notes the source of that one."""
    if opened.manifest is None and isinstance(opened, Folder | Listing):
        return Note("folder", {"path": str(opened.root)}, options)
    source = detect(options["path"]) if source == "auto" else source
    note = read_note(options["path"]) if source == "manifest" else None
    return note or Note(source, options, options)


def _default_out(path: str | list[str], opened: Source) -> str:
    if isinstance(path, str) and not (glob.has_magic(path) and not os.path.exists(path)):
        name = os.path.basename(path)
    else:
        name = opened.root.name if isinstance(opened, Folder) else opened.name.replace("/", "-")
    return f"{name.removesuffix(_SUFFIX) or 'images'}{_SUFFIX}"


def _read_known(out: pathlib.Path, wanted: Note) -> pa.Table | None:
    """Returns the entries of an earlier scan. ValueError if `out` is anything else."""
    if not out.exists():
        return None
    try:
        note = read_note(out)
    except ValueError:
        note = None
    if note is None:
        raise ValueError(f"--out: {out} exists and is no manifest of a scan: choose another --out")
    if note != wanted:
        there, asked = (_describe_options(each.asked) for each in (note, wanted))
        if there == asked:
            there, asked = (f"{there} (source {each.source!r})" for each in (note, wanted))
        raise ValueError(
            f"--out: {out} is the manifest of {there}, not of {asked}: choose another --out, or "
            "delete it"
        )
    return read_scanned(out)[0]


def _describe_options(options: dict[str, Any]) -> str:
    texts = {
        name: ", ".join(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    return ", ".join(
        f"{text}" if name == "path" else f"{name}={text}" for name, text in texts.items()
    )


def _readable(opened: Source, table: pa.Table) -> tuple[list[str], Hashes]:
    rows = np.flatnonzero(pc.equal(table["reason"], "").to_numpy())
    return table["key"].take(rows).to_pylist(), make_hashes(opened, table, rows)


def _describe(opened: Source, table: pa.Table) -> None:
    kept = table.filter(pc.equal(table["reason"], ""))
    bad = table.filter(pc.not_equal(table["reason"], "")).select(["key", "reason"]).to_pylist()
    excluded = [*opened.refused, *(Excluded(**row) for row in bad)]
    excluded.sort(key=lambda each: each.key)
    print(f"images      {len(table):,}, {pc.sum(table['bytes']).as_py():,} bytes: {opened.name}")
    print(f"readable    {len(kept):,}")
    print(f"excluded    {len(excluded):,}")
    for line in describe_excluded(excluded):
        print(f"  {line}")
    print(f"ignored     {describe_ignored(opened.ignored)}")
    if len(kept):
        sides = {name: pc.min_max(kept[name]).as_py() for name in ("width", "height")}
        ranges = [f"{name} {side['min']:,} to {side['max']:,}" for name, side in sides.items()]
        print(f"sizes       {', '.join(ranges)} pixels")
        print(f"modes       {', '.join(f'{n:,} {mode}' for mode, n in _count(kept['mode']))}")
    keys = opened.entries["key"].to_pylist()
    folders, subsets = read_layout(keys), opened.given_subsets
    subsets = folders.subsets if subsets is None else subsets
    if subsets is None:
        print("subsets     none: a hash of each name chooses some for tests")
        found = why_unsplit(keys, opened.name, doubt=folders.doubt, lists=opened.lists)
        unsplit = opened.unsplit or found
        _show([unsplit] if unsplit else [])
    else:
        what = np.array(subsets)[pc.equal(table["reason"], "").to_numpy()]
        train, test = (what == "train").sum(), (what == "test").sum()
        neither = len(what) - train - test
        print(f"subsets     {train:,} for training, {test:,} for tests, {neither:,} for neither")
    classes = _count(kept["label"].drop_null())
    if opened.presence is not None:
        print(f"classes     {len(opened.class_names)}, several may be in an image")
    elif classes:
        some = _some([f"{name} ({n:,})" for name, n in classes])
        none = f"; {nulls:,} images have none" if (nulls := kept["label"].null_count) else ""
        print(f"classes     {len(classes):,}: {', '.join(some)}{none}")
    else:
        print("classes     none")


def _compare(name: str, keys: list[str], hashes: Hashes, opened: Source) -> None:
    """Prints which images of the scanned set `name` are also in another set."""
    other_keys, other_hashes = _readable(opened, scan(opened))
    found = find_leaks(hashes, other_hashes)
    print(
        f"against     {opened.name}: {len(found.exact):,} images of {name} have an equal there, "
        f"{len(found.near):,} a near one (leakage: if one is for training and the other for "
        "evaluation)"
    )
    for sign, pairs in (("=", found.exact), ("~", found.near)):
        _show([f"{keys[row]} {sign} {other_keys[other_row]}" for row, other_row in pairs])


def _count(values: pa.ChunkedArray) -> list[tuple[str, int]]:
    counts = [tuple(each.values()) for each in pc.value_counts(values).to_pylist()]
    return sorted(counts, key=lambda each: (-each[1], each[0]))


def _some(texts: list[str]) -> list[str]:
    more = len(texts) - _SHOWN_OF_GROUP
    return texts if more < 2 else [*texts[:_SHOWN_OF_GROUP], f"and {more:,} more"]


def _show(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN:,} more")


if __name__ == "__main__":
    progress.log_to_console()
    sys.exit(main())
