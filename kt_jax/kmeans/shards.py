"""Finds and reads the .npy files of a feature matrix."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans.arrays import check_matrix

_log = logging.getLogger(__name__)


def find_shards(origin: str, names: Sequence[str | Path]) -> list[Path]:
    """Returns the .npy files of the given files and directories, in row order.

    From a directory it takes features-IIIII-of-NNNNN.npy if there are any, else all .npy files,
    sorted by name with numbers as numbers: 2.npy before 10.npy. Given files keep their order.

    Raises:
      FileNotFoundError: there is no such file, or a directory has no .npy file.
      ValueError: shards are missing in a directory.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser().absolute()
        if not path.exists():
            raise FileNotFoundError(f"{origin}: there is no {path}")
        found += _list_shards(origin, path) if path.is_dir() else [path]
    by_number = sorted(found, key=_by_number)
    if found == sorted(found) != by_number:  # the order of a shell's glob
        first = next(at for at, path in enumerate(by_number) if found[at] != path)
        _log.warning(
            "%s: rows are in the order of the given files, %s before %s; give their directory to "
            "sort by number",
            *(origin, found[first].name, by_number[first].name),
        )
    return found


def _by_number(path: Path) -> tuple[list[str | int], str]:
    """Returns a sort key that puts 2 before 10, and 01 before 1."""
    name = str(path)
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)], name


def _list_shards(origin: str, directory: Path) -> list[Path]:
    shards = sorted(directory.glob("features-*-of-*.npy"), key=_by_number)
    if shards:
        wanted = shards[0].stem.rpartition("-of-")[2]
        if not wanted.isdigit() or int(wanted) != len(shards):
            raise ValueError(
                f"{origin}: {directory} holds {len(shards)} features-*-of-*.npy, but the "
                f"first is of {wanted}: wait until all are written"
            )
        return shards
    names = (path for path in directory.iterdir() if not path.name.startswith("."))
    shards = [path for path in names if path.suffix.lower() == ".npy" and path.is_file()]
    if not shards:
        raise FileNotFoundError(f"{origin}: {directory} holds no .npy file")
    return sorted(shards, key=_by_number)


def open_array(path: Path) -> np.ndarray:
    """Maps a .npy file into memory.

    Raises:
      ValueError: it is not a .npy file, or is truncated. The message names the file.
    """
    try:
        # Not np.load: it also opens .npz, and reports any other file as a possible pickle.
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(
            f"{path} is no whole .npy file of numbers ({error}): write one array with numpy.save"
        ) from None


@dataclass(frozen=True)
class Shard:
    """A .npy file that is open only during a read, so that thousands do not exhaust open files."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    order: Any  # NumPy's memory order, C or F
    offset: int  # size of the header in bytes
    stamp: tuple[int, int]  # size in bytes, modification time in ns

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Reads the header of the file. Errors are those of `open_array` and `check_matrix`."""
        stamp = _stamp(path)
        array: Any = open_array(path)
        check_matrix(array, str(path))
        order = "C" if array.flags.c_contiguous else "F"
        return cls(path, array.shape, array.dtype, order, array.offset, stamp)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if _stamp(self.path) != self.stamp:
            raise ValueError(
                f"{self.path} has changed since it was opened: cluster again once nothing writes "
                "to the features"
            )
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)[rows]


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
