"""The rows of a feature matrix as equal blocks over the mesh, resident or streamed.

Both ways hand the same blocks to the same programs, so that they give the same bits. A block is
what is read at a time: every device holds an equal part of it, whole chunks of rows. The last
block ends in zero rows as padding.
"""

import concurrent.futures
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
# Of float32 on a device: little beside its memory, and much beside the sums of the clusters.
_BLOCK_BYTES = {"cpu": 64 * 2**20, "gpu": 512 * 2**20, "tpu": 512 * 2**20}
# Of the distances of a chunk: measured on a CPU, where they should stay in its cache.
_CHUNK_BYTES = {"cpu": 4 * 2**20, "gpu": 64 * 2**20, "tpu": 64 * 2**20}
# Of float32 rows of fewer dimensions, which a process keeps on a CPU: reading them again means to
# reduce them again.
_REDUCED_BYTES = 2 * 2**30
_FEWEST_ROWS = 64  # of a block, where matrices of all sizes share shapes


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
          any_size: matrices of all sizes share a few shapes of blocks, hence compiled programs; up
            to three quarters of the last chunk, or whole chunks, are padding.
          **options: of the `Setting`.

        Raises:
          ValueError: for what is no matrix of numbers; FileNotFoundError for absent shards.
        """
        self._source = sources.open_source(features)
        self.n, self.d = self._source.shape
        if self.n >= 2**31:
            raise ValueError(f"features have n = {self.n} rows: rows are counted in 31 bits")
        self.mesh = mesh = _make_mesh() if mesh is None else mesh
        platform = mesh.devices.flat[0].platform
        if chunk_rows is None:
            chunk_rows = 1 << max((_CHUNK_BYTES[platform] // (4 * max(k, 1))).bit_length() - 1, 7)
        chunk_rows = int(chunk_rows)
        most = max(_BLOCK_BYTES[platform] // (4 * self.d), 1)
        shape = _few_shapes if any_size else _equal_chunks
        chunk_count, chunk = shape(-(-self.n // mesh.size), most, chunk_rows)
        self.block_rows = chunk_count * chunk * mesh.size
        self.block_count = -(-self.n // self.block_rows)
        self.setting = Setting(mesh, chunk, precision=_chosen(precision, platform), **options)
        self.frame = Frame(np.zeros(self.d, np.float32), np.zeros(self.d, np.float32))
        self._sharding = NamedSharding(mesh, P("data"))
        # Two blocks are in memory anyway.
        self.resident = self._source.in_memory(mesh) or self.block_count <= 2
        self._kept: list[Prepared] = []

    def describe(self) -> str:
        """One line: the size, and whether the rows stay in memory."""
        size = self.n * self.d * self._source.dtype.itemsize
        where = "resident" if self.resident else f"streamed, {self.block_rows:,} rows at a time"
        return (
            f"{self.n:,} x {self.d:,} {self._source.dtype.name} ({size / 1e6:,.0f} MB), {where}, "
            f"{self.mesh.size} {self.setting.platform} device(s)"
        )

    def valid(self, number: int) -> np.int32:
        """How many rows of a block are rows of the matrix."""
        return np.int32(min(self.n - number * self.block_rows, self.block_rows))

    def look_from(self, frame: Frame) -> None:
        """Sets how rows are prepared; with components, `d` becomes their number."""
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
        """What `run(number, block)` returns for each prepared block."""
        if self.resident:
            return [run(number, block) for number, block in enumerate(self._kept)]
        return self.for_each_raw(lambda number, block: run(number, self._prepare(number, block)))

    def _prepare(self, number: int, block: Shaped[Array, "rows d"]) -> Prepared:
        return device.prepare(self.setting, block, self.frame, self.valid(number))

    def for_each_raw(self, run: Callable[[int, Shaped[Array, "rows d"]], _T]) -> list[_T]:
        """What `run(number, block)` returns for each block as it was read.

        While one block is worked on the next is read, and none after it.
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
        """The rows of these numbers, prepared but not less the origin."""
        return device.prepare_few(self.setting, self.take_raw(numbers), self.frame)

    def take_raw(self, numbers: Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m d"]:
        """The rows of these numbers as they were read."""
        return self._source.take(numbers)

    def zeros(self, dtype: Any, fill: int = 0) -> list[Shaped[Array, " rows"]]:
        """One number a row, for every block."""
        shape = (self.block_rows,)
        return [
            jnp.full(shape, fill, dtype, device=self._sharding) for _ in range(self.block_count)
        ]

    def join(self, parts: Sequence[Shaped[Array, "rows ..."]]) -> Shaped[np.ndarray, "n ..."]:
        """Block-wise numbers of the rows as one array on every host."""
        return np.concatenate([self.fetch(part) for part in parts])[: self.n]

    def split(self, joined: Shaped[np.ndarray, " n"]) -> list[Shaped[Array, " rows"]]:
        """What `join` joined, on the devices again."""
        padded = np.zeros(self.block_count * self.block_rows, joined.dtype)
        padded[: self.n] = joined
        return [
            jax.make_array_from_callback(
                block.shape, self._sharding, lambda index, block=block: block[index]
            )
            for block in np.split(padded, self.block_count)
        ]

    def fetch(self, array: Shaped[Array, "..."]) -> Shaped[np.ndarray, "..."]:
        """The whole of an array, on every host."""
        return sources.fetch(array, self.mesh)

    def locate(self, row: int, column: int) -> tuple[str, Any]:
        """Where a row stands, for messages, and its value at a column as it is there."""
        return self._source.locate(row, column)


def _equal_chunks(rows: int, most: int, chunk_rows: int) -> tuple[int, int]:
    """Chunks in a block, rows in a chunk, for a device's rows: equal, so that little is padding."""
    part = -(-rows // -(-rows // most))
    chunk_count = -(-part // chunk_rows)
    return chunk_count, -(-part // chunk_count)


def _few_shapes(rows: int, most: int, chunk_rows: int) -> tuple[int, int]:
    """As `_equal_chunks`, but powers of 4 rows up to a chunk, then powers of 2 chunks."""
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
    """What "auto" means here."""
    if precision != "auto":
        return precision
    # Several hosts must choose alike, and their CPUs may differ.
    fast = platform != "cpu" or (jax.process_count() == 1 and device.has_fast_bfloat16())
    return "exact" if fast else "float32"
