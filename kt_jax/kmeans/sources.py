"""Where a feature matrix is: NumPy arrays, memory maps, .npy shards or a jax.Array."""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from kt_jax.machine import memory

_log = logging.getLogger(__name__)

_KEPT_TYPES = {"float16", "bfloat16", "float32", "int8", "uint8", "int16", "uint16"}
_RESIDENT_SHARE = 0.4  # of an accelerator's memory: what is kept is float32


def fetch(array: Shaped[Array, "..."], mesh: Any) -> Shaped[np.ndarray, "..."]:
    """The whole of an array, on every host."""
    if not array.is_fully_addressable:  # other processes hold a part of it
        array = _replicate(mesh)(array)
    return np.asarray(array)


@functools.lru_cache
def _replicate(mesh: Any) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))


def as_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Returns what NumPy or DLPack can read as an array: lists, pandas, pyarrow, torch on the CPU.

    Raises:
      ValueError: naming the value and what it is.
    """
    if isinstance(value, np.ndarray | jax.Array):
        return value
    readers: list[Callable[[Any], np.ndarray | jax.Array]] = []
    if isinstance(value, list | tuple) and any(isinstance(x, np.ma.MaskedArray) for x in value):
        readers += [np.ma.array]  # masked values are refused later, not taken for numbers
    elif isinstance(value, list | tuple) or hasattr(value, "__array__"):
        readers += [np.asarray]
    if hasattr(value, "__dlpack__"):  # JAX knows types that NumPy does not, such as bfloat16
        readers += [np.from_dlpack, jax.dlpack.from_dlpack]
    kind = type(value).__name__
    if not readers:
        raise ValueError(
            f"{name} must be an array of numbers, or what NumPy can make one of; got a {kind}"
        )
    reasons = []
    for read in readers:
        try:
            array = read(value)
            # Rows that are lists or arrays, as of pyarrow and pandas.
            listed = array.dtype == object and array.ndim == 1
            return np.array(array.tolist()) if listed else array
        except Exception as error:  # RuntimeError, BufferError, ...: every library has its own
            reasons.append(f"{type(error).__name__}: {error}")
    raise ValueError(f"{name} is a {kind} that cannot be read as an array: {reasons[0]}")


def check_matrix(array: Any, name: str) -> None:
    """Refuses what is no matrix of numbers.

    Raises:
      ValueError: naming the array and what it is.
    """
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be [rows, d] with rows, d >= 1; got shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must hold floats or integers; got {array.dtype}")
    if np.ma.is_masked(array):
        count = np.ma.count_masked(array)
        raise ValueError(f"{name} have {count} masked values: drop their rows, or fill them in")


def open_source(features: Any) -> "OnDevice | OnHost":
    """Opens what `fit` takes as features.

    Raises:
      ValueError: for what is no matrix of numbers; FileNotFoundError for absent shards.
    """
    if isinstance(features, str | Path):
        features = [features]
    listed = isinstance(features, list | tuple)
    if not (listed and features and all(isinstance(path, str | Path) for path in features)):
        array = as_array(features, "features")
        check_matrix(array, "features")
        if isinstance(array, jax.Array) and not _is_of_one_cpu(array):
            return OnDevice(_without_explicit_axes(array))
        return OnHost((np.asarray(array),), ("features",))
    paths = find_shards("features", features)
    parts = tuple(map(Shard.open, paths))
    for part in parts:
        if part.shape[1] != parts[0].shape[1]:
            raise ValueError(
                f"{part.path} has d = {part.shape[1]}, {paths[0]} has d = {parts[0].shape[1]}: "
                "all shards must be of one layer"
            )
    return OnHost(parts, tuple(map(str, paths)))


def _is_of_one_cpu(array: jax.Array) -> bool:
    """Whether NumPy sees the array in place; JAX would compile for every number of rows."""
    devices = array.sharding.device_set
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def find_shards(origin: str, names: Sequence[str | Path]) -> list[Path]:
    """The .npy files named, and those of the directories named, in the order of their rows.

    From a directory, features-IIIII-of-NNNNN.npy if there are any, else all .npy by name, numbers
    in names as numbers: 2.npy before 10.npy. Files that are named stay in their order.

    Raises:
      FileNotFoundError: where there is no file; ValueError: for a directory that lacks shards.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser().absolute()
        if not path.exists():
            raise FileNotFoundError(f"{origin}: there is no {path}")
        found += _list_shards(origin, path) if path.is_dir() else [path]
    by_number = sorted(found, key=_by_number)
    if found == sorted(found) != by_number:  # as a shell lists them
        first = next(at for at, path in enumerate(by_number) if found[at] != path)
        _log.warning(
            "%s: rows are in the order that the files are named in, %s before %s; name their "
            "directory to have numbers in order",
            *(origin, found[first].name, by_number[first].name),
        )
    return found


def _by_number(path: Path) -> tuple[list[str | int], str]:
    """Sorts 2 before 10, and 01 before 1."""
    name = str(path)
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)], name


def _list_shards(origin: str, directory: Path) -> list[Path]:
    shards = sorted(directory.glob("features-*-of-*.npy"), key=_by_number)
    if shards:
        wanted = shards[0].stem.rpartition("-of-")[2]
        if not wanted.isdigit() or int(wanted) != len(shards):
            raise ValueError(
                f"{origin}: {directory} holds {len(shards)} features-*-of-*.npy, of which the "
                f"first is of {wanted}: let what writes them finish first"
            )
        return shards
    names = (path for path in directory.iterdir() if not path.name.startswith("."))
    shards = [path for path in names if path.suffix.lower() == ".npy"]
    if not shards:
        raise FileNotFoundError(f"{origin}: {directory} holds no .npy file")
    return sorted(shards, key=_by_number)


