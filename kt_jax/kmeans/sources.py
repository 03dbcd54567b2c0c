"""Reads feature matrices from NumPy arrays, memory maps, .npy shards or a jax.Array."""

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
_RESIDENT_SHARE = 0.4  # largest share of an accelerator's memory for float32 rows


def fetch(array: Shaped[Array, "..."], mesh: Any) -> Shaped[np.ndarray, "..."]:
    """Returns the whole array on every host."""
    if not array.is_fully_addressable:  # other processes have parts of it
        array = _replicate(mesh)(array)
    return np.asarray(array)


@functools.lru_cache
def _replicate(mesh: Any) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))


def as_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Converts a value to an array by NumPy or DLPack: lists, pandas, pyarrow, torch on the CPU.

    Raises:
      ValueError: it cannot be converted. The message has its name and type.
    """
    if isinstance(value, np.ndarray | jax.Array):
        return value
    readers: list[Callable[[Any], np.ndarray | jax.Array]] = []
    if isinstance(value, list | tuple) and any(isinstance(x, np.ma.MaskedArray) for x in value):
        readers += [np.ma.array]  # keep the mask: masked values raise later
    elif isinstance(value, list | tuple) or hasattr(value, "__array__"):
        readers += [np.asarray]
    if hasattr(value, "__dlpack__"):  # JAX has types that NumPy lacks, such as bfloat16
        readers += [np.from_dlpack, jax.dlpack.from_dlpack]
    kind = type(value).__name__
    if not readers:
        raise ValueError(
            f"{name} must be an array of numbers, or convertible to one by NumPy; got a {kind}"
        )
    reasons = []
    for read in readers:
        try:
            array = read(value)
            # Rows are lists or arrays, as in pyarrow and pandas.
            listed = array.dtype == object and array.ndim == 1
            return np.array(array.tolist()) if listed else array
        except Exception as error:  # each library has its own: BufferError, ...
            reasons.append(f"{type(error).__name__}: {error}")
    raise ValueError(f"{name} is a {kind} that cannot be read as an array: {reasons[0]}")


def check_matrix(array: Any, name: str) -> None:
    """Checks that an array is a matrix of numbers.

    Raises:
      ValueError: it is not. The message has its name, and its shape or dtype.
    """
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be [rows, d] with rows, d >= 1; got shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must hold floats or integers; got {array.dtype}")
    if np.ma.is_masked(array):
        count = np.ma.count_masked(array)
        raise ValueError(f"{name} have {count} masked values: drop their rows, or fill them in")


def open_source(features: Any) -> "OnDevice | OnHost":
    """Opens features in any form that `fit` takes.

    Raises:
      ValueError: they are not a matrix of numbers.
      FileNotFoundError: a shard is absent.
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
    """Whether NumPy can read the array in place. JAX would compile for every number of rows."""
    devices = array.sharding.device_set
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


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
    shards = [path for path in names if path.suffix.lower() == ".npy"]
    if not shards:
        raise FileNotFoundError(f"{origin}: {directory} holds no .npy file")
    return sorted(shards, key=_by_number)


def _without_explicit_axes(array: jax.Array) -> jax.Array:
    """Returns the array on a mesh with automatic axes: the compiler chooses shardings."""
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
      ValueError: it is not a .npy file, or is truncated. The message names the file.
    """
    try:
        # Not np.load: it also opens .npz, and reports any other file as a possible pickle.
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(
            f"{path} is no whole .npy file of numbers ({error}): write one array with numpy.save"
        ) from None


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
class OnHost:
    """NumPy arrays, memory maps and files, concatenated by rows."""

    parts: tuple[np.ndarray | Shard, ...]
    names: tuple[str, ...]
    has_to_be_read = True

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the results of `place` and `take`."""
        kinds = {part.dtype for part in self.parts}
        # k-means uses float32: float64 and wide integers are converted when they are read.
        kept = len(kinds) == 1 and self.parts[0].dtype.name in _KEPT_TYPES
        return kinds.pop().newbyteorder("=") if kept else np.dtype(np.float32)

    def in_memory(self, mesh: Mesh) -> bool:
        """Whether the rows stay on the devices."""
        if mesh.devices.flat[0].platform == "cpu":
            return not any(isinstance(part, Shard) or _is_mapped(part) for part in self.parts)
        return fits(self.shape, mesh)

    def place(self, start: int, shape: tuple[int, int], sharding: NamedSharding) -> jax.Array:
        """Returns rows from `start` on as an array of `shape`, zeros beyond the end."""

        def local(index):
            first, last, _ = index[0].indices(shape[0])
            return self._read(start + first, start + last)

        return jax.make_array_from_callback(shape, sharding, local)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows start..stop, zeros beyond the end."""
        block = _aligned((stop - start, self.shape[1]), self.dtype)
        at = 0
        for part, first in self._firsts():
            begin, end = max(start, first), min(stop, first + len(part))
            if begin < end:
                with np.errstate(over="ignore"):  # the check of the values reports overflows
                    block[begin - start : end - start] = part[begin - first : end - first]
                at = end - start
        block[at:] = 0
        return block

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows with these numbers."""
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
        """Returns the place of a row, for messages, and its value in a column."""
        for (part, first), name in zip(self._firsts(), self.names, strict=True):
            if row < first + len(part):
                return f"{name} row {row - first}", part[row - first : row - first + 1][0, column]
        raise IndexError(row)


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """Rows of a jax.Array, sharded or not."""

    array: jax.Array
    has_to_be_read = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the results of `place` and `take`."""
        return self.array.dtype

    def in_memory(self, mesh: Mesh) -> bool:
        """Whether the rows stay on the devices."""
        return mesh.devices.flat[0].platform == "cpu" or fits(self.shape, mesh)

    def place(self, start: int, shape: tuple[int, int], sharding: NamedSharding) -> jax.Array:
        """Returns rows from `start` on as an array of `shape`, zeros beyond the end."""
        if self.array.is_fully_addressable:  # its devices may differ from the mesh's
            return jax.device_put(_cut(self.array, start, rows=shape[0]), sharding)
        cut = jax.jit(_cut, static_argnames="rows", out_shardings=sharding)
        return cut(self.array, start, rows=shape[0])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows with these numbers."""
        rows = self.array[jnp.asarray(numbers)]
        sharding = self.array.sharding
        return (
            fetch(rows, sharding.mesh) if isinstance(sharding, NamedSharding) else np.asarray(rows)
        )

    def locate(self, row: int, column: int) -> tuple[str, Any]:
        """Returns the place of a row, for messages, and its value in a column."""
        return f"features row {row}", self.take(np.array([row]))[0, column]


@functools.partial(jax.jit, static_argnames="rows")
def _cut(array: Shaped[Array, "n d"], start: Any, *, rows: int) -> Shaped[Array, "rows d"]:
    """Returns `rows` rows from `start` on, zeros beyond the end."""
    at = start + jnp.arange(rows)
    return array.at[at].get(mode="fill", fill_value=0)


def fits(shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether float32 rows of this shape fit on the devices."""
    # Use the limit, not the free memory: all processes must find the same result.
    limit = _RESIDENT_SHARE * memory.read(mesh.local_devices[0]).get("bytes_limit", 0)
    # A TPU keeps them in bfloat16 too, see `device.Prepared`.
    width = 6 if mesh.devices.flat[0].platform == "tpu" else 4
    return width * shape[0] * shape[1] / mesh.size <= limit


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Returns an array aligned to 64 bytes, which JAX on a CPU uses without a copy."""
    size = shape[0] * shape[1] * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)
