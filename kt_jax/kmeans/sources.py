"""Reads feature matrices from NumPy arrays, memory maps, .npy shards or a jax.Array."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from kt_jax.kmeans.arrays import as_array, check_matrix
from kt_jax.kmeans.shards import Shard, find_shards
from kt_jax.machine import memory

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
    if "" in features:
        raise ValueError("features are an empty path: give one, or '.' for the current folder")
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
