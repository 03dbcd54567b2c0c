"""The rows of a feature matrix as equal blocks over the mesh, resident or streamed.

Resident and streamed rows give the same blocks to the same programs, so the results are equal to
the bit. A block is read as a whole. Every device has an equal part of it: whole chunks of rows. The
last block is padded with zero rows.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int, Shaped

from kt_jax.kmeans import device, sources
from kt_jax.kmeans.device import Frame, Prepared, Setting

_T = TypeVar("_T")
# Float32 bytes of a block on a device: small for its memory, large compared with cluster sums.
_BLOCK_BYTES = {"cpu": 64 * 2**20, "gpu": 512 * 2**20, "tpu": 512 * 2**20}
# Bytes of a chunk's distances. Measured on a CPU, where they should stay in the cache.
_CHUNK_BYTES = {"cpu": 4 * 2**20, "gpu": 64 * 2**20, "tpu": 64 * 2**20}
# Bytes of reduced float32 rows that a process keeps on a CPU: after reading rows again, it would
# have to reduce them again.
_REDUCED_BYTES = 2 * 2**30
# Chunks have a multiple of so many rows. A TPU stores rows in tiles: with another number it would
# copy the block in every program.
_CHUNK_MULTIPLE = {"cpu": 1, "gpu": 1, "tpu": 128}
_FEWEST_ROWS = 64  # of a block, with any_size
_SMALL_WORK = 1e7  # n d k of a small matrix: an iteration takes less than a millisecond


class Rows:
    """The rows of a feature matrix [n, d], in blocks on the devices of a mesh."""

    def __init__(
        self,
        features: Any,
        k: int,
        *,
        mesh: Mesh | None,
        chunk_rows: int | None,
        precision: str = "float32",
        any_size: bool = False,
        **options: Any,
    ) -> None:
        """Opens the matrix for k centroids.

        Args:
          features: as in `fit`.
          k: number of centroids, which decides how many rows a chunk has.
          mesh: as in `fit`.
          chunk_rows: as in `fit`.
          precision: as in `fit`.
          any_size: use a few block shapes for all sizes of matrices, to share compiled programs.
            Up to three quarters of the last chunk, or whole chunks, are then padding. On a CPU and
            without `chunk_rows`, small matrices have such shapes, too: to compile takes longer than
            to cluster them.
          **options: options of `Setting`.

        Raises:
          ValueError: the features are not a matrix of numbers.
          FileNotFoundError: a shard is absent.
        """
        self._source = sources.open_source(features)
        self.n, self.d = self._source.shape
        if self.n >= 2**31:
            raise ValueError(f"features have n = {self.n} rows: give fewer than 2^31 rows")
        self.mesh = mesh = _make_mesh() if mesh is None else mesh
        platform = mesh.devices.flat[0].platform
        small = platform == "cpu" and chunk_rows is None and self.n * self.d * k <= _SMALL_WORK
        self.block_rows, chunk = choose_blocks(
            (self.n, self.d), k, mesh, chunk_rows=chunk_rows, any_size=any_size or small
        )
        self.block_count = -(-self.n // self.block_rows)
        self.setting = Setting(mesh, chunk, precision=_chosen(precision, platform), **options)
        self.frame = Frame(np.zeros(self.d, np.float32), np.zeros(self.d, np.float32))
        self._sharding = NamedSharding(mesh, P("data"))
        # Streaming has two blocks in memory, too.
        self.resident = self._source.in_memory(mesh) or self.block_count <= 2
        self.weights: list[Shaped[Array, " rows"]] | None = None
        self._kept: list[Prepared] = []

    def describe(self) -> str:
        """Returns a line with the size, and whether the rows stay in memory."""
        size = self.n * self.d * self._source.dtype.itemsize
        where = "resident" if self.resident else f"streamed, {self.block_rows:,} rows at a time"
        return (
            f"{self.n:,} x {self.d:,} {self._source.dtype.name} ({size / 1e6:,.0f} MB), {where}, "
            f"{self.mesh.size} {self.setting.platform} device(s)"
        )

    def valid(self, number: int) -> np.int32:
        """Returns the number of rows in a block that are not padding."""
        return np.int32(min(self.n - number * self.block_rows, self.block_rows))

    def weigh(self, weights: Float32[np.ndarray, " n"]) -> None:
        """Sets the weights of the rows. Call it before `look_from`."""
        self.weights = self.split(weights)

    def look_from(self, frame: Frame) -> None:
        """Sets how rows are prepared. With components, `d` becomes their number."""
        self.frame = frame
        if frame.components is not None:
            self.d = len(frame.origin)
            self.resident |= self._may_keep_reduced()
        if self.resident:
            self._kept = self.for_each_raw(self._prepare)

    def _may_keep_reduced(self) -> bool:
        if self.setting.platform == "cpu":
            return 4 * self.n * self.d <= _REDUCED_BYTES * jax.process_count()
        return sources.fits((self.n, self.d), self.mesh)

    def for_each(self, run: Callable[[int, Prepared], _T]) -> list[_T]:
        """Returns `run(number, block)` for each prepared block."""
        if self.resident:
            return [run(number, block) for number, block in enumerate(self._kept)]
        return self.for_each_raw(lambda number, block: run(number, self._prepare(number, block)))

    def _prepare(self, number: int, block: Shaped[Array, "rows d"]) -> Prepared:
        prepared = device.prepare(self.setting, block, self.frame, self.valid(number))
        if self.weights is None:
            return prepared
        return dataclasses.replace(prepared, weight=self.weights[number])

    def for_each_raw(self, run: Callable[[int, Shaped[Array, "rows d"]], _T]) -> list[_T]:
        """Returns `run(number, block)` for each block, as it was read.

        During the computation on one block the next is read, but no further ones.
        """
        results = []
        for number, block in enumerate(self._read()):
            results.append(run(number, block))
            del block
            jax.block_until_ready(results[-1])
        return results

    def _read(self) -> Iterator[Shaped[Array, "rows d"]]:
        def place(number: int) -> Shaped[Array, "rows d"]:
            shape = (self.block_rows, self._source.shape[1])
            return self._source.place(number * self.block_rows, shape, self._sharding)

        if not self._source.has_to_be_read:
            yield from map(place, range(self.block_count))
            return
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            coming = pool.submit(place, 0)
            for number in range(1, self.block_count + 1):
                block = coming.result()
                if number < self.block_count:
                    coming = pool.submit(place, number)
                yield block
                del block

    def take(self, numbers: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m d"]:
        """Returns the rows with these numbers, prepared without subtraction of the origin."""
        return device.prepare_few(self.setting, self.take_raw(numbers), self.frame)

    def take_raw(self, numbers: Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m d"]:
        """Returns the rows with these numbers, as they were read."""
        return self._source.take(numbers)

    def zeros(self, dtype: Any, fill: int = 0) -> list[Shaped[Array, " rows"]]:
        """Returns an array of one `fill` value per row, for every block."""
        shape = (self.block_rows,)
        return [
            jnp.full(shape, fill, dtype, device=self._sharding) for _ in range(self.block_count)
        ]

    def join(self, parts: Sequence[Shaped[Array, "rows ..."]]) -> Shaped[np.ndarray, "n ..."]:
        """Joins per-block arrays into one array [n, ...] on every host."""
        return np.concatenate([self.fetch(part) for part in parts])[: self.n]

    def split(self, joined: Shaped[np.ndarray, " n"]) -> list[Shaped[Array, " rows"]]:
        """Splits an array [n] into blocks on the devices: the inverse of `join`."""
        padded = np.zeros(self.block_count * self.block_rows, joined.dtype)
        padded[: self.n] = joined
        return [
            jax.make_array_from_callback(
                block.shape, self._sharding, lambda index, block=block: block[index]
            )
            for block in np.split(padded, self.block_count)
        ]

    def fetch(self, array: Shaped[Array, "..."]) -> Shaped[np.ndarray, "..."]:
        """Returns the whole array on every host."""
        return sources.fetch(array, self.mesh)

    def locate(self, row: int, column: int) -> tuple[str, Any]:
        """Returns the place of a row, for messages, and its stored value in a column."""
        return self._source.locate(row, column)


def choose_blocks(
    shape: tuple[int, int],
    k: int,
    mesh: Mesh,
    *,
    chunk_rows: int | None = None,
    any_size: bool = False,
) -> tuple[int, int]:
    """Returns the rows of a block, over all devices of the mesh, and of a chunk, for k centroids.

    Args:
      shape: (n, d) of the matrix.
      k: number of centroids.
      mesh: as in `fit`.
      chunk_rows: as in `fit`.
      any_size: as in `Rows`.
    """
    platform = mesh.devices.flat[0].platform
    if chunk_rows is None:
        chunk_rows = 1 << max((_CHUNK_BYTES[platform] // (4 * max(k, 1))).bit_length() - 1, 7)
    most = max(_BLOCK_BYTES[platform] // (4 * shape[1]), 1)
    part = -(-shape[0] // mesh.size)
    if any_size:
        chunk_count, chunk = _few_shapes(part, most, int(chunk_rows))
    else:
        chunk_count, chunk = _equal_chunks(part, most, int(chunk_rows))
        chunk += -chunk % _CHUNK_MULTIPLE[platform]
    return chunk_count * chunk * mesh.size, chunk


def _equal_chunks(rows: int, most: int, chunk_rows: int) -> tuple[int, int]:
    """Returns chunks per block and rows per chunk of a device: equal, for little padding."""
    part = -(-rows // -(-rows // most))
    chunk_count = -(-part // chunk_rows)
    return chunk_count, -(-part // chunk_count)


def _few_shapes(rows: int, most: int, chunk_rows: int) -> tuple[int, int]:
    """As `_equal_chunks`, but with powers of 4 rows up to a chunk, then powers of 2 chunks."""
    chunk_rows = min(chunk_rows, most)
    if rows > chunk_rows:
        chunk_count = 1 << (-(-rows // chunk_rows) - 1).bit_length()
        return min(chunk_count, most // chunk_rows), chunk_rows
    fours = ((-(-rows // _FEWEST_ROWS) - 1).bit_length() + 1) // 2
    return 1, min(_FEWEST_ROWS * 4**fours, chunk_rows)


def _make_mesh() -> Mesh:
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)


def _chosen(precision: str, platform: str) -> str:
    """Returns the precision that "auto" means on this platform."""
    if precision != "auto":
        return precision
    # Several hosts must make the same choice, but their CPUs may differ.
    fast = platform != "cpu" or (jax.process_count() == 1 and device.has_fast_bfloat16())
    return "exact" if fast else "float32"
