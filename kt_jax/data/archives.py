"""Folders and zips of image files: listing, reading and verifying them."""

import hashlib
import logging
import multiprocessing.pool
import os
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from kt_jax.data.decode import decode_image

_log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Small enough that a JPEG is decoded at 1/8 of its size, while every byte of it is still read.
SCAN_SIZE = 16

TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class File:
    """An image file: its name below the root, and what tells that it changed (0: not known)."""

    name: str
    bytes: int
    crc: int = 0
    mtime_ns: int = 0


# What `list_files` returns beside the files: (name, why it is refused).
Refused = list[tuple[str, str]]


class Folder:
    """The image files below a folder."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _existing(path)
        if not self.path.is_dir():
            raise ValueError(
                f"{self.path} is a file, not a folder: for a zip use source='zip', otherwise give "
                "the folder that holds the images"
            )

    def list_files(self) -> tuple[list[File], Refused]:
        """Returns the files in the order of their names, and what was refused."""
        files, refused = [], []
        for folder, subfolders, names in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            # A link to a folder is followed, unless it leads back to where it lies.
            subfolders[:] = [
                sub
                for sub in subfolders
                if not f"{real}/".startswith(os.path.realpath(os.path.join(folder, sub)) + "/")
            ]
            for name in names:
                path = pathlib.Path(folder, name)
                key = path.relative_to(self.path).as_posix()
                if not _is_image(key):
                    continue
                if not _is_utf8(key):
                    readable = key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                    refused.append((readable, "the name is not UTF-8"))
                elif not path.exists():
                    refused.append((key, "a link to a file that does not exist"))
                else:
                    stat = path.stat()
                    files.append(File(key, stat.st_size, mtime_ns=stat.st_mtime_ns))
        return sorted(files, key=lambda file: file.name), sorted(refused)

    def read(self, name: str) -> bytes:
        """Returns the bytes of a listed file; ValueError with the reason if it is unreadable."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{type(error).__name__}: {error.strerror}") from error


class Zip:
    """The image files in a zip, read in place.

    If all of them lie in one top-level folder, that folder is the root. Every thread of every
    process opens the file for itself: threads would wait for each other on one handle, and forked
    processes would move its position under each other.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = _existing(path)
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder, not a zip: use source='folder'")
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.path} is not a zip, or was not copied to its end: check it with "
                f"`unzip -t {self.path}`, or unpack it and use source='folder'"
            )
        self._handles = threading.local()
        entries = [e.filename for e in self._open().infolist() if _is_safe_image(e)]
        tops = {entry.split("/")[0] if "/" in entry else "" for entry in entries}
        self._prefix = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_handles"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _handles=threading.local())

    def list_files(self) -> tuple[list[File], Refused]:
        """Returns the files in the order of their names, and what was refused."""
        files, refused = {}, []
        for entry in self._open().infolist():
            if entry.is_dir() or not _is_image(entry.filename):
                continue
            name = entry.filename.removeprefix(self._prefix)
            if not _is_safe(entry.filename):
                refused.append((entry.filename, "an unsafe name: absolute, or with '..' in it"))
            elif entry.flag_bits & 1:
                refused.append((name, "encrypted"))
            elif name in files:
                refused.append((name, "a second entry of the same name"))
            else:
                files[name] = File(name, entry.file_size, crc=entry.CRC)
        return sorted(files.values(), key=lambda file: file.name), sorted(refused)

    def read(self, name: str) -> bytes:
        """Returns the bytes of a listed file; ValueError with the reason if it is unreadable."""
        try:
            return self._open().read(self._prefix + name)
        except (OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _open(self) -> zipfile.ZipFile:
        # A fork inherits the handle together with its position in the file, hence the process id.
        if getattr(self._handles, "pid", None) != os.getpid():
            self._handles.zip = zipfile.ZipFile(self.path)
            self._handles.pid = os.getpid()
        return self._handles.zip


def _existing(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist (looked from {pathlib.Path.cwd()}): check the option 'path'; "
            "it must be on a disk of this machine"
        )
    return path


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") and part != ".." for part in name.split("/"))
    return name.lower().endswith(EXTENSIONS) and not hidden and "__MACOSX" not in name.split("/")


def _is_safe(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and name[1:2] != ":" and ".." not in parts


def _is_safe_image(entry: zipfile.ZipInfo) -> bool:
    return not entry.is_dir() and _is_image(entry.filename) and _is_safe(entry.filename)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def scan(archive: Folder | Zip, files: list[File]) -> pa.Table:
    """Decodes every file once: its CRC-32, and `reason`, empty for the readable ones."""

    def check(file) -> tuple[int, str]:
        crc = 0
        try:
            data = archive.read(file.name)
            crc = zlib.crc32(data)
            decode_image(data, SCAN_SIZE)
        except ValueError as error:
            return crc, str(error)
        return crc, ""

    checked = []
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        for result in pool.imap(check, files, chunksize=16):
            checked.append(result)
            if len(checked) % 10_000 == 0:
                _log.info("verified %d of %d of %s", len(checked), len(files), archive.path)
    keys, sizes = [file.name for file in files], [file.bytes for file in files]
    crcs = pa.array([crc for crc, _ in checked], pa.int64())
    reasons = pa.array([reason for _, reason in checked], pa.string())
    return pa.table({"key": keys, "bytes": sizes, "crc": crcs, "reason": reasons})


def cached(
    cache_dir: str | os.PathLike | None, identity: bytes, make: Callable[[], pa.Table]
) -> pa.Table:
    """Returns what `make` returned when it was last called with this identity."""
    if cache_dir is None:
        return make()
    path = pathlib.Path(cache_dir) / f"{hashlib.sha256(identity).hexdigest()}.parquet"
    if path.exists():
        return pq.read_table(path)
    table = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a killed run, or two at once, never leave half a file.
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, partial)
    os.replace(partial, path)
    return table


def layout(names: list[str], subset: str, holdout: float) -> tuple[set[str], dict[str, str]]:
    """Returns the names of the subset, and name -> class (empty where there are no classes).

    Folders train and test (or val) choose the subset where both exist; otherwise a hash of each
    name does. The class is the first folder below that.
    """
    roots = {name.split("/")[0] for name in names if "/" in name}
    test_root = next((root for root in TEST_FOLDERS if root in roots), None)
    if "train" in roots and test_root:
        root = {"all": "", "train": "train/", "test": f"{test_root}/"}[subset]
        chosen = {name for name in names if name.startswith(root)}
        # Classes are named over train and test together, so that both subsets agree on the ids.
        both = ("train/", f"{test_root}/")
        labelled = [name for name in names if subset == "all" or name.startswith(both)]
        roots = ("train", *TEST_FOLDERS)
        paths = [name.split("/")[1:] if name.split("/")[0] in roots else [] for name in labelled]
    else:
        chosen = {name for name in names if subset in ("all", _subset_of(name, holdout))}
        labelled, paths = names, [name.split("/") for name in names]
    classes = {n: path[0] for n, path in zip(labelled, paths, strict=True) if len(path) > 1}
    flat = [name for name in labelled if name not in classes]
    if classes and flat:
        _log.warning(
            "%d of %d images lie in no class folder, such as %s: the set has no labels",
            *(len(flat), len(labelled), flat[0]),
        )
    if flat or len(set(classes.values())) < 2:
        classes = {}
    return chosen, classes


def _subset_of(name: str, holdout: float) -> str:
    # A function of the name alone: adding files moves no other file between train and test.
    draw = int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13
    return "test" if draw < holdout else "train"
