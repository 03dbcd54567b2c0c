"""The permutation set of jigsaw puzzles, and its guarantee.

The label of a puzzle is the number of its permutation. If `m` tiles are replaced by foreign ones,
the label is certain only if every two permutations differ in more than `m` places. So the minimal
Hamming distance of the set must be at least m + 1 (paper, section on Jigsaw++; 701 permutations,
two occluders, distance 3).
"""

import itertools
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from kt_jax.runs import files

TILES = 9


def make_permutations(
    count: int, *, min_distance: int, seed: int
) -> UInt8[np.ndarray, "permutations tiles"]:
    """Chooses `count` permutations of the nine tiles, pairwise at least `min_distance` apart.

    The search is greedy over all 9! permutations. Each step takes the permutation that agrees least
    with those already chosen. This gives the set of maximal average distance of the 2016 paper,
    which uses every tile at every position almost equally often. The seed breaks ties.

    Raises:
      ValueError: an argument is out of range, or the search finds no such set.

    >>> make_permutations(2, min_distance=9, seed=0).shape
    (2, 9)
    """
    if not 2 <= count <= 362_880:
        raise ValueError(f"count of permutations = {count}: choose from 2 to 9! = 362880.")
    if not 2 <= min_distance <= TILES:
        raise ValueError(
            f"min_distance = {min_distance}: permutations of {TILES} tiles differ in 2 to {TILES} "
            "places; it must be max_occluders + 1 or more."
        )
    pool = np.array(list(itertools.permutations(range(TILES))), np.uint8)
    # One row per tile position: comparisons then read contiguous memory.
    columns = np.ascontiguousarray(np.random.default_rng(seed).permutation(pool).T)
    agreement = np.zeros(columns.shape[1], np.int32)
    excluded = np.iinfo(np.int32).max // 2
    chosen = np.empty((count, TILES), np.uint8)
    for step in range(count):
        best = int(np.argmin(agreement))
        if agreement[best] >= excluded:
            raise ValueError(
                f"only {step} permutations at Hamming distance >= {min_distance} were found, "
                f"{count} were asked for: ask for fewer, or allow fewer occluders."
            )
        chosen[step] = columns[:, best]
        matches = np.zeros(columns.shape[1], np.uint8)
        for position, tile in enumerate(chosen[step]):
            matches += columns[position] == tile
        agreement += matches
        agreement[matches > TILES - min_distance] = excluded
    check_permutations(chosen, min_distance=min_distance)
    return chosen


def min_hamming_distance(permutations: Integer[np.ndarray, "permutations tiles"]) -> int:
    """The smallest number of places in which two rows differ."""
    least = permutations.shape[1]
    for row in range(len(permutations) - 1):
        differing = (permutations[row + 1 :] != permutations[row : row + 1]).sum(axis=1)
        least = min(least, int(differing.min()))
    return least


def describe_distances(permutations: Integer[np.ndarray, "permutations tiles"]) -> str:
    """The smallest and the mean number of places in which two rows differ.

    The paper authors' set of 701 has "Hamming distance min 3, mean 7.999".

    >>> describe_distances(np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0]]))
    'Hamming distance min 2, mean 2.333'
    """
    rows, places = permutations.shape
    # Two rows agree in a place as often as pairs of rows show the same tile there.
    shown = [np.unique(column, return_counts=True)[1] for column in permutations.T]
    agreeing = sum(int((counts * (counts - 1)).sum()) for counts in shown)
    mean = places - agreeing / (rows * (rows - 1))
    return f"Hamming distance min {min_hamming_distance(permutations)}, mean {mean:.3f}"


def check_permutations(
    permutations: Integer[np.ndarray, "permutations tiles"], *, min_distance: int
) -> None:
    """Checks the set by comparing every pair of rows.

    Raises:
      ValueError: a row is not a permutation of 0..8, or two rows are too close.
    """
    ordered = np.sort(permutations, axis=1)
    bad = np.flatnonzero((ordered != np.arange(TILES)[None]).any(axis=1))
    if bad.size:
        raise ValueError(
            f"row {bad[0]} = {permutations[bad[0]].tolist()} is not a permutation of 0..8."
        )
    distance = min_hamming_distance(permutations)
    if distance < min_distance:
        raise ValueError(
            f"the permutation set has minimal Hamming distance {distance}, {min_distance} is "
            "needed (max_occluders + 1): use another set, or allow fewer occluders."
        )


def read_permutations(path: str | Path) -> UInt8[np.ndarray, "permutations tiles"]:
    """Reads the paper authors' file: int32 header (p, 9), then p rows of nine 1-based tiles.

    Raises:
      ValueError: the size does not fit the header, or a row is not a permutation.
    """
    words = np.fromfile(path, "<i4")
    if words.size < 2 or words[1] != TILES or words.size != 2 + words[0] * words[1]:
        raise ValueError(
            f"{path}: not a permutation file; expected an int32 header (p, 9) and p x 9 int32 "
            f"values, found {words.size} values beginning {words[:2].tolist()}."
        )
    permutations = words[2:].reshape(words[0], TILES) - 1
    check_permutations(permutations, min_distance=1)
    return permutations.astype(np.uint8)


def keep(path: Path, permutations: UInt8[np.ndarray, "permutations tiles"]) -> None:
    """Writes the set. A resumed run must have the same set as before.

    Raises:
      ValueError: the file has another set.
    """
    if path.exists() and not np.array_equal(np.load(path, allow_pickle=False), permutations):
        raise ValueError(
            f"{path} is not the permutation set that the options give now: the file that they "
            "name has changed, or NumPy's generator has. Begin again with "
            f"--redo={path.parent.name}."
        )
    files.write_array(path, permutations)