def _without_explicit_axes(array: jax.Array) -> jax.Array:
    """Returns the same array on a mesh whose axes leave shardings to the compiler."""
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return array
    names = sharding.mesh.axis_names
    auto = Mesh(sharding.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    parts = [shard.data for shard in array.addressable_shards]
    sharding = NamedSharding(auto, sharding.spec)
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def open_array(path: Path) -> np.ndarray:
    """Maps a .npy file into memory.

    Raises:
      ValueError: for what is none, or is cut short, naming the file.
    """
    try:
        # Not np.load, which opens .npz as well, and of all else says that it may be a pickle.
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(
            f"{path} is no whole .npy file of numbers ({error}): write one array with numpy.save"
        ) from None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A .npy file that is open only while it is read: thousands need no more files at a time."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    order: Any  # as NumPy names it: C or F
    offset: int  # bytes before the rows
    stamp: tuple[int, int]  # bytes, and time of modification in ns

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Reads what the file says of itself; errors as of `open_array` and `check_matrix`."""
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


@dataclasses.dataclass(frozen=True)
class OnHost:
    """NumPy arrays, memory maps and files, one after another."""

    parts: tuple[np.ndarray | Shard, ...]
    names: tuple[str, ...]
    has_to_be_read = True

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of what `place` and `take` give."""
        kinds = {part.dtype for part in self.parts}
        # float64 and wide integers become float32 as they are read: k-means works in float32.
        kept = len(kinds) == 1 and self.parts[0].dtype.name in _KEPT_TYPES
        return kinds.pop().newbyteorder("=") if kept else np.dtype(np.float32)

    def in_memory(self, mesh: Mesh) -> bool:
        """Whether the rows may be kept on the devices."""
        if mesh.devices.flat[0].platform == "cpu":
            return not any(isinstance(part, Shard) or _is_mapped(part) for part in self.parts)
        return fits(self.shape, mesh)

    def place(self, start: int, shape: tuple[int, int], sharding: NamedSharding) -> jax.Array:
        """The rows from `start` on, zeros beyond the end."""

        def local(index):
            first, last, _ = index[0].indices(shape[0])
            return self._read(start + first, start + last)

        return jax.make_array_from_callback(shape, sharding, local)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop, zeros beyond the end."""
        block = _aligned((stop - start, self.shape[1]), self.dtype)
        at = 0
        for part, first in self._firsts():
            begin, end = max(start, first), min(stop, first + len(part))
            if begin < end:
                with np.errstate(over="ignore"):  # the check of the values names what overflows
                    block[begin - start : end - start] = part[begin - first : end - first]
                at = end - start
        block[at:] = 0
        return block

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers."""
        rows = np.zeros((len(numbers), self.shape[1]), self.dtype)
        for part, first in self._firsts():
            here = (numbers >= first) & (numbers < first + len(part))
            if not here.any():
                continue
            with np.errstate(over="ignore"):
                rows[here] = part[numbers[here] - first]
        return rows

    def _firsts(self) -> Iterator[tuple[np.ndarray | Shard, int]]:
        first = 0
        for part in self.parts:
            yield part, first
            first += len(part)

    def locate(self, row: int, column: int) -> tuple[str, Any]:
        """Where a row stands, for messages, and its value at a column."""
        for (part, first), name in zip(self._firsts(), self.names, strict=True):
            if row < first + len(part):
                return f"{name} row {row - first}", part[row - first : row - first + 1][0, column]
        raise IndexError(row)


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """A jax.Array, sharded or not."""

    array: jax.Array
    has_to_be_read = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Of what `place` and `take` give."""
        return self.array.dtype

    def in_memory(self, mesh: Mesh) -> bool:
        """Whether the rows may be kept on the devices."""
        return mesh.devices.flat[0].platform == "cpu" or fits(self.shape, mesh)

    def place(self, start: int, shape: tuple[int, int], sharding: NamedSharding) -> jax.Array:
        """The rows from `start` on, zeros beyond the end."""
        if self.array.is_fully_addressable:  # it may be on other devices than the mesh
            return jax.device_put(_cut(self.array, start, rows=shape[0]), sharding)
        cut = jax.jit(_cut, static_argnames="rows", out_shardings=sharding)
        return cut(self.array, start, rows=shape[0])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers."""
        rows = self.array[jnp.asarray(numbers)]
        sharding = self.array.sharding
        return (
            fetch(rows, sharding.mesh) if isinstance(sharding, NamedSharding) else np.asarray(rows)
        )

    def locate(self, row: int, column: int) -> tuple[str, Any]:
        """Where a row stands, for messages, and its value at a column."""
        return f"features row {row}", self.take(np.array([row]))[0, column]


@functools.partial(jax.jit, static_argnames="rows")
def _cut(array: Shaped[Array, "n d"], start: Any, *, rows: int) -> Shaped[Array, "rows d"]:
    """Returns `rows` rows from `start` on, zeros beyond the end."""
    at = start + jnp.arange(rows)
    return array.at[at].get(mode="fill", fill_value=0)


def fits(shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether float32 rows of this shape may be kept on the devices."""
    # Of the limit, not of what is free: several processes must find the same.
    limit = _RESIDENT_SHARE * memory.read(mesh.local_devices[0]).get("bytes_limit", 0)
    return 4 * shape[0] * shape[1] / mesh.size <= limit


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An array that JAX on a CPU takes over without copying it: it starts at 64 bytes."""
    size = shape[0] * shape[1] * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)
