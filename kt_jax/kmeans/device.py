"""The device programs of k-means, for one block of rows at a time.

A row x is compared as `prepared(x) = l2((x - mean) components) - origin`. `origin` is in the middle
of the rows: far from it, the scores |c|^2 - 2 x.c that rank the centroids would be differences of
huge numbers. Each device scans over chunks of rows, so that the n x k distances never exist.
`valid` is the number of rows in the block that are rows of the matrix. The padding after them does
not count. If rows are divided by their lengths, rows of length 0 do not count either: they have no
direction.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int32, Shaped

# Number of rows that are added up one after another in float32. The rounding error is at most this
# number times 2^-24 of the sum of their sizes. Such sums are then added up without loss.
LANE_ROWS = 256

# Number of rows that are reduced at a time.
_TILE_ROWS = 256

# YNN computes the matrix products of k-means faster than Eigen. For the convolutions of training,
# kt_jax.machine.partition turns YNN off for the whole process.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of all programs of a call. Hashable: a static argument of the compilation."""

    mesh: Mesh
    chunk: int
    l2: bool = False
    precision: str = "float32"
    spherical: bool = False

    @property
    def platform(self) -> str:
        """Returns "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "origin", "components"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Frame:
    """The transformation of rows before they are compared."""

    mean: Any  # float32 [d]: subtracted from every row
    origin: Any  # float32 [d], or [c] with components: subtracted last
    components: Any = None  # float32 [d, c]: centred rows are multiplied by it; None: not


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "square", "rounding", "length", "counts", "near", "weight"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Prepared:
    """A block of prepared rows x, and values for x' = bfloat16(x)."""

    values: Any  # float32 [rows, d]
    square: Any  # float32 [rows]: |x|^2
    rounding: Any  # float32 [rows]: |x - x'|
    length: Any  # float32 [rows]: |x'|
    counts: Any  # bool [rows]: False for padding and rows without a direction
    near: Any = None  # bfloat16 [rows, d]: x' on a TPU, which would round all rows in every step
    weight: Any = None  # float32 [rows]: of the rows in sums; None: all have weight 1

    @property
    def moves(self) -> Any:
        """Bool [rows]: the rows that count, and do not weigh nothing."""
        return self.counts if self.weight is None else self.counts & (self.weight > 0)


def has_fast_bfloat16() -> bool:
    """Whether this CPU computes bfloat16 products faster than float32 products.

    AVX512-BF16 alone is not enough: it is faster on AMD CPUs, and slower on Intel CPUs. To measure
    it, compare "exact" with "float32" in benchmarks/kmeans.py --only=main.
    """
    described = Path("/proc/cpuinfo")  # only Linux has it
    says = described.read_text() if described.exists() else ""
    return "amx_bf16" in says or ("avx512_bf16" in says and "AuthenticAMD" in says)


def program(in_specs: Any, out_specs: Any, *, donate: tuple[int, ...] = ()) -> Any:
    """Decorates a function of one device's arrays: it then takes global arrays, and is compiled.

    Call it as f(setting, *arrays, **static), in the order of the function's own arguments.
    `f.trace` takes the same arguments, or shapes, and returns the traced program: see `jax.stages`.
    """

    def decorate(local: Any) -> Any:
        def compiled(setting: Setting, static: tuple[tuple[str, Any], ...]) -> Any:
            on_device = functools.partial(local, setting, **dict(static))
            run = jax.shard_map(
                on_device, mesh=setting.mesh, in_specs=in_specs, out_specs=out_specs
            )
            options = _CPU_OPTIONS if setting.platform == "cpu" else None
            return jax.jit(run, donate_argnums=donate, compiler_options=options)

        cached = functools.lru_cache(maxsize=64)(compiled)

        @functools.wraps(local)
        def call(setting: Setting, *arrays: Any, **static: Any) -> Any:
            return cached(setting, tuple(sorted(static.items())))(*arrays)

        def trace(setting: Setting, *arrays: Any, **static: Any) -> Any:
            return cached(setting, tuple(sorted(static.items()))).trace(*arrays)

        traceable: Any = call
        traceable.trace = trace
        return traceable

    return decorate


