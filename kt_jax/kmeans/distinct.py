"""Which rows are distinct, by hashes: rows may have thousands of dimensions."""

import hashlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64

from kt_jax.kmeans import device, rows


def count(matrix: rows.Rows, enough: int) -> int:
    """Returns the number of distinct rows that move centroids, as prepared; at most `enough`."""
    seen: set[bytes] = set()

    def look(_: int, block: device.Prepared) -> None:
        if len(seen) < enough:
            seen.update(_digests(matrix.fetch(block.values)[matrix.fetch(block.moves)]))

    matrix.for_each(look)
    return min(len(seen), enough)


def find(values: Float32[np.ndarray, "m d"]) -> Int64[np.ndarray, " distinct"]:
    """Returns the number of the first of each set of equal rows, in increasing order.

    NumPy's `unique` would make a type with d fields for the rows in every call.
    """
    first: dict[bytes, int] = {}
    for number, digest in enumerate(_digests(values)):
        first.setdefault(digest, number)
    return np.fromiter(first.values(), np.int64, len(first))


def _digests(values: Float32[np.ndarray, "m d"]) -> Iterator[bytes]:
    """Yields a hash of each row. Equal rows have equal hashes."""
    for row in values + 0.0:  # -0.0 is 0.0
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()