def prepared(rows: Shaped[Array, "rows d"], frame: Frame, *, l2: bool) -> Float32[Array, "rows c"]:
    """Returns prepared rows: float32, minus mean, divided by their length, minus origin.

    With components, rows are reduced before the division.
    """
    rows = rows.astype(jnp.float32) - frame.mean[None]
    if frame.components is not None:
        rows = _reduced(rows, frame.components)
    if l2:  # divide by the largest element first, so that small rows do not underflow
        for length in (lambda x: jnp.max(jnp.abs(x), axis=1), lengths):
            divisor = length(rows)
            rows = rows / jnp.where(divisor > 0, divisor, 1)[:, None]
    return rows - frame.origin[None]


def _reduced(
    rows: Float32[Array, "rows d"], components: Float32[Array, "d c"]
) -> Float32[Array, "rows c"]:
    """Returns rows @ components. The bits of a row do not depend on the other rows."""

    def reduce(tile: Float32[Array, "tile d"]) -> Float32[Array, "tile c"]:
        return jnp.matmul(tile, components, precision=lax.Precision.HIGHEST)

    # Fixed tiles: the order of the sums in a product depends on its shape.
    reduced = lax.map(reduce, in_lanes(rows, _TILE_ROWS))
    return reduced.reshape(-1, reduced.shape[-1])[: len(rows)]


def lengths(x: Float32[Array, "rows d"]) -> Float32[Array, " rows"]:
    """Returns the L2 norms of rows."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=1))


def rounded(x: Float32[Array, "*n d"]) -> Float32[Array, "*n d"]:
    """Returns the nearest bfloat16 numbers, as float32."""
    # reduce_precision, not two casts, which XLA may remove.
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def over_chunks(setting: Setting, run: Any, carry: Any, *arrays: Any) -> tuple[Any, Any]:
    """Scans `run(carry, *chunks)` over the arrays; returns the last carry and joined results."""
    chunks = tuple(x.reshape(-1, setting.chunk, *x.shape[1:]) for x in arrays)
    carry, out = lax.scan(lambda carry, xs: run(carry, *xs), carry, chunks)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def varying(tree: Any) -> Any:
    """Marks constants as varying between devices, for shard_map."""
    return lax.pcast(tree, "data", to="varying")


def numbers(rows: Shaped[Array, "rows ..."]) -> Int32[Array, " rows"]:
    """Returns the positions of this device's rows in the block."""
    return lax.axis_index("data") * len(rows) + jnp.arange(len(rows), dtype=jnp.int32)


def in_lanes(rows: Shaped[Array, "rows ..."], size: int) -> Shaped[Array, "lanes size ..."]:
    """Splits rows into lanes of `size` rows. The last is padded with zeros."""
    missing = -len(rows) % size
    rows = jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows
    return rows.reshape(-1, size, *rows.shape[1:])


@program(P("data"), P("data"))
def lane_sums(setting, block):
    """Returns the sums of every `LANE_ROWS` rows, [lanes, d]. The host adds these up."""

    def add(carry, rows):
        return carry, jnp.sum(in_lanes(rows.astype(jnp.float32), LANE_ROWS), axis=1)

    return over_chunks(setting, add, None, block)[1]


def value_limit(d: int) -> float:
    """Returns the largest allowed size of a feature, so that float32 sums of squares are finite."""
    return 1e15 / float(np.sqrt(d))


def prepare_few(
    setting: Setting, rows: Shaped[np.ndarray, "m d"], frame: Frame
) -> Float32[np.ndarray, "m c"]:
    """Prepares rows of the host, without subtraction of the origin."""
    still = dataclasses.replace(frame, origin=np.zeros_like(frame.origin))
    reduces = frame.components is not None and setting.platform == "cpu"
    options = _CPU_OPTIONS if reduces else None  # for the same bits as `prepare`
    prepare_them = jax.jit(prepared, static_argnames="l2", compiler_options=options)
    return np.asarray(prepare_them(rows, still, l2=setting.l2))


@program((P("data"), P(), P()), P("data"))
def prepare(setting, block, frame, valid):
    """Returns the block prepared for comparison."""
    rows = prepared(block, frame, l2=setting.l2)
    counts = numbers(block) < valid
    if setting.l2:  # a row of length 0 is exactly -origin
        counts &= jnp.any(rows != -frame.origin[None], axis=1)
    square = jnp.sum(jnp.square(rows), axis=1)
    if setting.precision != "exact":  # the bfloat16 error is not used
        return Prepared(rows, square, jnp.zeros_like(square), jnp.zeros_like(square), counts)
    near = rounded(rows)
    kept = near.astype(jnp.bfloat16) if setting.platform == "tpu" else None
    return Prepared(rows, square, lengths(rows - near), lengths(near), counts, kept)
